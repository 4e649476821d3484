"""Controllers of the live loop on a plant with known costs, and the loop itself."""

from __future__ import annotations

import asyncio
import json
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from autobucket.bench.bench_config import LiveConfig
from autobucket.bench.live.live_loop import arrival_times, planned_qps, reachable, unreachable, with_peak
from autobucket.bench.live.queue_controllers import (
    FeedForwardQueueController,
    FixedQueueController,
    Observation,
    PiQueueController,
    QueueScale,
    ScaleCost,
)
from autobucket.bench.measuring.run_async import run_async
from autobucket.live import live, main, summarise
from marca_common.config import load_config
from marca_common.errors import UserError
from tests.autobucket.bench_fakes import FakeTarget, virtual_time

CURVE = ScaleCost(np.array([0.0, 0.5, 1.0]), np.array([2.0, 5.0, 12.0]))


@pytest.fixture
def on_virtual_time() -> Iterator[Any]:
    with virtual_time():
        yield


def config(**controller: Any) -> Any:
    return LiveConfig(controller=controller)


def observe(lengths: Any, cpu: Any, qps: float = 80.0, k: int = 0) -> Any:
    return Observation(k, 1.0, qps, {"a": 0.25 * cpu, "b": 0.75 * cpu}, 60.0, lengths)


def drive_plant(controller: Any, qps_of: Any, factor: float = 1.0, steps: int = 60) -> Any:
    """CPU follows traffic × true cost of the scale the controller chose; returns CPU per step."""
    history, scale = [], 0.5
    for k in range(steps):
        cost = factor * float(np.interp(scale, CURVE.scale, CURVE.cost_ms))
        cpu = min(qps_of(k) * cost / 10, 100.0)
        history.append(cpu)
        controller(observe({}, cpu, qps_of(k), k))
        scale = controller.scale
    return np.array(history)


def test_scale_is_geometric_and_clipped() -> None:
    scale = QueueScale({"a": (1, 100), "b": (4, 4)})
    assert scale.lengths(0) == scale.lengths(-1) == {"a": 1, "b": 4}
    assert scale.lengths(0.5) == {"a": 10, "b": 4}
    assert scale.lengths(1) == scale.lengths(7) == {"a": 100, "b": 4}


def test_pi_settles_on_the_target_and_does_not_wind_up() -> None:
    controller = PiQueueController(config(kind="pi"))
    cpu = drive_plant(controller, lambda k: 80.0)
    np.testing.assert_allclose(cpu[-10:], 60, atol=1.0)
    drive_plant(controller, lambda k: 10.0, steps=100)  # unreachable: even the longest queues leave it at 12 %
    assert controller.scale == 1.0
    assert drive_plant(controller, lambda k: 80.0, steps=8)[-1] < 75  # back at once


def test_feed_forward_follows_traffic_and_trims_a_wrong_curve() -> None:
    controller = FeedForwardQueueController(config(kind="feed_forward", smoothing=0.0), CURVE, cores=1)
    cpu = drive_plant(controller, lambda k: 80.0 if k < 30 else 100.0)
    np.testing.assert_allclose(cpu[1:30], 60, atol=0.1)  # exact after one step: the curve is true
    assert cpu[31] == pytest.approx(60, abs=0.1)
    wrong = FeedForwardQueueController(config(kind="feed_forward", trim=0.2), CURVE, cores=1)
    np.testing.assert_allclose(drive_plant(wrong, lambda k: 80.0, factor=1.3)[-5:], 60, atol=1.0)
    assert wrong.factor == pytest.approx(1.3, abs=0.05)


@pytest.mark.parametrize("make", [lambda c: PiQueueController(c), lambda c: FeedForwardQueueController(c, CURVE, 1)])
def test_a_service_that_falls_behind_gets_shorter_queues_although_its_cpu_is_low(make: Any) -> None:
    controller = make(config(brake=0.2, latency_limit_ms=500))
    for k in range(6):
        seen = Observation(k, 1.0, 80.0, {"a": 20.0}, 60.0, {}, answered_qps=15.0, p99_ms=3000.0)
        lengths = controller(seen)
    assert lengths == {"queue_a": 1, "queue_b": 1, "truncation": 4}
    for k in range(40):
        lengths = controller(Observation(k, 1.0, 20.0, {"a": 5.0}, 60.0, {}, answered_qps=20.0, p99_ms=20.0))
    assert lengths == {"queue_a": 100, "queue_b": 80, "truncation": 150}


