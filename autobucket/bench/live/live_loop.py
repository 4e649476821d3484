"""The live loop itself: a day of traffic in a minute, queue lengths set every interval, everything recorded."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
from scipy.optimize import isotonic_regression

from autobucket.bench.bench_config import LiveConfig
from autobucket.bench.live.queue_controllers import Observation, QueueController, QueueScale, ScaleCost
from autobucket.bench.measuring.bench_requests import make_requests, payloads
from autobucket.bench.measuring.load import Budget, drive, require_cpu, schedule
from autobucket.bench.target.clocks import CpuClock
from autobucket.bench.target.interface import Reply, Target
from marca_common.errors import UserError
from marca_common.plain_numbers import plain_mapping, plain_number
from marca_common.progress import progress
from marca_common.seeding import numpy_generator


def planned_qps(config: LiveConfig, at: np.ndarray) -> np.ndarray:
    """Traffic at seconds ``at``: one day from night to night, with a sudden event at two thirds that fades."""
    share = np.asarray(at, np.float64) / config.seconds
    day = config.night + (1 - config.night) * (0.5 - 0.5 * np.cos(2 * np.pi * share))
    since = share - 2 / 3
    event = np.where(since >= 0, 1 + (config.burst - 1) * np.exp(-since / 0.08), 1.0)
    return _peak(config) * day * event


def _peak(config: LiveConfig) -> float:
    if config.peak_qps is None:
        raise UserError("peak_qps: got null without a calibration; set peak_qps, or calibration_s above 0")
    return config.peak_qps


def arrival_times(config: LiveConfig, generator: np.random.Generator) -> np.ndarray:
    """An inhomogeneous Poisson process over the run (thinning), rising seconds."""
    most = float(planned_qps(config, np.linspace(0, config.seconds, 2000)).max()) * 1.001
    n = generator.poisson(most * config.seconds)
    times = np.sort(generator.uniform(0, config.seconds, n))
    return times[generator.uniform(0, most, n) < planned_qps(config, times)]


@dataclass
class _Interval:
    """What is collected between two decisions."""

    sent: int = 0
    latency_ms: list[float] = field(default_factory=list)
    failed: int = 0


class LiveLoop:
    """Drives a started target for ``config.seconds`` under a controller."""

    def __init__(
        self, config: LiveConfig, target: Target, controller: QueueController, first: Mapping[str, int], cores: int
    ) -> None:
        self.config, self.target, self.controller, self.cores = config, target, controller, cores
        self.lengths = dict(first)
        self.budget = Budget(config.max_requests)
        self.rows: list[dict[str, Any]] = []
        self.current = _Interval()

    async def run(self) -> pd.DataFrame:
        """One row per interval: traffic, CPU per service, target, p50/p99, losses, queue lengths, time to decide."""
        config = self.config
        times = arrival_times(config, numpy_generator(config.seed, "autobucket", "live", "times"))
        requests = payloads(make_requests(config.traffic, config.seed, "live", count=max(len(times), 1)))
        self.budget.take(len(times))
        clock, loop = self.target.clock(), asyncio.get_running_loop()
        start = loop.time()
        pending: set[asyncio.Future[Reply]] = set()
        decisions = asyncio.create_task(self._decide(clock, start))
        try:
            for request, at in zip(requests, times):
                await asyncio.sleep(max(start + at - loop.time(), 0))
                if decisions.done():
                    break
                self._send(request, start + at, pending)
            await decisions
            await asyncio.gather(*pending)
        finally:
            decisions.cancel()
        return pd.DataFrame(self.rows)

    def _send(self, request: Mapping[str, Any], intended: float, pending: set[asyncio.Future[Reply]]) -> None:
        self.current.sent += 1
        future = self.target.send({**request, **self.lengths})
        pending.add(future)

        def note(done: asyncio.Future[Reply]) -> None:
            pending.discard(done)
            if done.cancelled():
                return
            reply = done.result()
            if reply.status == "ok":
                self.current.latency_ms.append(1000 * (reply.finished - intended))
            else:
                self.current.failed += 1

        future.add_done_callback(note)

    async def _decide(self, clock: CpuClock, start: float) -> None:
        config, loop = self.config, asyncio.get_running_loop()
        count = max(int(config.seconds / config.interval_s + 1e-6), 1)
        first, last = clock.read(), loop.time()
        before, answered = first, 0
        with progress(total=count, what="autobucket.live", unit="decision") as bar:
            for k in range(count):
                await asyncio.sleep(max(start + (k + 1) * config.interval_s - loop.time(), 0))
                after, now = clock.read(), loop.time()
                span = now - last
                cpu = {name: 100 * (after[name] - before.get(name, 0.0)) / (span * self.cores) for name in after}
                done, self.current = self.current, _Interval()
                seen = Observation(
                    interval=k,
                    seconds=span,
                    qps=done.sent / span,
                    cpu=cpu,
                    target_percent=config.controller.target_percent,
                    lengths=dict(self.lengths),
                    answered_qps=len(done.latency_ms) / span,
                    p99_ms=float(np.quantile(done.latency_ms, 0.99)) if done.latency_ms else float("nan"),
                )
                self._record(seen, done, now - start)
                before, last = after, now
                ended = self.target.ended()
                if ended is not None:
                    raise UserError(f"target: {ended}, in the live loop")
                answered += len(done.latency_ms)
                require_cpu({name: after[name] - first.get(name, 0.0) for name in after}, answered)
                bar.update(1)

    def _record(self, seen: Observation, done: _Interval, second: float) -> None:
        started = time.perf_counter()
        chosen = self._asked(seen)
        took = 1000 * (time.perf_counter() - started)
        self.rows.append(
            {
                "second": second,
                "qps": seen.qps,
                "planned_qps": float(planned_qps(self.config, np.array(second - seen.seconds / 2))),
                **{f"cpu_{name}": value for name, value in seen.cpu.items()},
                "cpu": seen.cpu_percent,
                "target": seen.target_percent,
                "answered_qps": seen.answered_qps,
                "p50_ms": float(np.median(done.latency_ms)) if done.latency_ms else float("nan"),
                "p99_ms": seen.p99_ms,
                "lost": done.failed,
                **{f"length_{name}": value for name, value in seen.lengths.items()},
                "decision_ms": took,
            }
        )
        self.lengths = self._checked(chosen)

    def _asked(self, seen: Observation) -> dict[str, Any]:
        """What the controller answers; somebody's own that raises, or answers no mapping, is a UserError that names it."""
        name = getattr(self.controller, "__name__", type(self.controller).__name__)
        try:
            answer = self.controller(seen)
        except UserError:
            raise
        except Exception as error:
            raise UserError(f"controller {name}: interval {seen.interval}: {type(error).__name__}: {error}") from error
        chosen = plain_mapping(answer)
        if chosen is None:
            raise UserError(
                f"controller {name}: interval {seen.interval}: got {str(answer)[:80]}; expected queue lengths by name"
            )
        return chosen

    def _checked(self, chosen: Mapping[str, int]) -> dict[str, int]:
        """Whatever a controller says, lengths stay inside their ranges; an unknown one is an error."""
        unknown = [name for name in chosen if name not in self.config.lengths]
        if unknown:
            raise UserError(f"controller: set {unknown[0]!r}; expected some of {list(self.config.lengths)}")
        kept = dict(self.lengths)
        for name, value in chosen.items():
            low, high = self.config.lengths[name]
            if np.isfinite(plain_number(value)):
                kept[name] = int(np.clip(round(float(value)), low, high))
        return kept


