"""What may be believed of a measurement. At run time a bad one is survived and counted, never fatal."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import numpy as np

from marca_common.plain_numbers import attribute, plain_mapping, plain_number, plain_numbers, plain_text
from mpc_balancer.config import LadderConfig
from mpc_balancer.controllers.clock import Clock
from mpc_balancer.controllers.stuck_sensor import StuckSensors
from mpc_balancer.stateful import Stateful


@dataclass(frozen=True)
class Reading:
    """A measurement after the checks: CPU is NaN where it can't be believed."""

    timestamp: np.datetime64  # UTC
    cpu: np.ndarray  # (D,) percent or NaN
    qps: float  # NaN where lost
    lambda_: np.ndarray  # (L,) in force; the last command where the report can't be believed
    arrivals: np.ndarray | None
    extras: dict[str, float]


class Checks(Stateful):
    """Turns whatever was handed to a controller into a Reading, and counts what was refused."""

    STATE = ["refused", "clock", "stuck"]

    def __init__(
        self,
        services: int,
        prices: int,
        config: LadderConfig,
        step_seconds: int = 60,
        group: str | None = None,
        other_groups: Collection[str] = (),
        most_qps: float = np.inf,
    ) -> None:
        """A measurement of one of ``other_groups`` is lost, traffic above ``most_qps`` not believed."""
        self.services, self.prices = services, prices
        self.group, self.other_groups, self.most_qps = group, other_groups, most_qps
        self.refused: Counter[str] = Counter()
        self.clock = Clock(step_seconds)
        self.stuck = StuckSensors(services, config.frozen_minutes)

    def read(self, one: Any, command: np.ndarray) -> Reading:
        """The believable part of a measurement; ``command`` stands in for a λ that was not reported."""
        if self._foreign(attribute(one, "group")):
            one = None
        qps = self._qps(attribute(one, "qps"))
        timestamp, right = self.clock.read(attribute(one, "timestamp"))
        self.refused["timestamp"] += not right
        return Reading(
            timestamp,
            self._cpu(attribute(one, "cpu"), qps),
            qps,
            self._lambda(attribute(one, "lambda_"), command),
            self._arrivals(attribute(one, "arrivals")),
            self._extras(attribute(one, "degradation"), attribute(one, "aggregates")),
        )

    def _foreign(self, group: Any) -> bool:
        """Whether the measurement is another data centre's; an unknown name is only counted."""
        name = plain_text(group)
        self.refused["group"] += self.group is not None and name != self.group
        return name in self.other_groups

    def _qps(self, raw: Any) -> float:
        qps = plain_number(raw)
        if 0 <= qps <= min(self.most_qps, np.finfo(np.float64).max):
            return qps
        self.refused["qps"] += 1
        return float("nan")

    def _cpu(self, raw: Any, qps: float) -> np.ndarray:
        """Percent (D,); NaN outside 0 to 100, for 0 unless nothing was asked for, and for a stuck sensor."""
        found = plain_numbers(raw, self.services)
        cpu = np.full(self.services, np.nan) if found is None else found
        cpu = np.where((cpu >= 0) & (cpu <= 100) & ((cpu > 0) | (qps == 0)), cpu, np.nan)
        self.refused["cpu"] += int(np.isnan(cpu).any())
        stuck = self.stuck.update(cpu)
        self.refused["frozen"] += int(stuck.any())
        return np.where(stuck, np.nan, cpu)

    def _lambda(self, raw: Any, command: np.ndarray) -> np.ndarray:
        lambda_ = plain_numbers(raw, self.prices)
        if lambda_ is not None and np.isfinite(lambda_).all() and (lambda_ >= 0).all():
            return lambda_
        self.refused["lambda"] += 1
        return command

    def _arrivals(self, raw: Any) -> np.ndarray | None:
        arrivals = None if raw is None else plain_numbers(raw)
        if arrivals is not None and np.isfinite(arrivals).all() and (arrivals >= 0).all():
            return arrivals
        self.refused["arrivals"] += raw is not None
        return None

    def _extras(self, degradation: Any, aggregates: Any) -> dict[str, float]:
        """Further inputs; a NaN is an honest unknown, anything else that is no finite number is counted."""
        mapping = plain_mapping(aggregates)
        raw = {"degradation": degradation, **(mapping or {})}
        values = {name: plain_number(one) for name, one in raw.items()}
        wrong = (not np.isfinite(values[name]) and not _unknown(one) for name, one in raw.items())
        self.refused["aggregates"] += mapping is None or any(wrong)
        return values


def _unknown(value: Any) -> bool:
    """Whether a value is a float's NaN, said outright."""
    return type(value) in (float, np.float64, np.float32, np.float16) and bool(np.isnan(value))
