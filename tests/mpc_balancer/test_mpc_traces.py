"""Recorded traffic: what is replayed exactly, what is drawn, that it doesn't tell the future, and bad traces."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from mpc_fixtures import trained_model

from benchmarks.traces import last_seconds_correlation
from marca_common.config import load_config, parse_config, to_dict
from marca_common.errors import UserError
from marca_common.files import read_json
from mpc_balancer.run import ClosedLoopConfig
from mpc_balancer.testbed.reference_traffic import Surge
from mpc_balancer.testbed.scenarios import Scenario, start_scenario
from mpc_balancer.testbed.trace_traffic import TraceConfig, trace_traffic, walk


def counts(folder: Path, values: Any, seconds: float, **settings: Any) -> TraceConfig:
    """A trace of evenly spaced counts on disk."""
    times = pd.date_range("2026-01-05", periods=len(values), freq=pd.Timedelta(seconds=seconds))
    pd.DataFrame({"timestamp": times, "value": values}).to_csv(folder / "t.csv", index=False)
    return TraceConfig(path=str(folder / "t.csv"), **settings)


def jumpy(count: int, seed: int = 0) -> np.ndarray:
    """Counts around 20,000 that jump by factors."""
    return np.asarray(np.rint(20_000 * np.exp(0.5 * np.random.default_rng(seed).standard_normal(count))))


def straight(values: np.ndarray, minutes: int, seed: int = 0) -> np.ndarray:
    """Poisson arrivals (T, 6) along straight lines between counts, as this project once drew them."""
    middle = (np.arange(6 * minutes * (len(values) - 1)) + 0.5) / 6 / minutes
    rate = np.interp(middle, np.arange(len(values)), values) / minutes / 6
    return np.asarray(np.random.default_rng(seed).poisson(rate).reshape(-1, 6), float)


def test_arrival_times_are_counted_as_they_are(tmp_path: Path) -> None:
    seconds = [0.4, 0.4, 9.999999, 10.0, 59.5, 65.0, 119.9, 120.0, 150.0]  # from 12:00:00; the third minute isn't whole
    times = pd.Timestamp("2026-01-05 12:00") + pd.to_timedelta(seconds, unit="s")
    shuffled = pd.DataFrame({"WHEN": times, "tokens": 7}).sample(frac=1, random_state=0)
    shuffled.to_csv(tmp_path / "t.csv.gz", index=False)
    config = TraceConfig(path=str(tmp_path / "t.csv.gz"), timestamp="WHEN", value=None)
    drawn = trace_traffic(config, 6, seed=0)
    np.testing.assert_array_equal(drawn.arrivals, [[3, 1, 0, 0, 0, 1], [1, 0, 0, 0, 0, 1]])
    np.testing.assert_array_equal(
        drawn.timestamps, np.array(["2026-01-05T12:00:00", "2026-01-05T12:01:00"], "datetime64[s]")
    )
    assert drawn.scale == 1.0
    np.testing.assert_array_equal(trace_traffic(config, 6, seed=1).arrivals, drawn.arrivals)


def test_counts_shorter_than_a_sub_interval_are_summed(tmp_path: Path) -> None:
    values = np.arange(130)
    drawn = trace_traffic(counts(tmp_path, values, 1.0), 4, seed=0)
    np.testing.assert_array_equal(drawn.arrivals, values[:120].reshape(2, 4, 15).sum(axis=2))
    tenths = trace_traffic(counts(tmp_path, np.arange(600), 0.1), 6, seed=0)
    np.testing.assert_array_equal(tenths.arrivals, [np.arange(600).reshape(6, 100).sum(axis=1)])


@pytest.mark.parametrize(("seconds", "sub_intervals"), [(15, 6), (45, 6), (60, 6), (60, 7), (90, 4)])
def test_counts_stay_what_they_are_in_every_whole_span(seconds: int, sub_intervals: int, tmp_path: Path) -> None:
    values = np.random.default_rng(0).integers(0, 10**14, 8 * 180 // seconds)
    drawn = trace_traffic(counts(tmp_path, values, seconds, within="held"), sub_intervals, seed=3)
    assert drawn.arrivals.shape == (24, sub_intervals)
    np.testing.assert_array_equal(drawn.arrivals.reshape(8, -1).sum(axis=1), values.reshape(8, -1).sum(axis=1))


def test_requests_of_an_interval_fall_anywhere_in_it(tmp_path: Path) -> None:
    drawn = trace_traffic(counts(tmp_path, np.full(200, 600), 60), 6, seed=0).arrivals
    assert drawn.sum(axis=1) == pytest.approx(600)
    assert drawn.mean(axis=0) == pytest.approx(100, abs=4)
    assert drawn.var() == pytest.approx(600 * 1 / 6 * 5 / 6, rel=0.1)  # binomial


@pytest.mark.parametrize("minutes", [1, 5])
@pytest.mark.parametrize("within", ["walk", "held"])
def test_the_last_seconds_of_a_minute_tell_nothing_of_the_next(minutes: int, within: Any, tmp_path: Path) -> None:
    values = minutes * jumpy(9000 // minutes)
    drawn = trace_traffic(counts(tmp_path, values, 60 * minutes, within=within), 6, seed=0)
    assert abs(last_seconds_correlation(drawn.arrivals)) <= 0.05
    assert last_seconds_correlation(straight(values, minutes)) > 0.4


@pytest.mark.parametrize("minutes", [5, 30])
def test_the_change_of_a_minute_tells_nothing_of_the_next_change(minutes: int, tmp_path: Path) -> None:
    """Whatever kind of trace it is: one that wanders, and one that jumps to and fro."""

    def momentum(arrivals: np.ndarray) -> float:
        change = np.diff(np.log(arrivals.sum(axis=1)))
        return float(np.corrcoef(change[1:], change[:-1])[0, 1])

    rows = 18_000 // minutes
    steps = 0.03 * np.random.default_rng(0).standard_normal(rows * minutes).cumsum().reshape(rows, minutes)
    wanders = 1e7 * np.exp(steps - steps.mean()).sum(axis=1)
    for values in (wanders.round(), 100 * jumpy(rows)):
        drawn = trace_traffic(counts(tmp_path, values, 60 * minutes), 6, seed=0).arrivals
        np.testing.assert_array_equal(drawn.reshape(rows, -1).sum(axis=1), values)
        assert abs(momentum(drawn)) < 0.07
        assert momentum(straight(values, minutes)) > 0.5


def test_a_walk_is_as_rough_as_the_one_whose_means_were_recorded() -> None:
    steps = 0.02 * np.random.default_rng(1).standard_normal(30 * 400)
    means = np.exp(steps.cumsum().reshape(400, 30).mean(axis=1))
    path = np.log(walk(1e6 * means, 30, np.random.default_rng(2)) * np.repeat(means, 30))
    assert np.diff(path).std() == pytest.approx(0.02, rel=0.06)
    np.testing.assert_allclose(path.reshape(400, 30).mean(axis=1), np.log(means), atol=1e-8)
    inside, across = np.diff(path.reshape(400, 30), axis=1), path[30::30] - path[29:-1:30]
    assert across.std() == pytest.approx(inside.std(), rel=0.1)  # no jumps where intervals meet


def test_a_walk_has_the_mean_and_spread_of_a_gaussian_walk_given_its_means() -> None:
    """Against the textbook's conditional distribution, from the full covariance."""
    requests, minutes, count = np.array([100.0, 150.0, 90.0]), 4, 12
    draws = np.array([walk(requests, minutes, np.random.default_rng(s)) for s in range(4000)])
    paths = np.log(draws * np.repeat(requests, minutes))
    step = np.sqrt(np.mean(np.diff(np.log(requests)) ** 2) * 3 * 4 / (2 * 16 + 1))
    place = np.arange(count)
    prior = 1e5 * step**2 + step**2 * np.minimum(place[:, None], place)  # the first minute may be anything
    average = np.kron(np.eye(3), np.full((1, minutes), 1 / minutes))
    gain = prior @ average.T @ np.linalg.inv(average @ prior @ average.T)
    np.testing.assert_allclose(paths.mean(axis=0), gain @ np.log(requests), atol=4 * step / np.sqrt(4000))
    np.testing.assert_allclose(np.cov(paths.T), prior - gain @ average @ prior, atol=0.1 * step**2)


