"""Eq. 17 and the asymmetric default against numbers worked out by hand."""

import re
from dataclasses import fields
from typing import Any

import numpy as np
import pytest

from mpc_balancer.config import ObjectiveConfig
from mpc_balancer.planning.objective import Quadratic, Start, objective

TARGET = np.array([60.0])


def start(cpu: float = 58.0, before: float = 57.0, unit: float = 0.5) -> Any:
    return Start(np.array([cpu]), np.array([before]), np.array([unit]))


def value(config: Any, path: Any, plan: Any, begin: Any) -> Any:
    path = np.array(path, float).reshape(1, -1, 1)
    return float(objective(config, TARGET, begin, path, np.array(plan, float).reshape(1, -1, 1)).value[0])


def test_paper_per_step() -> None:
    config = ObjectiveConfig(mode="paper", alpha=0.4, beta=8, reading="per_step")
    # i=0: (58-60)² = 4, under budget. i=1: .4·(63-60)² + 8·.4·(63-58)² = 3.6 + 80. i=2: .16·(59-60)² = .16
    assert value(config, [63, 59], [0.5, 0.5], start()) == pytest.approx(4 + 3.6 + 80 + 0.16)


def test_paper_whole_horizon() -> None:
    config = ObjectiveConfig(mode="paper", alpha=0.4, beta=8, reading="whole_horizon")
    # once above anywhere, every ΔC counts: i=0 8·(58-57)² = 8; i=1 80; i=2 8·.16·(59-63)² = 20.48
    assert value(config, [63, 59], [0.5, 0.5], start()) == pytest.approx(4 + 3.6 + 0.16 + 8 + 80 + 20.48)
    assert value(config, [59, 58], [0.5, 0.5], start()) == pytest.approx(4 + 0.4 * 1 + 0.16 * 4)


def test_paper_starts_above_budget() -> None:
    config = ObjectiveConfig(mode="paper", alpha=0.4, beta=8, reading="per_step")
    # i=0: (64-60)² + 8·(64-57)² = 16 + 392; i=1: .4·(50-60)² = 40, below: no β
    assert value(config, [50], [0.5], start(cpu=64.0)) == pytest.approx(16 + 392 + 40)


def test_asymmetric() -> None:
    config = ObjectiveConfig(mode="asymmetric", alpha=0.5, over_weight=3, rise_weight=2, move_weight=0.01)
    # i=1: .5·3·(62-60)² + .5·2·(62-58)² + .5·.01·(10)² ; i=2: .25·(57-60)² + .25·.01·0
    expected = 0.5 * 3 * 4 + 0.5 * 2 * 16 + 0.5 * 0.01 * 100 + 0.25 * 9
    assert value(config, [62, 57], [0.6, 0.6], start()) == pytest.approx(expected)


def test_falls_above_the_target_are_free_by_default() -> None:
    config = ObjectiveConfig(mode="asymmetric", alpha=1.0, over_weight=1, rise_weight=5, move_weight=0)
    assert value(config, [62], [0.5], start(cpu=80.0)) == pytest.approx(4.0)


@pytest.mark.parametrize(
    "options",
    [
        {"mode": "paper", "reading": "per_step"},
        {"mode": "paper", "reading": "whole_horizon"},
        {"mode": "asymmetric", "rise_weight": 1.5, "move_weight": 0.02},
    ],
)
def test_derivatives_match_differences(options: Any) -> None:
    generator = np.random.default_rng(0)
    config = ObjectiveConfig(alpha=0.7, beta=3, **options)
    begin = Start(np.array([59.0, 66.0]), np.array([57.0, 63.0]), np.array([0.4, 0.6]))
    target, path, plan = np.array([60.0, 62.0]), 55 + 12 * generator.random((1, 4, 2)), generator.random((1, 4, 2))
    exact = objective(config, target, begin, path, plan)
    for index in np.ndindex(1, 4, 2):
        for name, array in (("by_cpu", path), ("by_unit", plan)):
            up, down = array.copy(), array.copy()
            up[index] += 1e-5
            down[index] -= 1e-5
            pair = [(up, plan), (down, plan)] if name == "by_cpu" else [(path, up), (path, down)]
            high, low = (objective(config, target, begin, *one).value[0] for one in pair)
            assert getattr(exact, name)[index] == pytest.approx((high - low) / 2e-5, rel=1e-4, abs=1e-4)


def test_wrong_shapes_raise() -> None:
    with pytest.raises(ValueError, match="fit together"):
        objective(ObjectiveConfig(), TARGET, start(), np.zeros((1, 3, 2)), np.zeros((1, 3, 1)))