def test_controllers_survive_nonsense() -> None:
    for controller in (PiQueueController(config(kind="pi")), FeedForwardQueueController(config(), CURVE, 1)):
        for cpu, qps in ((float("nan"), 50.0), (50.0, 0.0), (0.0, 50.0), (1e9, 1e-9)):
            lengths = controller(observe({}, cpu, qps))
            assert all(1 <= lengths[name] <= 150 for name in ("queue_a", "queue_b", "truncation"))


@pytest.mark.parametrize("make", [lambda c: PiQueueController(c), lambda c: FeedForwardQueueController(c, CURVE, 1)])
def test_readings_that_are_no_numbers_change_nothing_but_the_brake(make: Any) -> None:
    """A CPU of 0 beside answered requests is no reading either: some service's clock was not found."""
    controller = make(config(brake=0.2))
    for _ in range(10):
        controller(observe({}, 55.0))
    before = controller.scale
    for cpu in (
        {"a": None},
        {"a": "50"},
        {"a": 50.0, "b": np.nan},
        None,
        {},
        {"a": -1.0},
        {"a": True},
        {"a": 0.0, "b": 0.0},
    ):
        controller(Observation(0, 1.0, 80.0, cpu, 60.0, {}, answered_qps=80.0, p99_ms=20.0))  # type: ignore[arg-type]
        assert controller.scale == pytest.approx(before)
    bad: Any
    for bad in (None, "80", np.inf, -1.0, [80.0], 10**400):
        controller(Observation(0, bad, bad, {"a": 55.0}, 60.0, {}, answered_qps=bad, p99_ms=bad))
        assert 0 <= controller.scale <= 1


def test_fixed_never_moves_and_feed_forward_needs_a_curve() -> None:
    controller = FixedQueueController(config(kind="fixed", level=1.0))
    assert (
        controller(observe({}, 99)) == controller(observe({}, 1)) == {"queue_a": 100, "queue_b": 80, "truncation": 150}
    )
    with pytest.raises(UserError, match="cost curve; set calibration_s above 0"):
        FeedForwardQueueController(config(), None, 1)


def test_traffic_of_a_day() -> None:
    settings = LiveConfig(seconds=60, peak_qps=100, night=0.3, burst=1.5)
    assert planned_qps(settings, np.array([0.0, 30.0])).tolist() == pytest.approx([30.0, 100.0])
    assert planned_qps(settings, np.array([40.0])) > 1.4 * planned_qps(settings, np.array([39.99]))
    times = arrival_times(settings, np.random.default_rng(0))
    expected = planned_qps(settings, np.linspace(0, 60, 6000)).mean() * 60
    assert len(times) == pytest.approx(expected, abs=4 * expected**0.5)
    assert (np.diff(times) >= 0).all()


@pytest.mark.parametrize("kind", ["pi", "feed_forward", "fixed"])
def test_the_loop_records_every_interval(
    kind: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, on_virtual_time: Any
) -> None:
    if kind != "pi":  # one figure is enough
        monkeypatch.setattr("autobucket.live.draw_live", lambda rows, name, path: path.write_bytes(b"drawn"))
    settings = LiveConfig(
        controller={"kind": kind},
        seconds=1.2,
        interval_s=0.2,
        peak_qps=60,
        warmup_s=0.1,
        calibration_s=0.2,
        accounting={"pin": False},
    )
    result = live(settings, tmp_path / "run", make_target=FakeTarget)
    np.testing.assert_allclose(result.rows["second"], 0.2 * np.arange(1, 7), atol=1e-6)
    assert result.summary["lost"] == 0
    assert result.summary["controller"] == kind
    assert (result.rows[["length_queue_a", "length_queue_b", "length_truncation"]] >= 1).all().all()
    assert (result.rows["cpu"] > 0).any()
    assert (tmp_path / "run" / "live.png").stat().st_size > 0
    saved = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert saved["intervals"] == 6
    assert len(saved["calibration"]) == 4


