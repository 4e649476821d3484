"""Which actions can be best at some price: by hand, by a slow scan over pairs and by a linear programme per action."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest
from scipy.optimize import linprog

from marca_common.errors import UserError
from marca_measures.hull import candidates, chain, pareto


def _advantage(q: np.ndarray, c: np.ndarray, action: int) -> float:
    """By how much an action can beat the best other one at any prices ≥ 0 (at most 1)."""
    others = np.delete(np.arange(len(q)), action)
    rows = np.column_stack([c[action] - c[others], np.ones(len(others))])
    solved = linprog(
        [*np.zeros(c.shape[1]), -1.0], rows, q[action] - q[others], bounds=[(0, None)] * c.shape[1] + [(None, 1)]
    )
    return float(solved.x[-1])


@pytest.mark.parametrize("services", [1, 2])
@pytest.mark.parametrize("seed", range(4))
def test_kept_are_exactly_the_actions_that_some_price_makes_best(services: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    c = rng.gamma(1, 1, (24, services))
    q = np.sqrt(c.sum(1)) + rng.normal(0, 0.1, 24)  # many on the hull, many near it
    kept = set(candidates(q[None], c[None])[1].tolist())
    for action in range(24):
        advantage = _advantage(q, c, action)
        if abs(advantage) > 1e-7:
            assert (action in kept) == (advantage > 0), (action, advantage)


@pytest.mark.parametrize("services", [1, 2, 3])
def test_the_pareto_front_is_that_of_a_slow_scan(services: int) -> None:
    rng = np.random.default_rng(services)
    q, c = np.round(rng.gamma(2, 1, 60)), np.round(rng.gamma(2, 1, (60, services)))  # ties in value and in cost
    front = []
    for a in range(60):
        no_worse = (q >= q[a]) & (c <= c[a]).all(1)
        better = (q > q[a]) | (c < c[a]).any(1) | (np.arange(60) < a)
        if not (no_worse & better).any():
            front.append(a)
    assert sorted(pareto(q, c).tolist()) == front
    if services == 3:
        assert sorted(candidates(q[None], c[None])[1].tolist()) == front


def test_of_equals_the_first_is_kept() -> None:
    for services in (1, 2, 3):
        counts, joint = candidates(np.ones((2, 150)), np.ones((2, 150, services)))
        assert counts.tolist() == [1, 1]
        assert joint.tolist() == [0, 0]
    rng = np.random.default_rng(0)
    c = np.repeat([2.0, 1.0], 100)
    found = chain(c, c)
    assert found.tolist() == [100, 0]
    q = rng.permutation(200).astype(float)
    assert chain(q, np.ones(200)).tolist() == [int(np.argmax(q))]  # of equal cost the best


def test_a_dominated_action_hides_behind_no_rounding_of_sums() -> None:
    q, c = np.array([1.0, 1.0]), np.array([[1.0, 1e-17], [1.0, 0.0]])  # both sums are 1
    assert pareto(q, c).tolist() == [1]
    assert pareto(q[::-1].copy(), c[::-1].copy()).tolist() == [0]


def test_a_tie_at_every_price_where_it_is_best_is_kept() -> None:
    q, c = np.array([2.0, 2.0, 2.0]), np.array([[1.0, 0.0], [0.0, 1.0], [0.5, 0.5]])
    assert sorted(candidates(q[None], c[None])[1].tolist()) == [0, 1, 2]


def test_prices_as_high_as_the_closest_costs_ask_for_are_looked_at() -> None:
    # each saves a thousandth of a core-ms in the second service: best from λ = 1000 and from λ = 2000 on
    q, c = np.array([3.0, 2.0, 0.0]), np.array([[1.0, 1.0], [1.0, 0.999], [1.0, 0.998]])
    assert candidates(q[None], c[None])[1].tolist() == [2, 1, 0]


@pytest.mark.parametrize("services", [1, 2])
def test_more_vertices_than_expected_all_fit(services: int) -> None:
    cost = np.arange(1.0, 201.0)
    c = np.stack([cost, np.zeros(200)][:services], axis=1)
    counts, joint = candidates(np.tile(np.sqrt(cost), (4, 1)), np.tile(c, (4, 1, 1)))
    assert counts.tolist() == [200] * 4
    assert joint.tolist() == list(range(200)) * 4


@pytest.mark.parametrize(
    "function, q, c, complaint",
    [
        (chain, (2, 2), (4,), "q: got shape (2, 2); expected (any)"),
        (chain, (4,), (3,), "c: got shape (3); expected (4)"),
        (pareto, (2, 2), (2, 2), "q: got shape (2, 2); expected (any)"),
        (pareto, (4,), (3, 2), "c: got shape (3, 2); expected (4, any)"),
        (candidates, (4,), (4, 1), "q: got shape (4); expected (any, any)"),
        (candidates, (2, 3), (2, 4, 1), "c: got shape (2, 4, 1); expected (2, 3, any)"),
        (candidates, (2, 0), (2, 0, 1), "c: got shape (2, 0, 1); expected at least one joint action and one service"),
        (candidates, (2, 3), (2, 3, 0), "c: got shape (2, 3, 0); expected at least one joint action and one service"),
    ],
)
def test_shapes_that_do_not_fit_are_named(function: Any, q: Any, c: Any, complaint: str) -> None:
    with pytest.raises(UserError) as refused:
        function(np.ones(q), np.ones(c))
    assert str(refused.value) == re.sub(r"shape \((\d)\)", r"shape (\1,)", complaint)