def test_held_minutes_are_alike_and_walking_ones_are_not(tmp_path: Path) -> None:
    values = 100 * jumpy(50)
    spread = {}
    for within in ("held", "walk"):
        drawn = trace_traffic(counts(tmp_path, values, 600, within=within), 6, seed=0)
        minute = drawn.arrivals.sum(axis=1).reshape(50, 10)
        np.testing.assert_array_equal(minute.sum(axis=1), values)
        spread[within] = float(np.median(minute.std(axis=1) / minute.mean(axis=1)))
    assert spread["held"] < 0.004
    assert spread["walk"] > 0.1


def test_nothing_is_rescaled_unless_it_says_so(tmp_path: Path) -> None:
    values = [120, 240, 0, 60]
    asis = trace_traffic(counts(tmp_path, values, 60), 6, 0)
    assert (asis.scale, asis.arrivals.sum()) == (1.0, 420)
    doubled = trace_traffic(counts(tmp_path, values, 60, scale=2.5), 6, 0)
    np.testing.assert_array_equal(doubled.arrivals.sum(axis=1), [300, 600, 0, 150])
    assert doubled.scale == 2.5
    for seconds in (60, 30):
        scaled = trace_traffic(counts(tmp_path, values, seconds, mean_qps=7.0), 6, 0)
        assert scaled.arrivals.sum() / len(scaled.arrivals) / 60 == pytest.approx(7.0)
        assert scaled.scale == pytest.approx(7.0 * 4 * seconds / 420)
    for unit, factor in (("per_second", 30), ("per_minute", 0.5)):
        rates = trace_traffic(counts(tmp_path, values, 30, unit=unit), 6, 0)
        np.testing.assert_array_equal(rates.arrivals.sum(axis=1), [360 * factor, 60 * factor])
        assert rates.scale == 1.0


