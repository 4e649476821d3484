"""A fixed λ: what the budget would be without control."""

from __future__ import annotations

from typing import Any

import numpy as np

from marca_common.errors import UserError
from mpc_balancer.controllers.checked_reading import Reading
from mpc_balancer.controllers.price_controller import PriceController


class FixedController(PriceController):
    """Holds ``fixed_price`` (or ``start``)."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        given = self.config.fixed_price
        if given is not None and len(given) != self.scale.size:
            raise UserError(f"controller fixed: fixed_price: got {len(given)} prices; expected {self.scale.size}")

    def decide(self, reading: Reading) -> np.ndarray:
        """The same prices whatever is measured."""
        self.rungs["fixed"] += 1
        given = self.config.fixed_price
        return self.lambda_ if given is None else np.asarray(given, np.float64)

    def follow(self, lambda_: np.ndarray) -> None:
        """Whatever others set, this one stays where it is."""
