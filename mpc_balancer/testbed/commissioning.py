"""Commissioning: run a plant for some days under a slow rule with a dithered price, to get a table g can learn from."""

from __future__ import annotations

import numpy as np

from marca_common.protocols import Measurement, Plant
from marca_common.seeding import numpy_generator
from marca_common.system import system_table
from mpc_balancer.config import ColumnsConfig
from mpc_balancer.controllers.pi_law import pi_step
from mpc_balancer.price_scale import PriceScale
from mpc_balancer.system_model.minute_table import SystemData, from_frame
from mpc_balancer.testbed.reference_plant import ReferenceConfig, ReferencePlant
from mpc_balancer.testbed.reference_traffic import SyntheticTrafficConfig, synthetic_traffic

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
    """A slow integral rule around ``target`` percent plus a random offset of the price (sd ``dither`` box units) held ``hold`` minutes.

    Without the dither a table would only show the prices that traffic called for, and g could not tell cause from effect.
    """
    unit, measurements = np.full(scale.size, 0.5), []
    arrivals = arrivals.reshape(len(arrivals) * steps_per_minute, -1)  # (T, I')
    gain = gain / steps_per_minute
    offset = dither * dither_offsets(len(arrivals), scale.size, hold * steps_per_minute, seed)
    for step in range(len(arrivals)):
        one = plant.step(scale.from_unit(np.clip(unit + offset[step], 0, 1)), arrivals[step])
        measurements.append(one)
        error = np.nan_to_num((one.cpu - target) / target)
        error = error if len(error) == scale.size else np.full(scale.size, error.max())
        unit = pi_step(unit, error, error, kp=0.0, ki=gain, down=1.0, push=0.0, top=1.0, low=scale.unit_low)
    return measurements


def dither_offsets(steps: int, prices: int, hold: int, seed: int) -> np.ndarray:
    """Offsets (steps, prices) of standard deviation 1, drawn anew every ``hold`` steps, for each price by itself."""
    drawn = numpy_generator(seed, "mpc_balancer", "dither").standard_normal((-(-steps // hold), prices))
    return np.asarray(drawn.repeat(hold, axis=0)[:steps])


def commissioned_table(
    columns: ColumnsConfig, days: float, seed: int, steps_per_minute: int = 1, dither: float = _DITHER
) -> SystemData:
    """A system table of the reference plant, one row per control step, read under the given column names."""
    config, minutes = ReferenceConfig(), int(days * 1440)
    run = synthetic_traffic(SyntheticTrafficConfig(sub_intervals=config.sub_intervals), seed, minutes)
    high = 12 * np.array(config.half_price)
    scale = PriceScale(np.zeros(len(high)), high, high / 20)
    plant = ReferencePlant(config, seed, minutes)
    measurements = excite(plant, run.arrivals, scale, seed, dither=dither, steps_per_minute=steps_per_minute)
    return from_frame(system_table(measurements, config.services), columns, config.services, "reference plant")
