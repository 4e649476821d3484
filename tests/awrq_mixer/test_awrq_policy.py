"""Cached decisions against the plain scan, exact for any price."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from awrq_mixer.serving import HullPolicy
from awrq_mixer.serving.decide_kernels import scan
from marca_common.errors import UserError
from marca_measures.hull import candidates, chain, pareto


def _problem(seed: int, services: int, size: int = 12, joint: int = 60, coarse: bool = False) -> Any:
    rng = np.random.default_rng(seed)
    q, c = rng.gamma(1, 1, (size, joint)), rng.gamma(2, 1, (size, joint, services))
    return (np.round(q), np.round(c)) if coarse else (q, c)


def _policy(q: Any, c: Any) -> Any:
    states = pd.DataFrame({"name": [f"s{i}" for i in range(len(q))]})

    def rows(frame: Any) -> Any:
        return frame["name"].str[1:].astype(int).to_numpy()

    return HullPolicy.build(states, lambda f: q[rows(f)], lambda f: c[rows(f)], chunk=5, quiet=True)


def _objective(q: Any, c: Any, ids: Any, joint: Any, price: Any) -> Any:
    return q[ids, joint] - c[ids, joint] @ price


@settings(max_examples=30, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    services=st.integers(1, 3),
    coarse=st.booleans(),
    price=st.lists(st.one_of(st.just(0.0), st.floats(1e-6, 1e6)), min_size=3, max_size=3),
)
def test_cache_is_as_good_as_the_scan_at_any_price(seed: int, services: Any, coarse: Any, price: Any) -> None:
    q, c = _problem(seed, services, coarse=coarse)
    price = np.array(price[:services])
    ids = np.arange(len(q))
    chosen = _policy(q, c).decide(ids, price)
    best = _objective(q, c, ids, np.argmax(q - c @ price, axis=1), price)
    assert np.allclose(_objective(q, c, ids, chosen, price), best, rtol=1e-9, atol=1e-9 * (1 + price.max()))
    assert np.allclose(_objective(q, c, ids, scan(q, c, price), price), best, rtol=1e-12)


def test_chain_by_hand() -> None:
    q, c = np.array([1.0, 3.0, 2.0, 4.0, 4.0, 3.5]), np.array([1.0, 2.0, 1.5, 5.0, 6.0, 3.0])
    # the fifth is dearer and no better; the third lies on the line from the first to the second
    assert chain(q, c).tolist() == [0, 1, 5, 3]


def test_pareto_keeps_one_of_equals() -> None:
    q, c = np.array([1.0, 1.0, 2.0, 0.5]), np.array([[1.0, 1.0], [1.0, 1.0], [2.0, 0.5], [1.0, 2.0]])
    assert sorted(pareto(q, c).tolist()) == [0, 2]


def test_two_services_keep_only_actions_that_win_somewhere() -> None:
    q, c = _problem(4, 2, size=3, joint=200)
    counts, joint = candidates(q, c)
    prices = np.random.default_rng(0).gamma(0.3, 3, (40000, 2))
    start = 0
    for s, count in enumerate(counts):
        kept = set(joint[start : start + count].tolist())
        winners = set(np.argmax(q[s] - prices @ c[s].T, axis=1).tolist())
        assert winners <= kept
        assert count <= 2 * len(winners) + 3  # the cache is not a mere Pareto front
        start += count


def test_many_rows_and_few_rows_agree_and_frames_too() -> None:
    q, c = _problem(1, 2)
    policy = _policy(q, c)
    price = np.array([0.2, 0.1])
    ids = np.random.default_rng(0).integers(0, len(q), 500)
    one_by_one = np.concatenate([policy.decide(ids[i : i + 1], price) for i in range(len(ids))])
    assert np.array_equal(policy.decide(ids, price), one_by_one)
    assert np.array_equal(policy.decide(policy.states.iloc[ids], price), one_by_one)


def test_a_state_that_was_not_built_is_scored_on_the_fly() -> None:
    q, c = _problem(2, 1)
    states = pd.DataFrame({"name": [f"s{i}" for i in range(len(q))]})

    def rows(frame: Any) -> Any:
        return frame["name"].str[1:].astype(int).to_numpy()

    policy = HullPolicy.build(states.iloc[:6], lambda f: q[rows(f)], lambda f: c[rows(f)], quiet=True)
    asked = states.iloc[[9, 2, 9, 11]]
    expected = np.argmax(q - 0.3 * c[..., 0], axis=1)[[9, 2, 9, 11]]
    assert np.array_equal(policy.decide(asked, 0.3), expected)


def test_expected_knows_candidates_and_all_other_actions() -> None:
    q, c = _problem(3, 2)
    ids = np.repeat(np.arange(len(q)), q.shape[1])
    joint = np.tile(np.arange(q.shape[1]), len(q))
    value, cost = _policy(q, c).expected(ids, joint)
    assert np.allclose(value, q.ravel())
    assert np.allclose(cost, c.reshape(-1, 2))


def test_saved_cache_decides_the_same(tmp_path: Path) -> None:
    q, c = _problem(6, 2)
    policy = _policy(q, c)
    policy.save(tmp_path / "policy.npz")
    again = HullPolicy.load(tmp_path / "policy.npz")
    price = np.array([0.3, 0.3])
    assert np.array_equal(policy.decide(np.arange(12), price), again.decide(policy.states, price))
    with pytest.raises(UserError, match="outside the policy's cache"):
        again.decide(pd.DataFrame({"name": ["new"]}), price)


@pytest.mark.parametrize("price", [np.array([-1.0]), np.array([np.nan]), np.array([1.0, 1.0])])
def test_bad_prices_are_refused(price: Any) -> None:
    with pytest.raises(UserError, match="expected 1 finite prices"):
        _policy(*_problem(0, 1)).decide(np.array([0]), price)


def test_a_score_that_is_not_finite_is_refused() -> None:
    q, c = _problem(0, 1)
    q[3, 7] = np.nan
    with pytest.raises(UserError, match="joint action 7 is not a finite number"):
        _policy(q, c)
