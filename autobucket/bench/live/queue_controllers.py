"""Controllers of the live loop: callables from what was seen in an interval to the queue lengths of the next."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from autobucket.bench.bench_config import LiveConfig
from marca_common.dotted_path import load_by_path
from marca_common.errors import UserError
from marca_common.plain_numbers import plain_mapping, plain_number
from marca_common.protocols import Measurement

Lengths = dict[str, int]


@dataclass(frozen=True)
class Observation:
    """What the loop reports at the end of an interval."""

    interval: int  # number of the interval that just ended, from 0
    seconds: float  # its length
    qps: float  # requests sent per second
    cpu: dict[str, float]  # service → percent of the declared cores
    target_percent: float  # CPU to keep to, all services together
    lengths: Mapping[str, int]  # queue lengths that were in force
    answered_qps: float = float("nan")  # requests answered per second; below qps: a backlog builds up
    p99_ms: float = float("nan")  # latency from the intended send time

    @property
    def cpu_percent(self) -> float:
        """All services together."""
        return float(sum(self.cpu.values()))

    @property
    def believable_percent(self) -> float:
        """The same; NaN where a reading is no number, or where nothing was spent on requests that were answered."""
        readings = (plain_mapping(self.cpu) or {"": None}).values()
        total = float(sum(plain_number(one) if plain_number(one) >= 0 else np.nan for one in readings))
        return float("nan") if total == 0 and plain_number(self.answered_qps) > 0 else total

    def measurement(self, lambda_: np.ndarray, group: str = "bench") -> Measurement:
        """The same as a Measurement, for controllers that set prices; an interval stands for a minute."""
        return Measurement(
            minute=self.interval,
            timestamp=np.datetime64("2026-01-05T00:00:00") + np.timedelta64(self.interval, "m"),
            group=group,
            qps=self.qps,
            cpu=np.array(list(self.cpu.values()), np.float64),
            degradation=0.0,
            lambda_=np.asarray(lambda_, np.float64),
        )


_BEHIND = 0.8  # answering less than this share of what came in is falling behind, not the luck of an interval's border
QueueController = Callable[[Observation], Mapping[str, int]]


@dataclass(frozen=True)
class ScaleCost:
    """Core-ms per request at queue scales, monotone; measured before the run."""

    scale: np.ndarray  # (K,) rising, 0 … 1
    cost_ms: np.ndarray  # (K,) rising

    def scale_of(self, cost_ms: float) -> float:
        """The longest scale that costs at most this; 0 where even the shortest costs more."""
        return float(np.interp(cost_ms, self.cost_ms, self.scale))


class QueueScale:
    """One number for all queue lengths: 0 gives the shortest, 1 the longest, geometric in between."""

    def __init__(self, ranges: Mapping[str, tuple[int, int]]) -> None:
        self.ranges = dict(ranges)

    def lengths(self, scale: float) -> Lengths:
        """Queue lengths at a scale; outside 0 … 1 it is clipped."""
        s = float(np.clip(scale, 0.0, 1.0))
        return {name: round(low * (high / low) ** s) for name, (low, high) in self.ranges.items()}


class Brake:
    """A cap on the queue scale for a service that falls behind although its CPU is low.

    On a machine that gives less than its declared cores, CPU stays below the target while requests pile up; a controller that
    only sees CPU would lengthen the queues.
    """

    def __init__(self, config: LiveConfig) -> None:
        self.settings, self.cap = config.controller, 1.0

    def __call__(self, seen: Observation) -> float:
        """The cap for the next interval."""
        behind = plain_number(seen.answered_qps) < _BEHIND * plain_number(seen.qps)
        late = plain_number(seen.p99_ms) > self.settings.latency_limit_ms
        change = -self.settings.brake if late or behind else self.settings.brake / 5
        self.cap = float(np.clip(self.cap + change, 0.0, 1.0))
        return self.cap


class FixedQueueController:
    """The same queue lengths, always."""

    def __init__(self, config: LiveConfig, curve: ScaleCost | None = None, cores: int = 1) -> None:
        self.lengths = QueueScale(config.lengths).lengths(config.controller.level)

    def __call__(self, seen: Observation) -> Lengths:
        """Queue lengths of the next interval."""
        return self.lengths


class PiQueueController:
    """Velocity-form PI on utilisation, acting on the queue scale; it cannot wind up."""

    def __init__(self, config: LiveConfig, curve: ScaleCost | None = None, cores: int = 1) -> None:
        self.settings, self.scale_of_lengths = config.controller, QueueScale(config.lengths)
        self.scale, self.last_error = config.controller.level, 0.0
        self.brake = Brake(config)

    def __call__(self, seen: Observation) -> Lengths:
        """Queue lengths of the next interval."""
        error = (seen.target_percent - seen.believable_percent) / 10
        if np.isfinite(error):
            seconds = float(np.nan_to_num(plain_number(seen.seconds), posinf=0.0))
            change = self.settings.kp * (error - self.last_error) + self.settings.ki * error * max(seconds, 0.0)
            self.scale = float(np.clip(self.scale + change, 0.0, 1.0))
            self.last_error = error
        self.scale = min(self.scale, self.brake(seen))
        return self.scale_of_lengths.lengths(self.scale)


class FeedForwardQueueController:
    """The scale whose measured cost, times the traffic expected, meets the target; a slow trim corrects the cost.

    Cost a request may have = target% · cores / QPS (Eq. 26 turned round).
    """

    def __init__(self, config: LiveConfig, curve: ScaleCost | None, cores: int) -> None:
        if curve is None:
            raise UserError("controller.kind: feed_forward needs a cost curve; set calibration_s above 0")
        self.settings, self.scale_of_lengths = config.controller, QueueScale(config.lengths)
        self.curve, self.cores = curve, cores
        self.qps: float | None = None
        self.factor = 1.0  # measured over expected cost
        self.scale = config.controller.level
        self.brake = Brake(config)

    def __call__(self, seen: Observation) -> Lengths:
        """Queue lengths of the next interval."""
        qps = plain_number(seen.qps)
        if 0 <= qps < np.inf:
            keep = self.settings.smoothing if self.qps is not None else 0.0
            self.qps = keep * (self.qps or 0.0) + (1 - keep) * qps
            self._trim(seen, qps)
        if self.qps is None:
            return self.scale_of_lengths.lengths(self.scale)
        allowed_ms = 10 * seen.target_percent * self.cores / max(self.qps, 1e-6)
        self.scale = min(self.curve.scale_of(allowed_ms / self.factor), self.brake(seen))
        return self.scale_of_lengths.lengths(self.scale)

    def _trim(self, seen: Observation, qps: float) -> None:
        """Take a share of the relative error of the last interval's cost into the factor."""
        answered, percent = plain_number(seen.answered_qps), seen.believable_percent
        served = answered if np.isfinite(answered) else qps
        if served <= 0 or not np.isfinite(percent):
            return
        spent_ms = 10 * percent * self.cores / served
        expected = self.factor * float(np.interp(self.scale, self.curve.scale, self.curve.cost_ms))
        ratio = float(np.clip(spent_ms / expected, 0.5, 2.0))
        self.factor = float(np.clip(self.factor * ratio**self.settings.trim, 0.2, 5.0))


CONTROLLERS: dict[str, Callable[..., QueueController]] = {
    "pi": PiQueueController,
    "feed_forward": FeedForwardQueueController,
    "fixed": FixedQueueController,
}


def controller_class(kind: str) -> Callable[..., QueueController]:
    """The class that ``controller.kind`` names, one of ours or ``module:Class``; called with (config, curve, cores)."""
    if kind in CONTROLLERS:
        return CONTROLLERS[kind]
    if ":" not in kind:
        raise UserError(f"controller.kind: got {kind!r}; expected {', '.join(CONTROLLERS)} or module:Class of your own")
    return load_by_path(kind, "controller.kind")
