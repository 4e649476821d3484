"""The mechanism: auction by hand, all-actions kernel against the slow version, logged requests against the truth."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from cascade_world.mechanism.cascade import STATS, _auction, _draw_candidates, _room, class_sums, serve_requests
from cascade_world.mechanism.truth import _kernel_arrays
from cascade_world.request_luck import GOLDEN, NORMALS, mix64
from tests.reference.cascade_reference import auction_by_hand, expected_outcome

CELLS = ["q", "p0", "clicks", "spend", "spend2", "impressions", "retrieved", "preranked"]


def candidates_of(world: Any, seed: int, c: int) -> list[dict[str, Any]]:
    par = world.parameters
    found = _room(par)
    n = _draw_candidates(np.uint64(seed), c, par, found)
    return [
        {
            "channel": int(np.searchsorted(found.start, i, side="right")) - 1, "score": found.score[:, i],
            "pre": found.pre[:, i], "click": found.click[i], "bid": found.bid[i], "estimate": found.estimate[:, i],
        }
        for i in range(n)
    ]  # fmt: skip


def test_auction_by_hand() -> None:
    candidates, expected = auction_by_hand()
    click = np.array([one["click"] for one in candidates])
    bid = np.array([one["bid"] for one in candidates])
    chance, price = np.empty(3), np.empty(3)
    shown, predicted = _auction(
        np.arange(3), 3, np.array([1.0, 0.5]), click, click, bid, click * bid, 2.0, 0.0, chance, price
    )
    assert shown == 2
    assert price[:2] == pytest.approx([40.0, 5.0])
    assert chance[:2] == pytest.approx([0.1, 0.1])
    assert predicted == pytest.approx(4.5)
    slow = expected_outcome(candidates, [3], 0, 3, 0, [1.0, 0.5], 2.0, 0.0)
    assert {name: slow[name] for name in expected} == pytest.approx(expected)


def test_all_actions_kernel_equals_the_slow_version(world: Any) -> None:
    """Every joint action of two requests of two classes, bit sets and all, against plain sorting."""
    space, par = world.space, world.parameters
    arrays = _kernel_arrays(space, world.costs)
    for c in (0, 13):
        sums = np.zeros((space.n_joint, len(STATS) + arrays[0].shape[1]))
        class_sums(
            np.uint64(7), c, 3, 4, par, space.steps, space.step, space.model, space.truncations, space.cell, *arrays,
            sums,
        )  # fmt: skip
        with np.errstate(over="ignore"):
            candidates = candidates_of(world, int(mix64(np.uint64(7) + GOLDEN * np.uint64(3))), c)
        extra = par.commission * par.conversion[c] * par.basket[c]
        for a in range(0, space.n_joint, 7):
            r, t, k = space.joint[a]
            slow = expected_outcome(
                candidates, list(space.lengths[r]), int(space.model[r]), int(space.truncations[t]), int(k),
                list(par.slots), par.reserve, extra,
            )  # fmt: skip
            found = dict(zip(STATS, sums[a]))
            assert [found[name] for name in CELLS] == pytest.approx([slow[name] for name in CELLS], rel=1e-9), (c, a)


def test_cost_of_a_joint_action_by_hand(world: Any) -> None:
    """Retrieval .35 + two light channels .30 + .25 + 8 items · .34/40; ranking .25 + 8 · .38/60 + 4 · 1.05/20."""
    joint = np.ravel_multi_index([0, 1, 1, 0, 0], world.spec.shape)
    assert world.tables.retrieved[:, joint].max() == 6  # two channels of three items each
    found = world.tables.cost[0, 0, joint]
    retrieval = 0.35 + 0.30 + 0.25 + 6 * 0.34 / 40
    ranking = 0.25 + 6 * 0.38 / 60 + 4 * 1.05 / 20
    assert found == pytest.approx([retrieval, ranking], rel=1e-5)
    south = world.groups.index("south")
    assert world.cost_tables[south, 0, joint] == pytest.approx([1.15 * retrieval, 1.15 * ranking], rel=1e-5)


@pytest.mark.parametrize("sub_actions", [(0, 1, 2, 0, 1), (3, 3, 3, 1, 3)])
def test_logged_requests_agree_with_the_truth_on_average(world: Any, sub_actions: Any) -> None:
    """Two independent kernels: sampled clicks of many requests of a class against its analytic expectation."""
    joint = int(np.ravel_multi_index(list(sub_actions), world.spec.shape))
    n, c = 20_000, 5
    results = np.empty((n, 7))
    space = world.space
    serve_requests(
        np.uint64(11), 0, np.full(n, c), np.full(n, joint), world.parameters, space.lengths, space.model,
        space.truncations, space.joint, results,
    )  # fmt: skip
    tables = world.tables
    revenue = results[:, 5] + world.config.classes.commission * results[:, 4]
    for values, truth, truth_se in (
        (revenue, tables.q[c, joint], tables.q_se[c, joint]),
        (results[:, 3], tables.clicks[c, joint], 0.02 * tables.clicks[c, joint]),
        (results[:, 3] == 0, tables.p0[c, joint], 0.005),
    ):
        error = np.hypot(values.std() / np.sqrt(n), truth_se)
        assert abs(values.mean() - truth) < 4 * error
    assert results[:, 0].mean() == pytest.approx(tables.retrieved[c, joint], rel=0.02)
    assert results[:, 1].mean() == pytest.approx(tables.preranked[c, joint], rel=0.02)


def test_normal_table_has_unit_variance() -> None:
    assert NORMALS.mean() == pytest.approx(0.0, abs=1e-6)
    assert NORMALS.std() == pytest.approx(1.0, abs=1e-5)
