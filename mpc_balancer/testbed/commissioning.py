"""Commissioning: run a plant for some days under a simple PI with a dithered price, to get a table g can learn from."""

from __future__ import annotations

import numpy as np
import pandas as pd

from marca_common.protocols import Measurement, Plant
from marca_common.seeding import numpy_generator
from marca_common.system import system_table
from mpc_balancer.price_scale import PriceScale
from mpc_balancer.testbed.reference_plant import ReferenceConfig, ReferencePlant
from mpc_balancer.testbed.test_traffic import TrafficConfig, synthetic_traffic

_TARGET, _GAIN, _DITHER, _HOLD = 62.0, 0.25, 0.12, 4


def excite(
    plant: Plant,
    arrivals: np.ndarray,
    scale: PriceScale,
    seed: int,
    target: float = _TARGET,
    gain: float = _GAIN,
    dither: float = _DITHER,
    hold: int = _HOLD,
    steps_per_minute: int = 1,
) -> list[Measurement]:
    """PI around ``target`` percent plus a random offset of the price (sd ``dither`` box units) held ``hold`` minutes.

    Without the dither a table would only show the prices that traffic called for, and g could not tell cause from effect.
    """
    generator = numpy_generator(seed, "mpc_balancer", "dither")
    unit, offset = np.full(scale.size, 0.5), np.zeros(scale.size)
    measurements = []
    arrivals = arrivals.reshape(len(arrivals) * steps_per_minute, -1)  # (T, K')
    hold, gain = hold * steps_per_minute, gain / steps_per_minute
    for step in range(len(arrivals)):
        if step % hold == 0:
            offset = dither * generator.standard_normal(scale.size)
        one = plant.step(scale.from_unit(np.clip(unit + offset, 0, 1)), arrivals[step])
        measurements.append(one)
        error = np.nan_to_num((one.cpu - target) / target)
        error = error if len(error) == scale.size else np.full(scale.size, error.max())
        unit = np.clip(unit + gain * error, scale.unit_low, 1.0)
    return measurements


def commission(
    config: ReferenceConfig,
    days: float,
    seed: int,
    price_high: list[float] | None = None,
    traffic: TrafficConfig | None = None,
    steps_per_minute: int = 1,
) -> pd.DataFrame:
    """A system table of the reference plant, one row per control step."""
    minutes = int(days * 1440)
    run = synthetic_traffic(traffic or TrafficConfig(sub_intervals=config.sub_intervals), seed, minutes)
    plant = ReferencePlant(config, seed, minutes)
    high = np.array(price_high) if price_high is not None else 12 * np.array(config.half_price)
    scale = PriceScale(np.zeros(len(high)), high, high / 20)
    return system_table(excite(plant, run.arrivals, scale, seed, steps_per_minute=steps_per_minute), config.services)
