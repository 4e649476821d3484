"""The reference plant: a data centre that shares nothing with g. Work arrives, prices thin it, queues and lag shape CPU.

Per sub-interval and service: work = arrivals × cost per request × relief(λ) × mix of the hour × slow and fast noise;
work beyond the capacity waits; utilisation follows with a lag. Relief saturates (a Hill curve with a floor) and each price
also acts on the other service. Commands may act late; readings are noisy, get lost or freeze.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated

import numba
import numpy as np
from pydantic import Field, model_validator

from marca_common.config import Config
from marca_common.protocols import Measurement
from marca_common.seeding import numpy_generator
from mpc_balancer.testbed.reference_traffic import wander


class ReferenceConfig(Config):
    """Parameters of the reference plant; lists have one entry per service."""

    services: list[str] = Field(["retrieval", "ranking"], description="services and CPUs", min_length=1)
    reference_qps: float = Field(400.0, gt=0, description="traffic that load_percent is stated at, requests per second")
    idle_percent: list[Annotated[float, Field(ge=0)]] = Field([5.0, 7.0], description="CPU without traffic, percent")
    load_percent: list[Annotated[float, Field(gt=0)]] = Field(
        [112.0, 104.0], description="CPU that reference_qps adds at λ = 0, percent"
    )
    floor: list[Annotated[float, Field(ge=0, le=1)]] = Field(
        [0.14, 0.12], description="share of the cost that no price can remove"
    )
    half_price: list[Annotated[float, Field(gt=0)]] = Field(
        [2.4e-4, 1.1e-4], description="λ that removes half of the removable cost, money/core-ms"
    )
    steepness: float = Field(1.25, gt=0, description="exponent of the Hill curve")
    cross: float = Field(0.12, ge=0, description="share of the other service's relative price that acts here too")
    core_ms: list[Annotated[float, Field(gt=0)]] = Field(
        [40.0, 55.0], description="cost per request at λ = 0, core-milliseconds"
    )
    lag_seconds: float = Field(22.0, gt=0, description="time constant of utilisation")
    queue_seconds: float = Field(20.0, ge=0, description="most work that waits, seconds of full capacity")
    mix_amplitude: float = Field(0.07, ge=0, description="amplitude of the cost per request over the day")
    slow_noise: float = Field(0.02, ge=0, description="standard deviation of log noise of the cost over 2 h")
    fast_noise: float = Field(0.02, ge=0, description="standard deviation of log noise of the cost per sub-interval")
    reading_noise: float = Field(0.5, ge=0, description="standard deviation of CPU readings over a minute, points")
    degrade_above: float = Field(92.0, gt=0, description="CPU above which elastic degradation sets in, percent")
    degrade_relief: float = Field(0.12, ge=0, lt=1, description="share of the cost that full degradation (1) removes")
    degrade_recovery: float = Field(0.05, gt=0, le=1, description="share of it that ends per sub-interval below that")
    delay_minutes: int = Field(0, ge=0, description="minutes until a commanded λ is in force")
    sub_intervals: int = Field(6, ge=1, description="sub-intervals per minute")

    @model_validator(mode="after")
    def _one_entry_per_service(self) -> ReferenceConfig:
        for name in ("idle_percent", "load_percent", "floor", "half_price", "core_ms"):
            if len(getattr(self, name)) != len(self.services):
                raise ValueError(
                    f"{name}: got {len(getattr(self, name))} values; expected one per service, {len(self.services)}"
                )
        return self


@dataclass(frozen=True)
class Disturbances:
    """What goes wrong in a run, per minute (T,); ``None`` means nothing of the kind."""

    cost: np.ndarray | None = None  # multiplies cost: drift, steps, mismatch
    lost: np.ndarray | None = None  # bool: CPU reading is NaN
    blind: np.ndarray | None = None  # bool: everything measured is NaN
    frozen: np.ndarray | None = None  # bool: readings repeat
    stuck: np.ndarray | None = None  # bool: the commanded λ is not applied
    garbage: np.ndarray | None = None  # (T,) or (T, D) CPU reading replaced by this where not NaN
    qps_factor: float = 1.0  # traffic is reported multiplied by this
    echoed: bool = False  # the λ reported as being in force is the last command, whenever it acts


@numba.njit(cache=True, error_model="numpy")
def _advance(
    cpu: np.ndarray,
    queue: np.ndarray,
    degradation: np.ndarray,
    relief: np.ndarray,
    work: np.ndarray,
    idle: np.ndarray,
    keep: float,
    queue_limit: float,
    degrade_above: float,
    degrade_relief: float,
    degrade_recovery: float,
) -> np.ndarray:
    """Sub-intervals of one step in place: cpu (D,), queue (D,) in percent·sub-intervals; work (I, D). Returns the mean CPU."""
    steps, size = work.shape
    mean = np.zeros(size)
    for k in range(steps):
        worst = 0.0
        for s in range(size):
            demand = work[k, s] * relief[s] * (1.0 - degrade_relief * degradation[0]) + queue[s]
            room = 100.0 - idle[s]
            done = min(demand, room)
            queue[s] = min(demand - done, queue_limit)  # the rest times out
            cpu[s] = keep * cpu[s] + (1.0 - keep) * (idle[s] + done)
            mean[s] += cpu[s] / steps
            worst = max(worst, cpu[s])
        goal = min(max((worst - degrade_above) / (100.0 - degrade_above), 0.0), 1.0)
        degradation[0] += (0.5 if goal > degradation[0] else degrade_recovery) * (goal - degradation[0])
    return mean


@dataclass
class ReferencePlant:
    """One data centre. ``truth`` keeps the true mean CPU (D,) of every step, which metrics are taken from."""

    config: ReferenceConfig
    seed: int
    minutes: int
    group: str = "reference"
    start: np.datetime64 = field(default_factory=lambda: np.datetime64("2026-03-02", "s"))
    disturbances: Disturbances = field(default_factory=Disturbances)

    def __post_init__(self) -> None:
        own, size, parts = self.config, len(self.config.services), self.config.sub_intervals
        count = self.minutes * parts
        generator = numpy_generator(self.seed, "mpc_balancer", "reference_plant")
        hour = np.arange(count)[:, None] / parts / 1440 + (self.start.astype(np.int64) % 86_400) / 86_400
        mix = 1 + own.mix_amplitude * np.sin(2 * np.pi * hour + np.arange(size))
        slow = wander(generator, (count, size), own.slow_noise, 120 * parts)
        fast = own.fast_noise * generator.standard_normal((count, size))
        self._cost = mix * np.exp(slow + fast)  # (T·I, D)
        self._reading_noise = own.reading_noise * generator.standard_normal((count, size))
        self._load = np.array(own.load_percent)
        self._idle = np.array(own.idle_percent)
        self._keep = float(np.exp(-60 / parts / own.lag_seconds))
        self._cpu = self._idle + 0.3 * self._load
        self._queue, self._degradation = np.zeros(size), np.zeros(1)
        self._position = 0  # sub-intervals done
        self._commands: list[np.ndarray] = []
        self._in_force: np.ndarray | None = None
        self._reported = np.full(size, np.nan)
        self.truth: list[np.ndarray] = []

    def relief(self, lambda_: np.ndarray) -> np.ndarray:
        """Share of the cost left at prices (L,), per service (D,)."""
        own = self.config
        relative = np.asarray(lambda_) / np.array(own.half_price)
        pressure = relative + own.cross * (relative.sum() - relative)
        floor = np.array(own.floor)
        return np.asarray(floor + (1 - floor) / (1 + pressure**own.steepness))

    def step(self, lambda_: np.ndarray, exogenous: np.ndarray) -> Measurement:
        """Serve ``exogenous`` arrivals per sub-interval (I',) under the price that is in force by now; report it."""
        minute = min(self._position // self.config.sub_intervals, self.minutes - 1)
        self._commands.append(np.array(lambda_, np.float64))
        if self._in_force is None:
            self._in_force = self._commands[0]
        late = self.config.delay_minutes * self.config.sub_intervals // max(len(exogenous), 1)
        if not self._hit("stuck", minute) and len(self._commands) > late:
            self._in_force = self._commands[-1 - late]
        relief = self.relief(self._in_force)
        work = self._work(exogenous)
        cpu = self._advance(self._cpu, self._queue, self._degradation, relief, work)
        self.truth.append(cpu)
        measurement = self._report(minute, cpu, relief, np.asarray(exogenous, np.float64))
        self._position += len(exogenous)
        return measurement

    def preview(self, lambda_: np.ndarray, exogenous: np.ndarray) -> np.ndarray:
        """True mean CPU (D,) of the coming step if these prices acted at once; nothing is changed."""
        state = self._cpu.copy(), self._queue.copy(), self._degradation.copy()
        return self._advance(*state, self.relief(lambda_), self._work(exogenous))

    def _work(self, exogenous: np.ndarray) -> np.ndarray:
        """Load (I', D) in percent of capacity at λ = 0."""
        parts = self.config.sub_intervals
        rows = (self._position + np.arange(len(exogenous))) % len(self._cost)
        qps = np.asarray(exogenous, np.float64) * parts / 60
        minute = np.minimum(rows // parts, self.minutes - 1)
        factor = 1.0 if self.disturbances.cost is None else self.disturbances.cost[minute][:, None]
        return np.asarray((qps / self.config.reference_qps)[:, None] * self._load * self._cost[rows] * factor)

    def _advance(
        self, cpu: np.ndarray, queue: np.ndarray, degradation: np.ndarray, relief: np.ndarray, work: np.ndarray
    ) -> np.ndarray:
        own = self.config
        limit = 100.0 * own.queue_seconds / (60 / own.sub_intervals)
        fixed = (self._idle, self._keep, limit, own.degrade_above, own.degrade_relief, own.degrade_recovery)
        return np.asarray(_advance(cpu, queue, degradation, relief, work, *fixed))

    def _hit(self, name: str, minute: int) -> bool:
        values = getattr(self.disturbances, name)
        return bool(values[minute]) if values is not None else False

    def _report(self, minute: int, cpu: np.ndarray, relief: np.ndarray, arrivals: np.ndarray) -> Measurement:
        own = self.config
        shorter = np.sqrt(own.sub_intervals / len(arrivals))  # a reading over less time is noisier
        reading = np.clip(cpu + shorter * self._reading_noise[self._position % len(self._cost)], 0, 100)
        qps = float(arrivals.sum() / (len(arrivals) * 60 / own.sub_intervals))
        if self._hit("frozen", minute) and np.isfinite(self._reported).all():
            reading = self._reported
        self._reported = reading
        if self.disturbances.garbage is not None:
            replaced = np.broadcast_to(self.disturbances.garbage[minute], reading.shape)
            reading = np.where(np.isfinite(replaced), replaced, reading)
        if self._hit("lost", minute) or self._hit("blind", minute):
            reading = np.full_like(reading, np.nan)
        blind = self._hit("blind", minute)
        mix = self._cost[self._position % len(self._cost)]
        cost = np.array(own.core_ms) * relief * (1 + 0.5 * (mix - 1))
        value = 1.0 - 0.35 * (1 - relief).mean()
        served = arrivals.sum()
        aggregates = {"q_sum": float(value * served), "q_mean": float(value)}
        for name, each in zip(own.services, cost):
            aggregates |= {f"c_{name}_sum": float(each * served), f"c_{name}_mean": float(each)}
        seconds = self._position * 60 // own.sub_intervals
        assert self._in_force is not None
        said = self._commands[-1] if self.disturbances.echoed else self._in_force
        return Measurement(
            minute=minute,
            timestamp=self.start + np.timedelta64(seconds, "s"),
            group=self.group,
            qps=float("nan") if blind else qps * self.disturbances.qps_factor,
            cpu=reading,
            degradation=float(self._degradation[0]),
            lambda_=said.copy(),
            arrivals=None if blind else arrivals * self.disturbances.qps_factor,
            aggregates={k: float("nan") for k in aggregates} if blind else aggregates,
        )
