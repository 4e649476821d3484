"""The bound: a controller that can try prices on the true plant before it commits, noise and traffic included."""

from __future__ import annotations

import numpy as np

from marca_common.errors import UserError
from marca_common.protocols import Coming
from mpc_balancer.controllers.checked_reading import Reading
from mpc_balancer.controllers.price_controller import PriceController


class ClairvoyantController(PriceController):
    """Puts each coming interval's true CPU on the target, by repeated bisection on the plant itself. Has Foresight."""

    coming: Coming | None = None

    def foresee(self, coming: Coming) -> None:
        """Keep the trial run of the coming interval."""
        self.coming = coming

    def decide(self, reading: Reading) -> np.ndarray:
        """Prices whose true outcome is the target, or the end of the box where it can't be reached."""
        if self.scale.size != len(self.services):
            raise UserError("controller clairvoyant: needs one price per service")
        self.rungs["clairvoyant"] += 1
        unit = self.scale.to_unit(self.lambda_)
        for _ in range(6):  # coordinate-wise bisection, repeated because prices act across services
            before = unit.copy()
            for j in range(len(unit)):
                unit[j] = self._bisect(unit, j)
            if np.abs(unit - before).max() < 1e-3:
                break
        return self.scale.from_unit(unit)

    def _bisect(self, unit: np.ndarray, j: int) -> float:
        if self.coming is None or self.coming.cpu_under is None:
            raise UserError("controller clairvoyant: this plant can't be previewed; it needs the reference plant")
        low, high = float(self.scale.unit_low[j]), 1.0
        for _ in range(12):
            middle = (low + high) / 2
            trial = unit.copy()
            trial[j] = middle
            if self.coming.cpu_under(self.scale.from_unit(trial))[j] > self.target[j]:
                low = middle
            else:
                high = middle
        return high