def test_a_callable_controls_and_is_kept_inside_the_ranges(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, on_virtual_time: Any
) -> None:
    monkeypatch.setattr("autobucket.live.draw_live", lambda *_: None)
    seen = []

    def mine(observation: Any) -> Any:
        seen.append(observation)
        return {"queue_a": 10_000, "queue_b": float("nan")}

    settings = LiveConfig(seconds=1, interval_s=0.3, peak_qps=30, warmup_s=0, accounting={"pin": False})
    result = live(settings, tmp_path / "run", controller=mine, make_target=FakeTarget)
    assert len(seen) == 3
    assert seen[1].lengths["queue_a"] == 100
    assert seen[1].lengths["queue_b"] == seen[0].lengths["queue_b"]
    assert result.summary["controller"] == "mine"
    with pytest.raises(UserError, match="controller: set 'depth'"):
        live(settings, tmp_path / "other", controller=lambda seen: {"depth": 1}, make_target=FakeTarget)


class Alternates:
    """A controller of somebody else's: long and short queues in turns."""

    def __init__(self, config: Any, curve: Any, cores: Any) -> None:
        self.config, self.curve, self.cores = config, curve, cores

    def __call__(self, seen: Any) -> Any:
        return {"queue_a": 50 if seen.interval % 2 else 5}


def test_a_controller_of_ones_own_enters_by_its_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, on_virtual_time: Any
) -> None:
    monkeypatch.setattr("autobucket.live.draw_live", lambda *_: None)
    options = {"seconds": 2, "interval_s": 0.5, "peak_qps": 30, "warmup_s": 0, "accounting": {"pin": False}}
    mine = {"kind": "tests.autobucket.test_bench_live:Alternates"}
    result = live(LiveConfig(controller=mine, calibration_s=0.4, **options), tmp_path / "run", make_target=FakeTarget)
    assert result.rows["length_queue_a"].tolist()[1:] == [5, 50, 5]
    assert result.summary["controller"] == mine["kind"]
    assert len(result.summary["calibration"]) == 4  # it gets the cost curve, as feed-forward does
    for kind, message in [
        ("pid", "got 'pid'; expected pi, feed_forward, fixed or module:Class"),
        ("tests.autobucket.test_bench_live:Nobody", "expected module:name that can be imported"),
    ]:
        with pytest.raises(UserError, match=message):
            live(LiveConfig(controller={"kind": kind}, **options), tmp_path / "bad", make_target=FakeTarget)


def test_summary_by_hand() -> None:
    import pandas as pd

    rows = pd.DataFrame(
        {
            "second": [1.0, 2, 3, 4, 5],
            "qps": [10.0] * 5,
            "cpu": [50.0, 70, 50, 70, 65],
            "target": [60.0] * 5,
            "p99_ms": [1.0, 2, 3, 4, 5],
            "lost": [0, 0, 1, 0, 0],
        }
    )
    summary = summarise(rows)
    assert summary["mean_error_points"] == pytest.approx(9.0)
    assert summary["mean_error_5_points"] == pytest.approx(1.0)  # (-10 + 10 - 10 + 10 + 5) / 5
    assert summary["requests"] == 50
    assert summary["lost"] == 1


def test_the_shipped_config_and_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert load_config(LiveConfig, "configs/autobucket/live.yaml").seconds == 60
    with pytest.raises(SystemExit) as ended:
        main(["--seconds", "0.5", "--out", str(tmp_path / "x")])
    assert ended.value.code == 2
    assert "seconds: got 0.5" in capsys.readouterr().err


@pytest.mark.slow
def test_the_live_loop_on_the_real_service(tmp_path: Path) -> None:
    settings = load_config(
        LiveConfig,
        "configs/autobucket/live.yaml",
        [
            *("seconds=6", "peak_qps=20", "calibration_s=2", "calibration_points=2"),
            *("target.request_timeout_s=60", "target.start_timeout_s=600"),
        ],
    )
    result = live(settings, tmp_path / "run")
    assert len(result.rows) == 6
    assert (result.rows["cpu"] > 0).all()
    assert {"cpu_retrieval", "cpu_ranking"} <= set(result.rows)


