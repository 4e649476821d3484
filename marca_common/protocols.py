"""How the rooms meet while a day is simulated: three small protocols and the record that passes between them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np


@dataclass(frozen=True)
class Measurement:
    """What one data centre reports at the end of a control interval; unknown numbers are NaN, never made up."""

    minute: int  # minutes since the start of the run; the interval just ended is [minute, minute + 1)
    timestamp: np.datetime64  # start of the interval
    group: str  # data centre
    qps: float  # requests per second over the interval
    cpu: np.ndarray  # percent of the declared cores, per service (services,); NaN where the measurement was lost
    degradation: float  # elastic degradation level in force, 0 = none
    lambda_: np.ndarray  # price actually in force, money per core-millisecond, per service (services,)
    arrivals: np.ndarray | None = None  # requests per sub-interval, in order, where the table has them
    aggregates: dict[str, float] = field(default_factory=dict)  # q_sum, q_mean, c_<service>_sum, c_<service>_mean


class Policy(Protocol):
    """Chooses a joint action per request."""

    def decide(self, states: Any, lambda_: np.ndarray) -> np.ndarray:
        """Joint action index per state, int64 (M,), under prices ``lambda_`` (services,)."""
        ...


class Controller(Protocol):
    """Sets the price of computation of one data centre."""

    def step(self, measurement: Measurement) -> np.ndarray:
        """Prices for the next interval, (services,), finite and inside the controller's box, whatever is measured."""
        ...


class Plant(Protocol):
    """A data centre under a price."""

    def step(self, lambda_: np.ndarray, exogenous: np.ndarray) -> Measurement:
        """Serve one interval with prices (services,) and ``exogenous`` arrivals per sub-interval; report it."""
        ...
