"""A fixed λ: what the budget would be without control."""

from __future__ import annotations

import numpy as np

from mpc_balancer.controllers.checked_reading import Reading
from mpc_balancer.controllers.price_controller import PriceController


class FixedController(PriceController):
    """Holds ``fixed_price`` (or ``start``)."""

    def decide(self, reading: Reading) -> np.ndarray:
        """The same prices whatever is measured."""
        self.rungs["fixed"] += 1
        given = self.config.fixed_price
        return self.lambda_ if given is None else np.asarray(given, np.float64)