def test_it_runs_inside_a_running_loop_as_in_a_notebook(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("autobucket.live.draw_live", lambda *_: None)
    settings = LiveConfig(
        seconds=1, interval_s=0.5, peak_qps=30, warmup_s=0, calibration_s=0.1, accounting={"pin": False}
    )

    async def cell() -> Any:
        return live(settings, tmp_path / "run", make_target=FakeTarget)

    assert len(asyncio.run(cell()).rows) == 2


def test_an_interrupt_in_a_notebook_stops_the_work_first() -> None:
    cleaned, working = [], threading.Event()

    async def work() -> None:
        working.set()
        try:
            await asyncio.sleep(30)
        except asyncio.CancelledError:
            cleaned.append("cancelled")
            raise

    async def cell() -> None:
        threading.Thread(target=interrupt, daemon=True).start()
        run_async(work)

    def interrupt() -> None:
        working.wait()
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)

    loop = asyncio.new_event_loop()  # as a notebook's kernel runs it: Ctrl-C is an exception in the cell
    try:
        with pytest.raises(KeyboardInterrupt):
            loop.run_until_complete(cell())
    finally:
        loop.close()
    assert cleaned == ["cancelled"]


class TestCalibratedPeak:
    curve = ScaleCost(np.array([0.0, 0.5, 1.0]), np.array([2.0, 5.0, 12.0]))  # core-ms per request

    def test_at_the_peak_rate_the_longest_queues_exceed_the_target_by_a_tenth_at_night(self) -> None:
        settings = with_peak(LiveConfig(controller={"target_percent": 60.0}, night=0.5), self.curve, cores=2)
        assert settings.peak_qps == pytest.approx(0.66 * 2000 / 12 / 0.5)
        assert reachable(settings, self.curve, cores=2)["longest_night"] == pytest.approx(66.0)
        given = LiveConfig(peak_qps=77)
        assert with_peak(given, self.curve, cores=2) is given

    def test_what_can_be_reached_by_hand(self) -> None:
        settings = LiveConfig(peak_qps=240, night=0.5)
        reach = reachable(settings, self.curve, cores=2)
        expected = {"shortest_peak": 24.0, "longest_peak": 144.0, "shortest_night": 12.0, "longest_night": 72.0}
        assert reach == pytest.approx(expected)
        assert unreachable(settings, reach) == []

    def test_an_unreachable_target_is_said_before_the_run(self) -> None:
        slow = LiveConfig(peak_qps=50, night=0.5)
        notes = unreachable(slow, reachable(slow, self.curve, cores=2))
        assert len(notes) == 2
        assert (
            "target_percent 60 is out of reach at peak: 5 percent with the shortest queues, 30 with the longest"
            in notes[0]
        )
        fast = LiveConfig(peak_qps=2000, night=0.5)
        assert [note.split(":")[0][-5:] for note in unreachable(fast, reachable(fast, self.curve, cores=2))] == [
            " peak",
            "night",
        ]


def test_a_run_warns_of_a_target_out_of_reach_and_says_its_peak(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, on_virtual_time: Any
) -> None:
    monkeypatch.setattr("autobucket.live.draw_live", lambda *_: None)
    options: dict[str, Any] = {"seconds": 1, "interval_s": 0.25, "warmup_s": 0, "accounting": {"pin": False}}
    slow = live(LiveConfig(peak_qps=1, calibration_s=0.4, **options), tmp_path / "slow", make_target=FakeTarget)
    assert "out of reach at peak" in json.loads((tmp_path / "slow/summary.json").read_text())["warnings"][0]
    assert slow.summary["peak_qps"] == 1
    found = live(LiveConfig(calibration_s=0.4, **options), tmp_path / "found", make_target=FakeTarget).summary
    reach = found["reachable_percent"]
    assert reach["shortest_peak"] < 60 < reach["longest_peak"]
    with pytest.raises(UserError, match="peak_qps: got null without a calibration"):
        live(
            LiveConfig(calibration_s=0, controller={"kind": "pi"}, **options), tmp_path / "none", make_target=FakeTarget
        )
