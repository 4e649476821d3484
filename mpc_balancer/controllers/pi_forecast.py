"""PI + feed-forward plus the very traffic forecasts that MPC uses: separates what forecasts bring from what MPC brings."""

from __future__ import annotations

from mpc_balancer.controllers.pi_feedforward import PiFeedforwardController
from mpc_balancer.forecasting.traffic_forecast import TrafficForecast


class PiForecastController(PiFeedforwardController):
    """Identical to pi_feedforward but for the forecast."""

    tuned_as = "pi_forecast"

    def _forecast(self) -> TrafficForecast:
        return self.system_model.traffic_forecast(self.group)
