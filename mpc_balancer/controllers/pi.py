"""Velocity-form PI on CPU in the logarithmic price coordinate: the feedback rule that MPC is compared with."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from mpc_balancer.controllers.checked_reading import Reading
from mpc_balancer.controllers.pi_law import CostCurve, knows_prices, pi_step
from mpc_balancer.controllers.price_controller import PriceController
from mpc_balancer.system_model.tuned import PiGains


class PiController(PriceController):
    """u' = u + kp·Δe + ki·e with e = log(CPU / target), clamped to the box."""

    tuned_as = "pi"

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.curve = self._curve()
        self.gains = self._gains(self.tuned_as)
        self._state = self.curve.to_relief(self.scale.to_unit(self.lambda_))
        self._error = np.full(self.scale.size, np.nan)

    def decide(self, reading: Reading) -> np.ndarray:
        """One PI step; a lost reading holds the price (but for the feed-forward, where there is one)."""
        with np.errstate(divide="ignore"):
            error = self.price_errors(np.log(np.maximum(reading.cpu, 0.5) / self.target)) - self.coming_relief()
        gains = self.gains
        self.rungs[self.tuned_as if np.isfinite(error).all() else "hold"] += 1
        self._state = pi_step(
            self._state,
            error,
            self._error,
            gains.kp,
            gains.ki,
            gains.down_factor,
            self.push(reading),
            self.curve.top,
            self.low(error),
        )
        self._error = error
        return self.scale.from_unit(self.curve.to_unit(self._state))

    def applied(self, lambda_: np.ndarray) -> None:
        """Go on from the price that was set where moves are limited (anti-windup)."""
        if self.config.moves.limited:
            self.follow(lambda_)

    def follow(self, lambda_: np.ndarray) -> None:
        """Start from another controller's price, so that taking over makes no jump."""
        self.lambda_ = self.scale.clip(lambda_)
        self._state = self.curve.to_relief(self.scale.to_unit(self.lambda_))

    def push(self, reading: Reading) -> np.ndarray | float:
        """Feed-forward of this step; none here."""
        return 0.0

    def coming_relief(self) -> np.ndarray | float:
        """What commands on their way will take off the error; nothing is known of them here."""
        return 0.0

    def low(self, error: np.ndarray) -> np.ndarray | float:
        """Lower end of the state."""
        return 0.0

    def _curve(self) -> CostCurve:
        return CostCurve.identity(self.scale.size)

    def _gains(self, tuned_as: str) -> PiGains:
        """The tuned gains of that controller, with those that the config gives in their place.

        Gains tuned on a model that knows of no effect of λ would be wild; the cautious defaults stand in for them.
        """
        knows = self.model is not None and knows_prices(self.model, self.model.features.group_index(self.group))
        tuned = self.model.tuned.pi_gains if self.model is not None and knows else {}
        return replace(tuned.get(tuned_as, PiGains()), **self.config.pi.model_dump(exclude_none=True))
