"""Synthetic traffic for the reference plant: a day shape with noise at several time scales."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from pydantic import Field
from scipy.signal import lfilter

from marca_common.config import Config
from marca_common.seeding import numpy_generator


class Surge(Config):
    """An unplanned or planned change of traffic."""

    minute: int = Field(description="minute of the run at which it sets in", ge=0)
    factor: float = Field(description="traffic is multiplied by this", gt=0)
    decay_minutes: float | None = Field(None, gt=0, description="time constant of the return to normal; null = stays")
    minutes: int | None = Field(None, gt=0, description="ends after so many minutes; null = decays or stays")
    announced: float | None = Field(None, gt=0, description="factor that the calendar promises; null = not announced")


class SyntheticTrafficConfig(Config):
    """Synthetic traffic of one data centre."""

    mean_qps: float = Field(400.0, gt=0, description="typical requests per second")
    swing: float = Field(0.38, ge=0, description="amplitude of the day in log traffic (0.38: trough .68, peak 1.46)")
    wander: float = Field(0.05, ge=0, description="standard deviation of slow log fluctuations")
    wander_minutes: float = Field(30.0, gt=0, description="their time constant")
    jitter: float = Field(0.03, ge=0, description="standard deviation of fast log fluctuations")
    jitter_minutes: float = Field(1.5, gt=0, description="their time constant")
    sub_intervals: int = Field(6, ge=1, description="sub-intervals per minute")


@dataclass(frozen=True)
class TrafficRun:
    """Arrivals of a run."""

    timestamps: np.ndarray  # datetime64[s] (T,) start of each minute
    arrivals: np.ndarray  # (T, I) requests per sub-interval
    scale: float = 1.0  # recorded traffic was multiplied by this


def synthetic_traffic(
    config: SyntheticTrafficConfig,
    seed: int,
    minutes: int,
    start: str = "2026-03-02",
    surges: list[Surge] | None = None,
) -> TrafficRun:
    """Poisson arrivals around a day shape, two Ornstein-Uhlenbeck fluctuations and the given surges."""
    generator = numpy_generator(seed, "mpc_balancer", "traffic")
    count = minutes * config.sub_intervals
    minute = (np.arange(count) + 0.5) / config.sub_intervals
    phase = 2 * np.pi * minute / 1440
    log_rate = config.swing * (0.85 * np.sin(phase - 2.0) + 0.3 * np.sin(2 * phase - 0.6))
    step = 1 / config.sub_intervals
    log_rate += wander(generator, (count,), config.wander, config.wander_minutes / step)
    log_rate += wander(generator, (count,), config.jitter, config.jitter_minutes / step)
    rate = config.mean_qps * np.exp(log_rate) * surge_factor(surges or [], minute)
    arrivals = generator.poisson(rate * 60 * step).astype(np.float64)
    return TrafficRun(
        np.datetime64(start, "s") + np.arange(minutes) * np.timedelta64(60, "s"),
        arrivals.reshape(minutes, config.sub_intervals),
    )


def surge_factor(surges: list[Surge], minute: np.ndarray) -> np.ndarray:
    """Product of all surges at (fractional) minutes."""
    out = np.ones_like(minute)
    for surge in surges:
        since = minute - surge.minute
        active = (since >= 0) & ((surge.minutes is None) | (since < (surge.minutes or 0)))
        size = (
            np.ones_like(minute) if surge.decay_minutes is None else np.exp(-np.maximum(since, 0) / surge.decay_minutes)
        )
        out *= np.where(active, 1 + (surge.factor - 1) * size, 1.0)
    return out


def calendar_frame(surges: list[Surge], start: np.datetime64) -> pd.DataFrame:
    """The calendar that announces the surges which are announced."""
    known = [s for s in surges if s.announced is not None]
    return pd.DataFrame(
        {
            "start": [start + np.timedelta64(60 * s.minute, "s") for s in known],
            "factor": [float(s.announced or 1.0) for s in known],
            "decay_minutes": [float(s.decay_minutes or s.minutes or 60.0) for s in known],
        }
    )


def wander(generator: np.random.Generator, shape: tuple[int, ...], deviation: float, steps: float) -> np.ndarray:
    """Stationary Ornstein-Uhlenbeck paths (T, …) of that standard deviation and time constant in steps."""
    keep = np.exp(-1 / steps)
    noise = generator.standard_normal(shape) * np.sqrt(1 - keep**2)
    noise[0] = generator.standard_normal(shape[1:])
    return np.asarray(deviation * lfilter([1.0], [1.0, -keep], noise, axis=0))