async def calibrate(config: LiveConfig, target: Target, cores: Sequence[int] | None) -> ScaleCost:
    """Cost per request at a few queue scales, each for an equal part of ``calibration_s``, made monotone."""
    scales = np.linspace(0, 1, config.calibration_points)
    span = config.calibration_s / len(scales)
    rate, costs = config.calibration_qps, []
    for k, scale in enumerate(scales):
        generator = numpy_generator(config.seed, "autobucket", "live", "calibration", k)
        times = schedule("poisson", rate, span, generator)
        requests = payloads(make_requests(config.traffic, config.seed, "calibration", str(k), count=len(times)))
        requests = [{**one, **QueueScale(config.lengths).lengths(scale)} for one in requests]
        window = await drive(target, requests, times, Budget(len(times), abort_errors=50), horizon_s=span, cores=cores)
        if window.ok == 0:
            raise UserError(f"target: no request was answered in calibration; the last failure: {window.detail}")
        costs.append(1000 * window.cpu_total / window.ok)
    rising = isotonic_regression(costs).x + 1e-6 * np.arange(len(costs))  # strictly, so that it can be turned round
    return ScaleCost(scales, rising)


def with_peak(config: LiveConfig, curve: ScaleCost, cores: int) -> LiveConfig:
    """The config with its peak rate: the given one, or that at which the longest queues exceed the target by a tenth at night."""
    if config.peak_qps is not None:
        return config
    night = 11 * cores * config.controller.target_percent / float(curve.cost_ms[-1])
    return config.model_copy(update={"peak_qps": night / config.night})


def reachable(config: LiveConfig, curve: ScaleCost, cores: int) -> dict[str, float]:
    """CPU in percent of the cores that the longest and the shortest queues bring, at the busiest and the quietest moment."""
    percent = {
        name: cost * _peak(config) / (10 * cores) for name, cost in zip(("shortest", "longest"), curve.cost_ms[[0, -1]])
    }
    day = {"peak": 1.0, "night": config.night}
    return {f"{name}_{moment}": value * share for moment, share in day.items() for name, value in percent.items()}


def unreachable(config: LiveConfig, reach: dict[str, float]) -> list[str]:
    """What keeps the target from being met whoever steers, a line each."""
    target, notes = config.controller.target_percent, []
    for moment in ("peak", "night"):
        least, most = reach[f"shortest_{moment}"], reach[f"longest_{moment}"]
        if not least <= target <= most:
            notes.append(
                f"controller.target_percent {target:g} is out of reach at {moment}: {least:.0f} percent with the shortest queues,"
                f" {most:.0f} with the longest; change peak_qps ({_peak(config):.0f}), night or lengths"
            )
    return notes
