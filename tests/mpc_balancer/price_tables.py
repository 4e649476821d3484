"""Minute tables of the reference plant under several ways to move λ."""

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd

from marca_common.system import system_table
from mpc_balancer.config import ColumnsConfig
from mpc_balancer.price_scale import PriceScale
from mpc_balancer.system_model.minute_table import SystemData, from_frame
from mpc_balancer.testbed.commissioning import excite
from mpc_balancer.testbed.reference_plant import ReferenceConfig, ReferencePlant
from mpc_balancer.testbed.reference_traffic import SyntheticTrafficConfig, synthetic_traffic

PLANT = ReferenceConfig()
HIGH = 12 * np.array(PLANT.half_price)
SCALE = PriceScale(np.zeros(2), HIGH, HIGH / 20)
Rule = Callable[[np.ndarray, np.ndarray, int], Any]  # (last minute's CPU, traffic so far, minute) → box units (2,)


def arrivals(seed: int, minutes: int) -> np.ndarray:
    return synthetic_traffic(SyntheticTrafficConfig(), seed, minutes).arrivals


@functools.cache
def dithered(dither: float = 0.12, seed: int = 3, minutes: int = 900, noise: float = 0.5) -> pd.DataFrame:
    """A table of the reference plant under a slow rule with a dithered price."""
    plant = ReferencePlant(ReferenceConfig(reading_noise=noise), seed, minutes)
    return system_table(excite(plant, arrivals(seed, minutes), SCALE, seed, dither=dither), PLANT.services)


def ruled(rule: Rule, seed: int = 3, minutes: int = 900) -> pd.DataFrame:
    """A table of the reference plant under a rule without dither."""
    plant, coming = ReferencePlant(PLANT, seed, minutes), arrivals(seed, minutes)
    qps, cpu, measured = coming.sum(axis=1) / 60, np.full(2, 60.0), []
    for t in range(minutes):
        measured.append(plant.step(SCALE.from_unit(np.clip(rule(cpu, qps[:t], t), 0, 1)), coming[t]))
        cpu = measured[-1].cpu
    return system_table(measured, PLANT.services)


def constant(*_: Any) -> np.ndarray:
    return np.array([0.45, 0.45])


def after_traffic(cpu: np.ndarray, qps: np.ndarray, t: int) -> np.ndarray:
    last = np.log(qps[-1] / 400) if t else 0.0
    return np.array([0.5 + 0.4 * last, 0.5 + 0.2 * last + 0.3 * last**2])


def together(cpu: np.ndarray, qps: np.ndarray, t: int) -> np.ndarray:
    return np.full(2, 0.5 + 0.1 * np.random.default_rng(t // 4).standard_normal())


def seldom(cpu: np.ndarray, qps: np.ndarray, t: int) -> np.ndarray:
    """By hand, twice a day: present CPU then says all that λ does, and a model has no need to learn it."""
    return 0.5 + 0.15 * np.random.default_rng(t // 720).standard_normal(2)


def as_data(frame: pd.DataFrame, **columns: Any) -> SystemData:
    return from_frame(frame, ColumnsConfig(**columns), PLANT.services)
