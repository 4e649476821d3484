"""PI plus gain schedule, traffic feed-forward and the calendar: the strongest rule without a look-ahead."""

from __future__ import annotations

from typing import Any

import numpy as np

from mpc_balancer.controllers.checked_reading import Reading
from mpc_balancer.controllers.pi import PiController
from mpc_balancer.controllers.pi_law import CostCurve
from mpc_balancer.forecasting.traffic_forecast import Forecaster, TrafficForecast
from mpc_balancer.system_model.tuned import PiGains


class PiFeedforwardController(PiController):
    """Works in log cost relief (gain schedule), adds the log change of measured traffic, knows planned events.

    A model that answers with no numbers, or knows of no effect of λ, leaves plain PI.
    """

    tuned_as = "pi_feedforward"

    def __init__(self, *args: Any, **options: Any) -> None:
        self._forecast_before = np.nan
        super().__init__(*args, **options)
        self.forecaster = Forecaster(self._forecast(), self.calendar)

    def push(self, reading: Reading) -> np.ndarray | float:
        """feedforward · log(forecast of the coming interval / forecast of the one just ended)."""
        self.forecaster.update(reading.timestamp, reading.qps, reading.arrivals)
        before, self._forecast_before = self._forecast_before, self.coming_traffic()
        change = np.log(max(self._forecast_before, 1e-9) / max(before, 1e-9)) if np.isfinite(before) else 0.0
        return self.gains.feedforward * float(np.clip(change, -2, 2))

    def coming_traffic(self) -> float:
        """Requests per second forecast for the interval that the price will act in, times the load that planned capacity makes of it."""
        ahead = 1 + self.late
        time = self.forecaster.time + ahead * np.timedelta64(self.system_model.step_seconds, "s")
        return float(self.forecaster.predict(ahead)[-1] * self.calendar.load(time))

    @property
    def late(self) -> int:
        """Control steps by which prices are presumed to act late."""
        return 0

    def low(self, error: np.ndarray) -> np.ndarray | float:
        """As far below zero as CPU is short of its target.

        Where even a price of zero leaves CPU short, rising traffic is then met by no price too early.
        """
        return np.asarray(np.minimum(np.nan_to_num(error), 0.0))

    def _curve(self) -> CostCurve:
        model = self.system_model
        curve = CostCurve.from_model(model, model.features.group_index(self.group))
        if not curve.learnt:
            return CostCurve.identity(self.scale.size)
        unit = model.prices.to_unit(self.scale.from_unit(curve.unit[:, None].repeat(self.scale.size, axis=1)))
        relief = curve.to_relief(unit)  # the same curve over this controller's own box
        return CostCurve(curve.unit, np.maximum.accumulate(relief.T, axis=1) + 1e-6 * curve.unit)

    def _gains(self, tuned_as: str) -> PiGains:
        scheduled = len(self.curve.unit) > 2
        return super()._gains(tuned_as if scheduled else "pi")

    def _forecast(self) -> TrafficForecast:
        """Traffic as measured (and the calendar)."""
        return TrafficForecast.persistence(1, self.system_model.step_seconds)
