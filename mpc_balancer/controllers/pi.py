"""Velocity-form PI on CPU in the logarithmic price coordinate: the feedback rule that MPC is compared with."""

from __future__ import annotations

from typing import Any

import numpy as np

from mpc_balancer.controllers.base import PriceController
from mpc_balancer.controllers.checked_reading import Reading
from mpc_balancer.controllers.pi_law import CostCurve, PiGains, pi_step


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
            error = self.price_errors(np.log(np.maximum(reading.cpu, 0.5) / self.target))
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
            self.slack(error),
        )
        self._error = error
        return self.scale.from_unit(self.curve.to_unit(self._state))

    def follow(self, lambda_: np.ndarray) -> None:
        """Start from another controller's price, so that taking over makes no jump."""
        self.lambda_ = self.scale.clip(lambda_)
        self._state = self.curve.to_relief(self.scale.to_unit(self.lambda_))

    def push(self, reading: Reading) -> np.ndarray | float:
        """Feed-forward of this step; none here."""
        return 0.0

    def slack(self, error: np.ndarray) -> np.ndarray | float:
        """How far below zero the state may rest; not at all here."""
        return 0.0

    def _curve(self) -> CostCurve:
        return CostCurve.identity(self.scale.size)

    def _gains(self, tuned_as: str) -> PiGains:
        tuned = self.model.tuned.get("pi_gains", {}).get(tuned_as, {}) if self.model is not None else {}
        given = {k: v for k, v in self.config.pi.model_dump().items() if v is not None}
        return PiGains.from_dict({**PiGains().to_dict(), **tuned, **given})