def test_fractions_of_requests_are_carried_over(tmp_path: Path) -> None:
    drawn = trace_traffic(counts(tmp_path, np.full(60, 0.3), 60), 6, 0)
    assert drawn.arrivals.sum() == 18
    assert drawn.arrivals.sum(axis=1).max() == 1


def test_gaps_are_refused_or_declared(tmp_path: Path) -> None:
    times = pd.to_datetime(
        [f"2026-01-05 10:{m:02d}:0{m % 3}" for m in (0, 1, 4, 5, 6)]
    )  # stamps may be late by seconds
    pd.DataFrame({"timestamp": times, "value": [10, 20, 30, 40, 50]}).to_csv(tmp_path / "t.csv", index=False)
    path = str(tmp_path / "t.csv")
    with pytest.raises(UserError, match=r"row 3: 180 s after the row before; expected 61 s \(gaps: zero"):
        trace_traffic(TraceConfig(path=path), 6, 0)
    filled = trace_traffic(TraceConfig(path=path, gaps="zero", interval_seconds=60), 6, 0)
    np.testing.assert_array_equal(filled.arrivals.sum(axis=1), [10, 20, 0, 0, 30, 40, 50])
    longest = trace_traffic(TraceConfig(path=path, gaps="longest", interval_seconds=60), 6, 0)
    np.testing.assert_array_equal(longest.arrivals.sum(axis=1), [30, 40, 50])
    assert str(longest.timestamps[0]) == "2026-01-05T10:04:01"


def test_a_trace_is_used_whole_unless_the_scenario_says_days(tmp_path: Path) -> None:
    trace = counts(tmp_path, jumpy(6 * 30), 600)
    whole = start_scenario(Scenario(), 0, trace=trace)
    assert len(whole.arrivals) == len(whole.disturbances.cost) == 1800  # type: ignore[arg-type]
    part = start_scenario(Scenario(days=0.1), 0, trace=trace)
    np.testing.assert_array_equal(part.arrivals, whole.arrivals[:144])
    assert len(start_scenario(Scenario(days=9), 0, trace=trace).arrivals) == 1800
    assert len(start_scenario(Scenario(), 0).arrivals) == 1440
    with pytest.raises(UserError, match=r"scenario.surges: got 1; expected none beside recorded traffic"):
        start_scenario(Scenario(surges=[Surge(minute=5, factor=2)]), 0, trace=trace)


def test_a_trace_drives_a_run_that_says_how_it_was_scaled(tmp_path: Path) -> None:
    trained_model().save(tmp_path / "m.pt")
    counts(tmp_path, [3, 4, 5, 9, 9, 6, 5, 4], 420)
    command = ["--set", "traffic.mean_qps=300", "--traffic", str(tmp_path / "t.csv"), "--plant=reference"]
    command += ["--set", f"model={tmp_path / 'm.pt'}", "--set", "controller.mpc.solver.deadline_ms=null"]
    command += ["--set", "clairvoyant=false", "--out", str(tmp_path / "out")]
    done = subprocess.run([sys.executable, "-m", "mpc_balancer.run", *command], check=False)
    assert done.returncode == 0
    frame = pd.read_csv(tmp_path / "out/run.csv")
    assert len(frame) == 56
    assert frame["qps"].mean() == pytest.approx(300, rel=1e-4)
    summary = read_json(tmp_path / "out/summary.json")
    assert summary["traffic_scale"] == pytest.approx(300 * 8 * 420 / 45)


