"""What may be believed of a measurement. At run time a bad one is survived and counted, never fatal."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any

import numpy as np

from marca_common.protocols import Measurement
from mpc_balancer.config import LadderConfig


@dataclass(frozen=True)
class Reading:
    """A measurement after the checks: CPU is NaN where it can't be believed."""

    timestamp: np.datetime64
    cpu: np.ndarray  # (D,) percent or NaN
    qps: float  # NaN where lost
    lambda_: np.ndarray  # (L,) in force; the last command where the report can't be believed
    arrivals: np.ndarray | None
    extras: dict[str, float]


class Checks:
    """Keeps what is needed to tell a frozen sensor from a quiet minute, and counts what was refused."""

    def __init__(self, services: int, prices: int, config: LadderConfig, step_seconds: int = 60) -> None:
        self.services, self.prices, self.config = services, prices, config
        self.step = np.timedelta64(step_seconds, "s")
        self.refused: Counter[str] = Counter()
        self._last: np.ndarray = np.full(services, np.nan)
        self._same = 0
        self._time: Any = None

    def read(self, one: Measurement, command: np.ndarray) -> Reading:
        """The believable part of a measurement; ``command`` stands in for a λ that was not reported."""
        cpu = self._cpu(one.cpu)
        qps = float(one.qps) if np.isfinite(one.qps) and one.qps >= 0 else float("nan")
        self.refused["qps"] += int(np.isnan(qps))
        lambda_ = np.asarray(one.lambda_, np.float64).reshape(-1)
        if lambda_.shape != (self.prices,) or not np.all(np.isfinite(lambda_)) or (lambda_ < 0).any():
            self.refused["lambda"] += 1
            lambda_ = command
        arrivals = None if one.arrivals is None else np.asarray(one.arrivals, np.float64)
        extras = {"degradation": one.degradation, **(one.aggregates or {})}
        return Reading(self._timestamp(one.timestamp), cpu, qps, lambda_, arrivals, extras)

    def _cpu(self, raw: np.ndarray) -> np.ndarray:
        cpu = np.asarray(raw, np.float64).reshape(-1)
        if cpu.shape != (self.services,):
            self.refused["cpu"] += 1
            return np.full(self.services, np.nan)
        with np.errstate(invalid="ignore"):
            cpu = np.where((cpu >= 0) & (cpu <= 100), cpu, np.nan)
        self.refused["cpu"] += int(np.isnan(cpu).any())
        if np.isfinite(cpu).all() and np.array_equal(cpu, self._last) and (cpu < 99.9).all() and (cpu > 0).any():
            self._same += 1
        else:
            self._same = 0
        self._last = cpu
        if self._same >= self.config.frozen_minutes - 1:
            self.refused["frozen"] += 1
            return np.full(self.services, np.nan)
        return cpu

    def _timestamp(self, raw: np.datetime64) -> np.datetime64:
        time = np.datetime64(str(raw), "s")
        if np.isnat(time) or (self._time is not None and time <= self._time):
            self.refused["timestamp"] += 1
            time = np.datetime64("1970-01-01", "s") if self._time is None else self._time + self.step
        self._time = time
        return time
