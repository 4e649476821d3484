"""Clocks that jump and sensors that stick: what of a stamp or a reading is believed, worked out by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from marca_common.protocols import Measurement
from mpc_balancer.config import LadderConfig
from mpc_balancer.controllers.checked_reading import Checks
from mpc_balancer.controllers.clock import Clock, instant
from mpc_balancer.controllers.stuck_sensor import StuckSensors

START = np.datetime64("2026-03-09T00:00", "s")
MINUTE = np.timedelta64(60, "s")


class TestClock:
    def run(self, stamps: Any, step_seconds: int = 60) -> tuple[Any, list[bool]]:
        clock = Clock(step_seconds)
        found = [clock.read(stamp) for stamp in stamps]
        return np.array([time for time, _ in found]), [sound for _, sound in found]

    def test_right_stamps_are_taken_as_they_are(self) -> None:
        stamps = START + MINUTE * np.arange(100)
        times, sound = self.run(stamps)
        assert all(sound)
        assert np.array_equal(times, stamps)

    @pytest.mark.parametrize("hours", [720, 25, 23, 5, 1, 0.25, -0.5, -1, -24, -720, 24 * 365 * 100])
    def test_one_wrong_stamp_costs_one_refusal(self, hours: float) -> None:
        true = START + MINUTE * np.arange(60)
        stamps = true.copy()
        stamps[20] += np.timedelta64(int(3600 * hours), "s")
        times, sound = self.run(stamps)
        assert sound.count(False) == 1
        assert np.array_equal(times[21:], true[21:])

    @pytest.mark.parametrize("hours", [-1, -0.05, -24, 720, -720])
    def test_a_clock_that_was_set_is_followed_after_one_refusal(self, hours: float) -> None:
        stamps = START + MINUTE * np.arange(60)
        stamps[20:] += np.timedelta64(int(3600 * hours), "s")
        times, sound = self.run(stamps)
        assert sound.count(False) == 1
        assert np.array_equal(times[21:], stamps[21:])

    def test_an_outage_is_no_fault(self) -> None:
        stamps = START + MINUTE * np.r_[np.arange(10), np.arange(190, 200)]
        times, sound = self.run(stamps)
        assert all(sound)
        assert np.array_equal(times, stamps)

    def test_a_stamp_delivered_twice_or_stuck_does_not_move_the_clock_for_good(self) -> None:
        true = np.arange(30)
        twice, stuck = np.insert(true, 10, 10), np.where((true > 9) & (true < 15), 9, true)
        for minutes, faults in ((twice, 1), (stuck, 5)):
            times, sound = self.run(START + MINUTE * minutes)
            assert sound.count(False) == faults
            assert np.array_equal(times[16:], START + MINUTE * minutes[16:])

    def test_a_first_stamp_that_was_wrong_is_forgotten(self) -> None:
        stamps = START + MINUTE * np.arange(10)
        for first in (np.datetime64("NaT"), START + 40_000 * MINUTE, None):
            times, sound = self.run([first, *stamps[1:]])
            assert sound.count(False) == 1
            assert np.array_equal(times[3:], stamps[3:])

    @settings(max_examples=100, deadline=None)
    @given(
        offsets=st.lists(st.integers(-(10**7), 10**7) | st.none(), max_size=12),
        start=st.sampled_from(["2026-03-09", "1900-01-01", "2199-12-31"]),
    )
    def test_after_any_stamps_five_right_ones_set_it_right(self, offsets: Any, start: str) -> None:
        clock, begin = Clock(), np.datetime64(start, "s")
        for offset in offsets:
            time, _ = clock.read(None if offset is None else begin + np.timedelta64(offset, "s"))
            assert not np.isnat(time)
        right_ones = np.datetime64("2026-06-01", "s") + MINUTE * np.arange(5)
        assert [clock.read(one)[0] for one in right_ones][-1] == right_ones[-1]

    def test_zones_are_turned_into_utc(self) -> None:
        twice = [pd.Timestamp(f"2026-10-25T0{hour}:30Z").tz_convert("Europe/Berlin") for hour in (0, 1)]
        assert twice[0].hour == twice[1].hour == 2  # the hour that the end of summer time repeats
        assert [instant(one) for one in twice] == [instant("2026-10-25T00:30"), instant("2026-10-25 01:30")]
        assert np.isnat(instant(1767571380))


def measured(minute: int, cpu: Any = (60.0, 61.0), qps: Any = 400.0, group: str = "north") -> Measurement:
    return Measurement(minute, START + minute * MINUTE, group, qps, np.array(cpu), 0.0, np.zeros(2))


class TestSensors:
    def checks(self, **options: Any) -> Checks:
        return Checks(2, 2, LadderConfig(), **options)

    def read(self, cpu: Any, minutes: int = 60, qps: Any = 400.0) -> tuple[np.ndarray, Checks]:
        """CPU as believed (T, 2) of ``cpu(minute)``."""
        checks = self.checks()
        believed = [checks.read(measured(m, cpu(m), qps), np.zeros(2)).cpu for m in range(minutes)]
        return np.array(believed), checks

    def test_one_stuck_sensor_is_noticed_while_the_other_moves(self) -> None:
        believed, checks = self.read(lambda m: np.array([61.37 if m >= 20 else 60 + np.sin(m), 60 + np.cos(m)]))
        assert np.isfinite(believed[:, 1]).all()
        assert np.flatnonzero(np.isnan(believed[:, 0])).tolist() == list(range(23, 60))
        assert checks.refused["frozen"] == 37

    def test_a_sensor_of_whole_numbers_that_stays_a_few_minutes_is_no_stuck_one(self) -> None:
        generator = np.random.default_rng(0)
        load = np.round(60 + 0.8 * generator.standard_normal((2000, 2)))
        runs = max(len(run) for run in "".join("x" if a else " " for a in (np.diff(load[:, 0]) == 0)).split())
        assert runs >= 6  # seven equal readings in a row do happen
        believed, checks = self.read(lambda m: load[m], 2000)
        assert checks.refused["frozen"] <= 2
        assert np.isfinite(believed).mean() > 0.999

    def test_a_calm_night_in_whole_numbers_is_learnt(self) -> None:
        """Readings that change by one every ten minutes: doubted at first, then believed."""
        believed, _ = self.read(lambda m: np.array([20.0 + m // 10 % 2, 30.0 + (m + 5) // 10 % 2]), 600)
        assert np.isfinite(believed[200:]).all()

    def test_a_stuck_sensor_of_whole_numbers_is_noticed_within_a_quarter_of_an_hour(self) -> None:
        generator = np.random.default_rng(1)
        load = np.round(60 + 2 * generator.standard_normal((300, 2)))
        believed, _ = self.read(lambda m: np.array([load[min(m, 250), 0], load[m, 1]]), 300)
        assert np.isnan(believed[266:, 0]).all()
        assert np.isfinite(believed[:, 1]).all()

    def test_no_cpu_is_only_believed_without_traffic(self) -> None:
        assert np.isnan(self.read(lambda m: np.array([0.0, 50.0 + m / 7]))[0]).all(axis=0).tolist() == [True, False]
        idle, checks = self.read(lambda m: np.zeros(2), qps=0)
        assert (idle == 0).all()
        assert not checks.refused["cpu"]
        assert np.isnan(self.read(lambda m: np.zeros(2), qps=None)[0]).all()  # who lost the one may have lost the other

    def test_machines_at_their_limit_are_not_stuck(self) -> None:
        assert (self.read(lambda m: np.array([100.0, 100.0]))[0] == 100).all()

    def test_frozen_by_hand(self) -> None:
        sensors = StuckSensors(1, 4)
        readings = [50.1, 50.2, 50.2, 50.2, 50.2, 50.2, 50.3]
        assert [bool(sensors.update(np.array([one]))[0]) for one in readings] == [False] * 4 + [True] * 2 + [False]

    def test_another_data_centre_of_the_model_is_lost_an_unknown_name_counted(self) -> None:
        checks = self.checks(group="north", other_groups={"south"})
        assert np.isnan(checks.read(measured(0, group="south"), np.zeros(2)).cpu).all()
        assert np.isfinite(checks.read(measured(1, group="North-1"), np.zeros(2)).cpu).all()
        assert checks.refused["group"] == 2