def test_the_target_itself_counts_as_above_it() -> None:
    config = ObjectiveConfig(mode="asymmetric", alpha=0.5, over_weight=3, rise_weight=2, move_weight=0)
    found = objective(config, TARGET, start(), np.array([[[60.0], [60.0], [59.0]]]), np.full((1, 3, 1), 0.5))
    assert found.value[0] == pytest.approx(0.5 * 2 * (60 - 58) ** 2 + 0.125 * 1)
    assert found.level_weight[0, :, 0] == pytest.approx([0.5 * 3, 0.25 * 3, 0.125])
    assert found.rise_weight[0, :, 0] == pytest.approx([0.5 * 2, 0, 0])  # a standstill is no rise
    small = objective(config, TARGET, start(cpu=60.0), np.array([[[60.5], [60.25]]]), np.full((1, 2, 1), 0.5))
    assert small.rise_weight[0, :, 0] == pytest.approx([0.5 * 2, 0])
    paper = ObjectiveConfig(mode="paper", alpha=0.4, beta=8, reading="per_step")
    # i=0: at the target, 8·(60-57)²; i=1: .4·(59-60)², below it; i=2: .16·8·(60-59)²
    assert value(paper, [59, 60], [0.5, 0.5], start(cpu=60.0)) == pytest.approx(72 + 0.4 + 1.28)


@pytest.mark.parametrize("path, counts", [([59, 60], True), ([60, 59], True), ([59, 58], False)])
def test_the_whole_horizon_counts_once_any_step_reaches_the_target(path: Any, counts: bool) -> None:
    config = ObjectiveConfig(mode="paper", alpha=0.5, beta=8, reading="whole_horizon")
    level = (58 - 60) ** 2 + 0.5 * (path[0] - 60) ** 2 + 0.25 * (path[1] - 60) ** 2
    change = (58 - 57) ** 2 + 0.5 * (path[0] - 58) ** 2 + 0.25 * (path[1] - path[0]) ** 2
    assert value(config, path, [0.5, 0.5], start()) == pytest.approx(level + 8 * change * counts)


def test_the_whole_horizon_begins_with_the_measured_state() -> None:
    config = ObjectiveConfig(mode="paper", alpha=0.5, beta=8, reading="whole_horizon")
    assert value(config, [59], [0.5], start(cpu=60.0)) == pytest.approx(8 * 9 + 0.5 + 0.5 * 8)


def test_an_unknown_earlier_minute_counts_as_no_change() -> None:
    config = ObjectiveConfig(mode="paper", alpha=0.4, beta=8, reading="per_step")
    assert value(config, [50], [0.5], start(cpu=64.0, before=float("nan"))) == pytest.approx(16 + 40)


@pytest.mark.parametrize("mode, moves", [("paper", 0.0), ("asymmetric", 1e4)])
def test_moves_of_prices_cost_in_the_asymmetric_mode_only(mode: Any, moves: float) -> None:
    config = ObjectiveConfig(mode=mode, alpha=0.5, move_weight=0.02)
    path, plan = np.array([[[60], [60]]] * 2), np.array([[[0.5], [0.5]], [[0.7], [0.4]]])
    found = objective(config, TARGET, start(), path, plan)
    weight = moves * 0.02
    assert found.move_weight == pytest.approx([0.5 * weight, 0.25 * weight])
    assert found.value[1] - found.value[0] == pytest.approx(0.5 * weight * 0.04 + 0.25 * weight * 0.09)
    assert found.by_unit[1, :, 0] == pytest.approx([weight * (0.2 + 0.15), -weight * 0.15])
    assert found.path.tolist() == path.tolist()
    assert found.path.dtype == np.float64


def test_plans_are_picked_and_joined() -> None:
    generator = np.random.default_rng(1)
    config, begin = ObjectiveConfig(), Start(np.array([59.0, 66.0]), np.array([57.0, 63.0]), np.array([0.4]))
    path, plan = 55 + 12 * generator.random((3, 4, 2)), generator.random((3, 4, 1))

    def of(rows: Any) -> Any:
        return objective(config, np.array([60.0, 62.0]), begin, path[rows], plan[rows])

    everything = of(slice(None))
    for found, expected in (
        (everything.pick([2, 0]), of([2, 0])),
        (everything.pick(np.array([True, False, True])), of([0, 2])),
        (of([1]).join(of([2, 0])), of([1, 2, 0])),
    ):
        for one in fields(Quadratic):
            assert np.array_equal(getattr(found, one.name), getattr(expected, one.name)), one.name


@pytest.mark.parametrize(
    "shapes",
    [
        ((3, 2), (3, 1)),
        ((1, 3, 2), (1, 3, 1)),
        ((1, 3, 1), (3, 1)),
        ((3, 1), (3, 1, 1)),
        ((2, 3, 1), (1, 3, 1)),
        ((1, 2, 1), (1, 3, 1)),
    ],
)
def test_arrays_that_do_not_fit_together_are_named(shapes: Any) -> None:
    path, plan = (np.zeros(shape) for shape in shapes)
    with pytest.raises(
        ValueError, match=re.escape(f"path {shapes[0]}, plan {shapes[1]}, target (1,) do not fit together")
    ):
        objective(ObjectiveConfig(), TARGET, start(), path, plan)


@pytest.mark.parametrize("cpu, before, unit", [(2, 1, 1), (1, 2, 1), (2, 2, 1), (1, 1, 2)])
def test_a_start_that_does_not_fit_is_named(cpu: int, before: int, unit: int) -> None:
    begin = Start(np.ones(cpu), np.ones(before), np.ones(unit))
    complaint = f"start: CPU ({cpu},), prices ({unit},) do not fit the path and the plan"
    with pytest.raises(ValueError, match=re.escape(complaint)):
        objective(ObjectiveConfig(), TARGET, begin, np.zeros((1, 3, 1)), np.zeros((1, 3, 1)))
