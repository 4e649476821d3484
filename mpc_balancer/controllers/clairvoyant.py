"""The bound: a controller that can try prices on the true plant before it commits, noise and traffic included."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from marca_common.errors import UserError
from mpc_balancer.controllers.base import PriceController
from mpc_balancer.controllers.checked_reading import Reading

Preview = Callable[[np.ndarray], np.ndarray]  # prices (L,) → the true CPU (S,) of the coming interval


class ClairvoyantController(PriceController):
    """Puts each coming interval's true CPU on the target, by damped Newton steps and bisection on the plant itself."""

    preview: Preview | None = None  # set by the loop before every step

    def decide(self, reading: Reading) -> np.ndarray:
        """Prices whose true outcome is the target, or the end of the box where it can't be reached."""
        if self.preview is None:
            raise UserError("controller clairvoyant: this plant can't be previewed; it needs the reference plant")
        self.rungs["clairvoyant"] += 1
        if self.scale.size != len(self.services):
            raise UserError("controller clairvoyant: needs one price per service")
        unit = self.scale.to_unit(self.lambda_)
        for _ in range(6):  # coordinate-wise bisection, repeated because prices act across services
            before = unit.copy()
            for j in range(len(unit)):
                unit[j] = self._bisect(unit, j)
            if np.abs(unit - before).max() < 1e-3:
                break
        return self.scale.from_unit(unit)

    def _bisect(self, unit: np.ndarray, j: int) -> float:
        assert self.preview is not None
        low, high = float(self.scale.unit_low[j]), 1.0
        for _ in range(12):
            middle = (low + high) / 2
            trial = unit.copy()
            trial[j] = middle
            if self.preview(self.scale.from_unit(trial))[j] > self.target[j]:
                low = middle
            else:
                high = middle
        return high if high < 1.0 else 1.0
