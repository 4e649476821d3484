"""The closed loop: plant and controller take turns, minute by minute."""

from __future__ import annotations

import time
from collections import Counter
from functools import partial

import numpy as np

from marca_common.errors import UserError
from marca_common.plain_numbers import plain_numbers
from marca_common.progress import progress
from marca_common.protocols import Coming, Controller, Foresight, Measurement, Plant, Previewable, Reporting


class LoopResult(list[Measurement]):
    """The measurements of a run, and what they don't say."""

    def __init__(self) -> None:
        super().__init__()
        self.step_seconds: list[float] = []  # wall seconds of each controller step
        self.forecasts: list[float] = []  # traffic each controller step expected of the coming interval, NaN where none
        self.rungs: Counter[str] = Counter()
        self.refused: Counter[str] = Counter()

    @property
    def measured_cpu(self) -> np.ndarray:
        """(T, D) as reported, NaN where lost."""
        return np.array([one.cpu for one in self])

    @property
    def prices(self) -> np.ndarray:
        """Prices in force (T, L)."""
        return np.array([one.lambda_ for one in self])


def closed_loop(
    plant: Plant, controller: Controller, arrivals: np.ndarray, *, steps_per_minute: int = 1, what: str | None = None
) -> LoopResult:
    """Run ``controller`` on ``plant`` over arrivals (T, I); the first interval runs under the controller's first ``lambda_``.

    ``steps_per_minute`` > 1 splits each minute's I sub-intervals into shorter control steps. A controller with Foresight is
    told what is coming; all others only ever see measurements. ``what`` names a progress bar; None shows none. A controller
    that raises, or whose prices are no finite numbers of at least 0, is a UserError that names it.
    """
    parts = arrivals.reshape(len(arrivals) * steps_per_minute, -1)  # (T', I')
    qps = parts.sum(axis=1) * steps_per_minute / 60
    result = LoopResult()
    price = np.asarray(controller.lambda_, np.float64)
    reports = controller if isinstance(controller, Reporting) else None
    for t in progress(range(len(parts)), what=what or "", unit="step", disable=what is None):
        measurement = plant.step(price, parts[t])
        result.append(measurement)
        if isinstance(controller, Foresight) and t + 1 < len(parts):
            trial = partial(plant.preview, exogenous=parts[t + 1]) if isinstance(plant, Previewable) else None
            controller.foresee(Coming(qps[t + 1 : t + 12], trial))
        started = time.perf_counter()
        price = _stepped(controller, measurement, price)
        result.step_seconds.append(time.perf_counter() - started)
        result.forecasts.append(float("nan") if reports is None else float(reports.expected_qps))
    if reports is not None:
        result.rungs, result.refused = Counter(reports.rungs), Counter(reports.refused)
    return result


def _stepped(controller: Controller, measurement: Measurement, before: np.ndarray) -> np.ndarray:
    """The controller's next prices, as many as before; ours always pass, somebody's own may not."""
    place = f"controller {type(controller).__name__}: step {measurement.minute}"
    try:
        given = controller.step(measurement)
    except UserError:
        raise
    except Exception as error:
        raise UserError(f"{place}: {type(error).__name__}: {error}") from error
    price = plain_numbers(given, before.size)
    if price is None or not (np.isfinite(price) & (price >= 0)).all():
        raise UserError(f"{place}: got {str(given)[:80]}; expected {before.size} finite prices of at least 0")
    return price
