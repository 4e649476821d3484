"""The closed loop: plant and controller take turns, minute by minute."""

from __future__ import annotations

import time
from collections import Counter

import numpy as np

from marca_common.progress import progress
from marca_common.protocols import Controller, Measurement, Plant


class LoopResult(list[Measurement]):
    """The measurements of a run, and what they don't say."""

    def __init__(self) -> None:
        super().__init__()
        self.step_seconds: list[float] = []  # wall seconds of each controller step
        self.commands: list[np.ndarray] = []  # prices sent to the plant in each interval
        self.forecasts: list[float] = []  # traffic each controller step expected of the coming interval, NaN where none
        self.rungs: Counter[str] = Counter()
        self.refused: Counter[str] = Counter()

    @property
    def measured_cpu(self) -> np.ndarray:
        """(T, S) as reported, NaN where lost."""
        return np.array([one.cpu for one in self])

    @property
    def prices(self) -> np.ndarray:
        """Prices in force (T, L)."""
        return np.array([one.lambda_ for one in self])


def closed_loop(
    plant: Plant, controller: Controller, arrivals: np.ndarray, *, steps_per_minute: int = 1, what: str | None = None
) -> LoopResult:
    """Run ``controller`` on ``plant`` over arrivals (minutes, sub-intervals); the first interval runs under its start price.

    ``steps_per_minute`` > 1 splits each minute's sub-intervals into shorter control steps. Controllers that look into the
    future (knows_next_minute, clairvoyant) are given it; all others only ever see measurements.
    """
    parts = arrivals.reshape(len(arrivals) * steps_per_minute, -1)  # (T, K')
    qps = parts.sum(axis=1) * steps_per_minute / 60
    result = LoopResult()
    price = np.asarray(getattr(controller, "lambda_"), np.float64)  # noqa: B009 - not part of the protocol
    steps = range(len(parts)) if what is None else progress(range(len(parts)), what=what, unit="step")
    for t in steps:
        measurement = plant.step(price, parts[t])
        result.append(measurement)
        result.commands.append(price)
        if t + 1 < len(parts):
            _reveal(controller, plant, qps[t + 1 : t + 12], parts[t + 1])
        started = time.perf_counter()
        price = controller.step(measurement)
        result.step_seconds.append(time.perf_counter() - started)
        result.forecasts.append(float(getattr(controller, "expected_qps", float("nan"))))
    result.rungs = Counter(getattr(controller, "rungs", {}))
    result.refused = Counter(getattr(getattr(controller, "checks", None), "refused", {}))
    return result


def _reveal(controller: Controller, plant: Plant, future_qps: np.ndarray, coming: np.ndarray) -> None:
    if hasattr(controller, "foresee"):
        controller.foresee(future_qps)
    if hasattr(controller, "preview") and hasattr(plant, "preview"):
        controller.preview = lambda prices: plant.preview(prices, coming)