def test_a_path_alone_is_a_config_and_a_resolved_config_loads_again() -> None:
    short = load_config(ClosedLoopConfig, None, ["traffic=some.csv"])
    assert short.traffic == TraceConfig(path="some.csv")
    arrivals = TraceConfig(path="some.csv", timestamp="T", value=None)
    assert parse_config(TraceConfig, to_dict(arrivals), "config") == arrivals


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        (["scale=2", "mean_qps=3"], "scale and mean_qps exclude each other"),
        (["value=null", "gaps=zero"], "with value: null rows are requests; expected no unit"),
        (["unit=hits"], "unit: got 'hits'"),
        (["interval_seconds=0"], "interval_seconds: got 0"),
        (["valeu=x"], "valeu: unknown key; did you mean 'value'"),
    ],
)
def test_bad_trace_configs(settings: list[str], expected: str) -> None:
    with pytest.raises(UserError, match=expected):
        load_config(TraceConfig, None, ["path=t.csv", *settings])


A, B, LATER = "2026-01-01 00:00:00", "2026-01-01 00:05:00", "2026-01-01 00:12:00"


@pytest.mark.parametrize(
    ("text", "settings", "expected"),
    [
        (f"timestamp,value\n{A},5\n{A},6\n", {}, "row 2, column 'timestamp': .* is duplicated; expected ascending"),
        (f"timestamp,value\n{B},5\n{A},6\n", {}, "row 2, column 'timestamp': .* comes after a later one"),
        (f"timestamp,value\n{A},5\n", {}, "got 1 rows; expected at least 2"),
        (f"timestamp,value\n{A},0\n{B},0\n", {}, "column 'value': all values are 0; expected traffic"),
        (f"timestamp,value\n{A},-1\n{B},0\n", {}, "row 1, column 'value': got -1"),
        (f"timestamp,value\n{A},many\n{B},0\n", {}, "row 1, column 'value': got 'many'; expected a finite number"),
        (f"timestamp,value\n{A},\n{B},0\n", {}, "row 1, column 'value': got an empty value"),
        (f"timestamp,value\nnoon,1\n{B},0\n", {}, "row 1, column 'timestamp': got 'noon'"),
        (f"timestamp,count\n{A},1\n{B},0\n", {}, "column 'value' is missing; found timestamp, count"),
        (
            f"timestamp,value\n{A},1\n{B},0\n",
            {"timestamp": "TIMESTAMP", "value": None},
            "'TIMESTAMP' is missing; found",
        ),
        (
            f"timestamp,value\n{A},1\n{B},0\n{LATER},0\n",
            {"interval_seconds": 300.0},
            "row 3: 420 s after the row before",
        ),
        (f"timestamp,value\n{A},1\n{B},0\n", {"interval_seconds": 3600.0}, "row 2: 300 s after .* expected 3600 s"),
        (f"timestamp,value\n{A},1\n{B},1e30\n", {}, "got 1e\\+30 requests; expected less than"),
        ("timestamp,value\n2026-01-01 00:00:00,1\n2026-01-01 00:00:01,1\n", {}, "got 0 whole minutes"),
        ("timestamp,value\n2026-01-01 00:00:00,1\n2026-01-01 00:01:30,1\n", {}, "intervals of 90 s; expected whole"),
        (f"timestamp\n{A}\n", {"value": None}, "got 1 rows; expected at least 2"),
        (f"timestamp\n{A}\n{A}\n", {"value": None}, "got 0 whole minutes; expected from 1 to"),
        (f"timestamp\n1970-01-01 00:00:00\n{A}\n", {"value": None}, "whole minutes; expected from 1 to .* ten years"),
        ("timestamp,value\n", {}, "the file has no rows"),
        ("", {}, "the file is empty; expected columns timestamp, value"),
    ],
)
def test_bad_traces(text: str, settings: dict[str, Any], expected: str, tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text(text)
    with pytest.raises(UserError, match=expected) as error:
        trace_traffic(TraceConfig(path=str(tmp_path / "t.csv"), **settings), 6, 0)
    assert "\n" not in str(error.value)
