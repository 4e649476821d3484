"""The static strategy: a mixture for everybody, and the rule that steps it down."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest

from marca_common.protocols import Measurement
from marca_loop.scene import Profile
from marca_loop.static_strategy import (
    DowngradeRule,
    HourlyPolicy,
    StaticPolicy,
    Timetable,
    downgrade_mixtures,
    hours_of_week,
)
from marca_loop.strategies import HourlyStrategy, StaticStrategy
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


@pytest.mark.parametrize(
    ("time", "hour"),
    [
        ("2026-01-05T00:00", 0),  # a Monday
        ("2026-01-05T00:59:59", 0),
        ("2026-01-11T23:59", 167),
        ("2026-11-25T22:17", 2 * 24 + 22),
        ("1970-01-01T00:00", 3 * 24),  # the epoch was a Thursday
        ("1969-12-31T23:00", 2 * 24 + 23),
    ],
)
def test_hours_of_the_week_by_the_calendar(time: str, hour: int) -> None:
    assert hours_of_week(np.datetime64(time)) == hour
    stamp = pd.Timestamp(time)
    assert stamp.dayofweek * 24 + stamp.hour == hour


def test_the_timetable_tells_the_hour_of_the_coming_minute() -> None:
    clock = Timetable(DowngradeRule(np.array([60.0]), 2, 2, 0.8), np.datetime64("2026-01-11T23:58", "s"))
    hours = [clock.hour_of_week]
    for reading in (measured(10), measured(np.nan), measured(70)):  # a lost reading stops no clock
        assert clock.step(reading) is clock.lambda_
        hours.append(clock.hour_of_week)
    assert hours == [167, 167, 0, 0]
    assert clock.rule.in_force == 1


def test_each_hour_and_level_has_its_mixture() -> None:
    values, costs = np.arange(4.0), np.arange(1.0, 5.0)[:, None]
    one = [
        static_mixture(values, costs, np.array([k])) for k in (1.0, 2.0, 3.0, 4.0)
    ]  # only action 0, …, only action 3
    clock = Timetable(DowngradeRule(np.array([60.0]), 2, 9, 0.8), np.datetime64("2026-01-05T00:59"))
    policy = HourlyPolicy({0: [one[3], one[2]], 1: [one[1], one[0]]}, clock, np.random.default_rng(0))
    taken = [set(policy.decide(np.zeros(9), np.zeros(1)).tolist())]
    for cpu in (50, 70):
        clock.step(measured(cpu))
        taken.append(set(policy.decide(np.zeros(9), np.zeros(1)).tolist()))
    assert taken == [{3}, {1}, {0}]


def scene(qps: pd.Series, first: str, minutes: int) -> Any:
    """As much of a scene as a mixture looks at: actions worth √cost, and a budget of 100 core-ms a second."""
    costs = np.linspace(0.5, 10, 20)
    plant = SimpleNamespace(actuation_delay=0)
    return SimpleNamespace(
        world=SimpleNamespace(services=("a",), budget_percent=lambda: 60.0, config=SimpleNamespace(plant=plant)),
        traffic=SimpleNamespace(timestamps=np.datetime64(first, "s") + np.arange(minutes) * np.timedelta64(60), seed=1),
        profile=lambda group, values: Profile(qps, np.sqrt(costs), costs[:, None]),
        allowed=lambda group, qps: np.array([100 / qps]),
    )


def logged(first: str, per_hour: Any) -> pd.Series:
    """Traffic of the hours from ``first`` on, equal in each minute of an hour."""
    return pd.Series(np.repeat(per_hour, 60), pd.date_range(first, periods=60 * len(per_hour), freq="min"), dtype=float)


def first_costs(qps: pd.Series, first: str, hours: int, **settings: Any) -> dict[int, float]:
    """Core-ms per request of every hour's first mixture."""
    served, _ = HourlyStrategy(kind="static_hourly", **settings).serve(scene(qps, first, 60 * hours), "north")
    assert isinstance(served, HourlyPolicy)
    return {hour: float(levels[0].cost[0]) for hour, levels in served.mixtures.items()}


def test_an_hour_is_sized_for_its_own_traffic_in_the_log() -> None:
    monday = logged("2026-01-05", np.arange(20, 44))
    assert first_costs(monday, "2026-01-12T05:30", 2) == pytest.approx({5: 100 / 25, 6: 100 / 26, 7: 100 / 27})


def test_an_hour_that_was_not_logged_takes_that_hour_of_all_days() -> None:
    two_days = logged("2026-01-05", [*range(20, 44), *range(40, 64)])
    tuesday = first_costs(two_days, "2026-01-13T05:00", 1)
    assert tuesday == pytest.approx({29: 100 / 45})
    thursday = first_costs(two_days, "2026-01-15T05:00", 1)
    assert thursday == pytest.approx({77: 100 / 35})  # the median of 25 and 45
    assert first_costs(two_days, "2026-01-15T05:00", 1, quantile=1.0) == pytest.approx({77: 100 / 45})
    morning = logged("2026-01-05", [20, 21, 40])
    assert first_costs(morning, "2026-01-05T05:00", 1) == pytest.approx({5: 100 / 40})  # never logged: the busiest


def test_between_day_and_night_the_hours_earn_more_than_one_mixture() -> None:
    week = logged("2026-01-05", ([20] * 8 + [60] * 8 + [100] * 8) * 7)
    one, _ = StaticStrategy(kind="static").serve(scene(week, "2026-01-12", 1440), "north")
    hourly, _ = HourlyStrategy(kind="static_hourly").serve(scene(week, "2026-01-12", 1440), "north")
    assert isinstance(one, StaticPolicy)
    assert isinstance(hourly, HourlyPolicy)
    day = week.to_numpy()[:1440:60]
    worth = [hourly.mixtures[hour][0].value for hour in range(24)]
    assert min(worth) == pytest.approx(one.mixtures[0].value)  # at the peak they are the same
    assert day @ worth > 1.2 * day.sum() * one.mixtures[0].value
    spent = np.array([hourly.mixtures[hour][0].cost[0] for hour in range(24)])
    assert (day * spent <= 100 + 1e-6).all()


def test_a_flash_sale_of_one_day_is_no_ordinary_peak() -> None:
    minutes = pd.date_range("2026-01-05", periods=3 * 1440, freq="min")
    qps = pd.Series(100.0, minutes)
    for day, peak in enumerate((300.0, 310.0, 900.0)):  # an hour each, at noon
        qps.iloc[day * 1440 + 720 : day * 1440 + 780] = peak
    assert Profile(qps, np.ones(1), np.ones((1, 1))).peak_qps == pytest.approx(310)
    assert Profile(qps.iloc[:10], np.ones(1), np.ones((1, 1))).peak_qps == pytest.approx(
        100
    )  # less than a day is logged
