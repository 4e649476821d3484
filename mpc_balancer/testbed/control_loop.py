"""The closed loop: plant and controller take turns, minute by minute."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np

from marca_common.errors import UserError
from marca_common.plain_numbers import plain_number, plain_numbers
from marca_common.progress import progress
from marca_common.protocols import Alarming, Coming, Controller, Foresight, Measurement, Plant, Previewable, Reporting


class LoopResult(list[Measurement]):
    """The measurements of a run, and what they don't say."""

    def __init__(self) -> None:
        super().__init__()
        self.step_seconds: list[float] = []  # wall seconds of each controller step
        self.forecasts: list[float] = []  # traffic each controller step expected of the coming interval, NaN where none
        self.rungs: Counter[str] = Counter()
        self.refused: Counter[str] = Counter()
        self.alarms: Counter[str] = Counter()  # control steps that each alarm stood

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
    with _named(controller, "lambda_"):
        price = _prices(controller, controller.lambda_, "lambda_")
    reports = controller if isinstance(controller, Reporting) else None
    for t in progress(range(len(parts)), what=what or "", unit="step", disable=what is None):
        measurement = plant.step(price, parts[t])
        result.append(measurement)
        if isinstance(controller, Foresight) and t + 1 < len(parts):
            trial = partial(plant.preview, exogenous=parts[t + 1]) if isinstance(plant, Previewable) else None
            with _named(controller, f"foresee {t}"):
                controller.foresee(Coming(qps[t + 1 : t + 12], trial))
        started = time.perf_counter()
        with _named(controller, f"step {t}"):
            given = controller.step(measurement)
        result.step_seconds.append(time.perf_counter() - started)
        price = _prices(controller, given, f"step {t}", price.size)
        result.forecasts.append(float("nan") if reports is None else plain_number(reports.expected_qps))
    if reports is not None:
        result.rungs, result.refused = Counter(reports.rungs), Counter(reports.refused)
    if isinstance(controller, Alarming):
        result.alarms = Counter(controller.alarm_steps)
    return result


@contextmanager
def _named(controller: Controller, moment: str) -> Iterator[None]:
    """What somebody's own controller raises, as a UserError that names it; ours never raise."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        raise UserError(f"controller {type(controller).__name__}: {moment}: {type(error).__name__}: {error}") from error


def _prices(controller: Controller, given: Any, moment: str, count: int | None = None) -> np.ndarray:
    """Prices (L,) that a controller named, as many as ``count``; a UserError for what are none."""
    price = plain_numbers(given, count)
    if price is None or not (np.isfinite(price) & (price >= 0)).all():
        raise UserError(
            f"controller {type(controller).__name__}: {moment}: got {str(given)[:80]}; expected {count or 'some'} finite"
            " prices of at least 0"
        )
    return price
