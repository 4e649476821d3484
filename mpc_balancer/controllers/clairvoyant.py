"""The bound: a controller that can try prices on the true plant before it commits, noise and traffic included."""

from __future__ import annotations

from typing import Any

import numpy as np

from marca_common.errors import UserError
from marca_common.plain_numbers import attribute, plain_numbers
from marca_common.protocols import Coming
from mpc_balancer.controllers.checked_reading import Reading
from mpc_balancer.controllers.price_controller import PriceController


class ClairvoyantController(PriceController):
    """Puts each coming interval's true CPU on the target, by repeated bisection on the plant itself. Has Foresight."""

    coming: Coming | None = None

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        if self.scale.size != len(self.services):
            raise UserError("controller clairvoyant: needs one price per service")

    def foresee(self, coming: Coming) -> None:
        """Keep the trial run of the coming interval; a UserError for a plant that can't be tried, told before the first step."""
        if type(coming) is Coming and coming.cpu_under is None and self.coming is None:
            raise UserError("controller clairvoyant: this plant can't be previewed; it needs the reference plant")
        if callable(attribute(coming, "cpu_under")):
            self.coming = coming
        else:
            self.refused["coming"] += 1

    def decide(self, reading: Reading) -> np.ndarray:
        """Prices whose true outcome is the target, or the end of the box where it can't be reached; held without a trial."""
        unit = self.scale.to_unit(self.lambda_)
        for _ in range(6):  # coordinate-wise bisection, repeated because prices act across services
            before = unit.copy()
            for j in range(len(unit)):
                found = self._bisect(unit, j)
                if found is None:
                    self.rungs["hold"] += 1
                    return self.lambda_
                unit[j] = found
            if np.abs(unit - before).max() < 1e-3:
                break
        self.rungs["clairvoyant"] += 1
        return self.scale.from_unit(unit)

    def _bisect(self, unit: np.ndarray, j: int) -> float | None:
        low, high = float(self.scale.unit_low[j]), 1.0
        for _ in range(12):
            middle = (low + high) / 2
            trial = unit.copy()
            trial[j] = middle
            cpu = self._tried(self.scale.from_unit(trial))
            if cpu is None:
                return None
            if cpu[j] > self.target[j]:
                low = middle
            else:
                high = middle
        return high

    def _tried(self, prices: np.ndarray) -> np.ndarray | None:
        """True CPU (D,) under prices (L,), percent; None without a trial, or with one that failed."""
        if self.coming is None or self.coming.cpu_under is None:
            return None
        try:
            cpu = plain_numbers(self.coming.cpu_under(prices), len(self.services))
        except Exception:  # the trial is the plant's: whatever goes wrong there must not stop the loop
            cpu = None
        if cpu is None or not np.isfinite(cpu).all():
            self.refused["coming"] += 1
            return None
        return cpu
