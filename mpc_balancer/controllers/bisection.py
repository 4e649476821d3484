"""Bisection of λ as in DCAF: cost falls in λ, so each reading halves the bracket; a closed bracket re-opens."""

from __future__ import annotations

from typing import Any

import numpy as np

from mpc_balancer.controllers.checked_reading import Reading
from mpc_balancer.controllers.price_controller import PriceController


class BisectionController(PriceController):
    """One bracket per price, in the price coordinate."""

    STATE = ["_low", "_high"]

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._low = self.scale.unit_low.copy()
        self._high = np.ones(self.scale.size)

    def decide(self, reading: Reading) -> np.ndarray:
        """Halve the bracket towards the target; hold where CPU is unknown."""
        error = self.price_errors((reading.cpu - self.target) / self.target)
        unit = self.scale.to_unit(self.lambda_)
        known = np.isfinite(error)
        self.rungs["bisection" if known.all() else "hold"] += 1
        closed = known & (self._high - self._low < self.config.bisection_tolerance)
        reach = np.clip(np.abs(np.nan_to_num(error)), 0.02, 0.5)
        self._low = np.where(closed, np.maximum(unit - reach, self.scale.unit_low), self._low)
        self._high = np.where(closed, np.minimum(unit + reach, 1.0), self._high)
        self._low = np.where(known & (error > 0), unit, self._low)
        self._high = np.where(known & (error <= 0), unit, self._high)
        self._high = np.maximum(self._high, self._low)
        return self.scale.from_unit(np.where(known, (self._low + self._high) / 2, unit))
