"""How the rooms meet while a day is simulated: protocols, and the records that pass between them.

``Policy``, ``Controller`` and ``Plant`` are all that a closed loop needs. ``Foresight``, ``Reporting`` and ``Previewable``
are offered on top by those who have more to say.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

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


@dataclass(frozen=True)
class Coming:
    """What a controller with foresight is told before its next step: a bound on what can be known, never a fair rival."""

    qps: np.ndarray  # (n,) true requests per second of the coming intervals, the next one first
    cpu_under: Callable[[np.ndarray], np.ndarray] | None  # prices (L,) → true CPU (services,) of the next interval


class Policy(Protocol):
    """Chooses a joint action per request."""

    def decide(self, states: Any, lambda_: np.ndarray) -> np.ndarray:
        """Joint action index per state, int64 (M,), under prices ``lambda_`` (services,)."""
        ...


@runtime_checkable
class Predicting(Protocol):
    """A policy that can say what it expects of its decisions."""

    def expected(self, states: Any, joint: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Value (M,), money, and cost (M, services), core-ms, of joint actions (M,) in states (M,)."""
        ...


class Controller(Protocol):
    """Sets the price of computation of one data centre."""

    @property
    def lambda_(self) -> np.ndarray:
        """The prices last set, (L,), money per core-millisecond; the first interval runs under them."""
        ...

    def step(self, measurement: Measurement) -> np.ndarray:
        """Prices for the next interval, (L,), finite and ≥ 0, whatever is measured."""
        ...


@runtime_checkable
class Foresight(Protocol):
    """A controller that wants to be told what is coming."""

    def foresee(self, coming: Coming) -> None:
        """Take note of the future; called before each step but the last."""
        ...


@runtime_checkable
class Reporting(Protocol):
    """A controller that says what it expected and did."""

    expected_qps: float  # requests per second its last step expected of the next interval; NaN: it has no forecast
    rungs: Counter[str]  # which of its rules answered, how often
    refused: Counter[str]  # which parts of measurements it did not believe, how often


@runtime_checkable
class Alarming(Protocol):
    """A controller that says what an operator must know."""

    alarm_steps: Counter[str]  # alarms by name, and how many control steps each stood


class Plant(Protocol):
    """A data centre under a price."""

    def step(self, lambda_: np.ndarray, exogenous: np.ndarray) -> Measurement:
        """Serve one interval with prices (L,) and ``exogenous`` arrivals per sub-interval; report it."""
        ...


@runtime_checkable
class Previewable(Protocol):
    """A plant that can be tried without consequences."""

    def preview(self, lambda_: np.ndarray, exogenous: np.ndarray) -> np.ndarray:
        """True CPU (services,) of the next interval under prices (L,) and its arrivals."""
        ...
