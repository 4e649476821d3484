"""The static strategy: a mixture for everybody, and the rule that steps it down."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from marca_common.protocols import Measurement
from marca_loop.static_strategy import DowngradeRule, StaticPolicy, downgrade_mixtures
from marca_measures.static_mixture import static_mixture


def test_the_policy_draws_the_mixture_of_its_level() -> None:
    # cheap (1 | 1, 1), retrieval-heavy (4 | 4, 1), ranking-heavy (3 | 1, 3): half and half fills the budget (2.5, 1).
    values, costs = np.array([1.0, 4.0, 3.0]), np.array([[1.0, 1.0], [4.0, 1.0], [1.0, 3.0]])
    levels = [static_mixture(values, costs, np.array([2.5, 1.0])), static_mixture(values, costs, np.array([1.0, 1.0]))]
    rule = DowngradeRule(np.array([60.0, 60.0]), levels=2, patience=2, headroom=0.8)
    policy = StaticPolicy(levels, rule, np.random.default_rng(0))
    drawn = policy.decide(np.zeros(40_000), np.zeros(2))
    assert np.bincount(drawn, minlength=3)[2] == 0
    assert np.mean(drawn == 1) == pytest.approx(0.5, abs=0.01)
    rule.step(measured(61, 10))
    assert (policy.decide(np.zeros(100), np.zeros(2)) == 0).all()


def measured(*cpu: Any) -> Any:
    return Measurement(0, np.datetime64("2026-01-01"), "idc0", 1.0, np.array(cpu), 0.0, np.zeros(2))


def test_the_rule_steps_down_at_once_and_up_with_patience() -> None:
    rule = DowngradeRule(np.array([60.0, 60.0]), levels=3, patience=2, headroom=0.8)
    minutes = [(50, 61), (70, 10), (90, 90), (50, 10), (40, 10), (40, 10), (np.nan, np.nan), (40, 47)]
    levels = []
    for cpu in minutes:
        assert (rule.step(measured(*cpu)) == 0).all()  # it sets no price
        levels.append(rule.in_force)
    assert levels == [1, 2, 2, 2, 2, 1, 1, 1]


def test_a_level_acts_as_late_as_a_price_would() -> None:
    rule = DowngradeRule(np.array([60.0, 60.0]), levels=3, patience=2, headroom=0.8, delay=1)
    in_force = [rule.in_force]
    for cpu in [(61, 10), (50, 10), (50, 10)]:
        rule.step(measured(*cpu))
        in_force.append(rule.in_force)
    assert in_force == [0, 0, 1, 1]


def test_a_level_that_nothing_fits_takes_what_fits_at_all() -> None:
    values, costs = np.array([1.0, 4.0]), np.array([[2.0, 2.0], [4.0, 4.0]])
    low, high = downgrade_mixtures(values, costs, np.array([4.0, 4.0]), [0.1, 1.0])
    assert low.cost.max() == pytest.approx(2.002)
    assert high.actions.tolist() == [1]


@pytest.mark.parametrize(
    "cpu", [None, "60", [None, 61.0], [61.0], [np.nan, np.nan], [101.0, -1.0], [[90.0, 90.0]], 3.0]
)
def test_a_reading_that_is_none_changes_no_level(cpu: Any) -> None:
    rule = DowngradeRule(np.array([60.0, 60.0]), levels=3, patience=2, headroom=0.8)
    rule.step(measured(70, 10))
    for one in (replace(measured(), cpu=cpu), None, "nothing"):
        rule.step(one)  # type: ignore[arg-type]
    assert rule.level == (2 if cpu == [None, 61.0] else 1)
