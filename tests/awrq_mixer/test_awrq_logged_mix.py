"""The mix of joint actions that a group of states was given."""

from __future__ import annotations

from typing import Any, cast

import numpy as np
import pandas as pd
import pytest

from awrq_mixer.anchoring.anchor import Anchor
from awrq_mixer.anchoring.evidence import _features, in_turn
from awrq_mixer.anchoring.logged_mix import PRIOR, LoggedMix
from awrq_mixer.serving.stack_scorer import Member
from awrq_mixer.training.stack_weights import held_out
from marca_common.requests import RequestSpec

SPEC = RequestSpec.model_validate(
    {
        "state": {"place": "category"},
        "agents": {"all": ["b1", "b2"]},
        "sizes": {"b1": 2, "b2": 2},
        "results": [],
        "reward": "money",
        "timestamp": None,
        "propensity": None,
    }
)


def of_rows(mix: LoggedMix, rows: np.ndarray) -> np.ndarray:
    """The mix of each row's group, (K, A)."""
    mixes, own = mix.among(rows)
    return np.asarray(mixes[own])


def test_a_mix_by_hand() -> None:
    rows = pd.DataFrame({"place": ["x", "x", "x", "y"], "b1": [0, 0, 1, 1], "b2": [0, 0, 1, 1]})
    mix = of_rows(LoggedMix.of(rows, SPEC, np.zeros(4)), np.array([0, 3]))
    first = (2 + PRIOR * 0.5) / (3 + PRIOR)  # of x's rows take 0, half of all rows do; the same for both sub-actions
    alone = PRIOR * np.array([first**2, first * (1 - first), first * (1 - first), (1 - first) ** 2])
    counted = np.array([2, 0, 0, 1])
    assert mix[0] == pytest.approx((alone + counted) / (3 + PRIOR))
    assert mix.sum(axis=1) == pytest.approx(1)
    assert mix[1, 3] > mix[0, 3]


def test_an_expectation_is_the_mean_over_the_mix() -> None:
    rng = np.random.default_rng(5)
    rows = pd.DataFrame(
        {"place": rng.choice(list("xyz"), 60), "b1": rng.integers(0, 2, 60), "b2": rng.integers(0, 2, 60)}
    )
    mix, values = LoggedMix.of(rows, SPEC, np.zeros(4)), rng.normal(size=4)
    assert mix.expected(values) == pytest.approx(of_rows(mix, np.arange(60)) @ values)


def test_with_many_rows_a_mix_is_what_the_group_got_even_where_sub_actions_go_together() -> None:
    rng = np.random.default_rng(0)
    both = rng.integers(0, 2, 20_000)
    rows = pd.DataFrame({"place": rng.choice(["x", "y"], len(both)), "b1": both, "b2": both})
    mix = of_rows(LoggedMix.of(rows, SPEC, np.zeros(4)), np.array([0, 1]))
    assert mix == pytest.approx(np.tile([0.5, 0, 0, 0.5], (2, 1)), abs=0.02)


def test_many_categories_are_told_apart_by_what_they_got() -> None:
    rng = np.random.default_rng(1)
    place = rng.integers(0, 40, 40_000)
    taken = np.where(rng.random(len(place)) < 0.8, place % 2, rng.integers(0, 2, len(place)))
    rows = pd.DataFrame({"place": place.astype(str), "b1": taken, "b2": rng.integers(0, 2, len(place))})
    mix = of_rows(LoggedMix.of(rows, SPEC, np.array([0.0, 0.0, 1.0, 1.0])), np.arange(len(rows)))
    assert mix[place % 2 == 1][:, 2:].sum(axis=1) == pytest.approx(0.9, abs=0.02)
    assert mix[place % 2 == 0][:, 2:].sum(axis=1) == pytest.approx(0.1, abs=0.02)


def test_what_is_said_of_held_out_rows_is_that_of_each_row_by_itself() -> None:
    """Rows come by state in chunks, mixes by group: a row must meet its own state, action and group again."""
    rng = np.random.default_rng(2)
    spec = SPEC.model_copy(update={"state": {"place": "category", "size": "numeric"}})
    rows = pd.DataFrame({name: rng.integers(0, 2, 900) for name in ("b1", "b2")})
    rows = rows.assign(place=rng.choice(list("xyz"), 900), size=rng.integers(0, 200, 900) / 7, money=rng.random(900))

    def values(states: pd.DataFrame) -> np.ndarray:
        steps = np.outer(states["size"].to_numpy(), np.arange(4)) + states["place"].map(ord).to_numpy()[:, None]
        return np.asarray(2 + np.sin(steps), np.float32)

    member = Member(cast(Any, None), 1e-3, np.array([0.1, -0.1, 0.2, 0.0], np.float32))
    found = held_out({"one": member}, {"one": values}, rows, spec)
    level, departure = member.shapes(values(rows))
    joint = spec.joint_index(rows)
    expected = of_rows(LoggedMix.of(rows, spec, member.centre), np.arange(900))
    foreseen = (expected * departure).sum(axis=1)
    assert len(np.unique(expected.round(9), axis=0)) > 10
    np.testing.assert_allclose(found.levels[:, 0], level - level.mean(), atol=1e-5)
    np.testing.assert_allclose(found.foreseen[:, 0], foreseen, atol=1e-6)
    np.testing.assert_allclose(found.departures[:, 0], departure[np.arange(900), joint] - foreseen, atol=1e-6)

    basis = np.linalg.qr(rng.normal(size=(4, 2)))[0].T.astype(np.float32)
    anchor = Anchor(member.floor, member.centre, basis, np.ones(3, np.float32), 1.0, 0.25, np.zeros(4, np.float32))
    logged, features, by_mix, _, _ = _features(values, anchor, rows, spec, in_turn)
    components = departure @ basis.T
    along = components * (basis[:, joint].T - expected @ basis.T)
    rest = departure[np.arange(900), joint] - foreseen - along.sum(axis=1)
    np.testing.assert_allclose(logged, level - 0.25, atol=1e-6)
    np.testing.assert_allclose(by_mix, foreseen, atol=1e-6)
    np.testing.assert_allclose(features, np.column_stack([along, rest]), atol=1e-6)
