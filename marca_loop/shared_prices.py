"""A controller with fewer prices than services, joined to a plant and a policy that know one price per service."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np

from marca_common.protocols import Alarming, Controller, Measurement, Reporting


class SharedPrices:
    """Every service pays the price declared for it: prices (L,) of a controller become prices (services,), and back."""

    def __init__(self, controller: Controller, price_of: np.ndarray) -> None:
        """``price_of`` (services,): which of the controller's prices each service pays; each price has a service."""
        self.controller, self.price_of = controller, price_of
        self.first = np.array([np.flatnonzero(price_of == price)[0] for price in range(int(price_of.max()) + 1)])
        reports = controller if isinstance(controller, Reporting) else None
        self.rungs = reports.rungs if reports is not None else Counter[str]()
        self.refused = reports.refused if reports is not None else Counter[str]()
        self.alarm_steps = controller.alarm_steps if isinstance(controller, Alarming) else Counter[str]()

    @property
    def lambda_(self) -> np.ndarray:
        """Prices last set, (services,)."""
        return np.asarray(self.controller.lambda_[self.price_of])

    @property
    def expected_qps(self) -> float:
        """Traffic the controller expected; NaN where it has no forecast."""
        return float(getattr(self.controller, "expected_qps", np.nan))

    def step(self, measurement: Measurement) -> np.ndarray:
        """Prices of the next interval, (services,)."""
        in_force = np.asarray(measurement.lambda_)[self.first]
        return np.asarray(self.controller.step(replace(measurement, lambda_=in_force))[self.price_of])
