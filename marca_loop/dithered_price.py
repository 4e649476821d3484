"""Throws a price about while a system model is learned, so that the model can tell cause from effect."""

from __future__ import annotations

import numpy as np

from marca_common.protocols import Measurement
from marca_common.seeding import numpy_generator
from mpc_balancer.price_scale import PriceScale

_GAIN, _HOLD = 0.1, 3  # share of the box per relative error and interval; intervals that an offset is held


class DitheredPrice:
    """A slow integral controller of one price with a random offset; a Controller that keeps what it measured."""

    def __init__(self, scale: PriceScale, target: float, dither: float, seed: int, start: float = 0.5) -> None:
        self.scale, self.target, self.dither = scale, target, dither
        self.measurements: list[Measurement] = []
        self.generator = numpy_generator(seed, "live_mpc", "dither")
        self.unit, self.offset = 0.5, 0.0
        self.lambda_ = scale.from_unit(np.full(1, start))

    def step(self, measurement: Measurement) -> np.ndarray:
        """The price of the next interval, (1,)."""
        self.unit = float(np.clip(self.unit + _GAIN * (measurement.cpu[0] / self.target - 1), 0, 1))
        if len(self.measurements) % _HOLD == 0:
            self.offset = self.dither * self.generator.standard_normal()
        self.measurements.append(measurement)
        self.lambda_ = self.scale.from_unit(np.clip([self.unit + self.offset], 0, 1))
        return self.lambda_
