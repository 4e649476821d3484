"""Arrivals: how many requests reach each data centre in every interval of a minute."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from cascade_world.config import TrafficEvent, WorldConfig
from marca_common.errors import UserError
from marca_common.seeding import numpy_generator
from marca_common.tables import Column, read_table

MINUTES_PER_DAY = 1440
_TRACE_SCHEMA = [Column("timestamp", "time"), Column("value", "float", 0)]


@dataclass(frozen=True)
class Traffic:
    """Arrivals of a run of minutes; counts of real requests."""

    arrivals: np.ndarray  # requests, int64 (groups, minutes, sub_intervals)
    groups: tuple[str, ...]
    timestamps: np.ndarray  # start of each minute, datetime64[s] (minutes,)
    calendar: pd.DataFrame  # announced events: start, factor, decay_minutes
    start_day: float  # days between the start of the simulation and the first minute
    seed: int

    @property
    def qps(self) -> np.ndarray:
        """Requests per second (groups, minutes)."""
        return np.asarray(self.arrivals.sum(axis=2) / 60.0)


def make_traffic(
    config: WorldConfig, seed: int, days: float, *, start_day: float = 0.0, events: Sequence[TrafficEvent] | None = None
) -> Traffic:
    """Traffic of ``days`` from ``start_day`` on; ``events`` replace the config's (their days count from its start).

    The same seed gives the same noise whatever the events.
    """
    minutes = int(round(days * MINUTES_PER_DAY))
    if minutes < 1:
        raise UserError(f"days: got {days}; expected at least one minute")
    events = list(config.traffic.events if events is None else events)
    traffic, groups = config.traffic, config.groups
    shares = np.array(list(config.states.idcs.values()))
    clock = start_day * MINUTES_PER_DAY + np.arange(minutes)
    shape = _trace_shape(config, clock) if traffic.trace else _week_shape(config, clock)
    rng = numpy_generator(seed, "traffic")
    noise = _ar_noise(rng, len(groups), minutes, traffic.noise_persistence, traffic.noise)
    rate = traffic.peak_qps * (shares / shares.sum())[:, None] * shape * np.exp(noise)  # (G, minutes)
    rate = _apply_events(rate, clock, events, groups)
    sub = np.repeat(rate[:, :, None], traffic.sub_intervals, axis=2) * 60.0 / traffic.sub_intervals
    sub = sub * np.maximum(1.0 + traffic.burst * rng.standard_normal(sub.shape), 0.0)
    start = np.datetime64(pd.Timestamp(traffic.start), "s")
    timestamps = start + (clock * 60).astype("timedelta64[s]")
    return Traffic(
        _poisson(numpy_generator(seed, "arrivals"), sub), groups, timestamps, _calendar(events, start), start_day, seed
    )


def day_shape(config: WorldConfig, minute_of_day: np.ndarray) -> np.ndarray:
    """Ordinary day, 1 at its peak, ``night`` at its minimum: a rise by day, a peak in the evening."""
    raw, whole = _raw_day(minute_of_day), _raw_day(np.arange(MINUTES_PER_DAY))
    low, high = whole.min(), whole.max()
    return np.asarray(config.traffic.night + (1 - config.traffic.night) * (raw - low) / (high - low))


def _raw_day(minute_of_day: np.ndarray) -> np.ndarray:
    hour = minute_of_day / 60.0
    raw = 1.0 - 0.55 * np.cos((hour - 4.5) * 2 * np.pi / 24) - 0.18 * np.cos((hour - 3.0) * 4 * np.pi / 24)
    return np.asarray(raw + 0.25 * np.exp(-0.5 * ((hour - 20.7) / 1.6) ** 2))


def _week_shape(config: WorldConfig, clock: np.ndarray) -> np.ndarray:
    first = pd.Timestamp(config.traffic.start)
    offset = first.hour * 60 + first.minute
    day = (first.dayofweek + (clock + offset) // MINUTES_PER_DAY) % 7
    shape = day_shape(config, (clock + offset) % MINUTES_PER_DAY)
    return shape * np.where(day >= 5, config.traffic.weekend, 1.0)


def _trace_shape(config: WorldConfig, clock: np.ndarray) -> np.ndarray:
    """The trace, interpolated to minutes from its first row on and rescaled so that its 99.5 % quantile is the peak."""
    seconds, values = read_trace(str(config.traffic.trace))
    wanted = clock * 60.0
    if wanted[-1] > seconds[-1]:
        raise UserError(
            f"{config.traffic.trace}: ends {seconds[-1] / 86400:.2f} days after its start; day {clock[-1] / 1440:.2f} is needed"
        )
    return np.asarray(np.interp(wanted, seconds, values) / max(np.quantile(values, 0.995), 1e-12))


def require_trace(config: WorldConfig) -> None:
    """A trace that can't be read, or ends before the logs do, is a UserError before any work starts."""
    days = max(config.logs.days, config.logs.system_days)
    if config.traffic.trace:
        _trace_shape(config, np.array([days * MINUTES_PER_DAY - 1]))


def read_trace(path: str | Path) -> tuple[np.ndarray, np.ndarray]:
    """Seconds since the first row and values of a ``timestamp,value`` CSV; rows out of order are a UserError."""
    frame = read_table(path, _TRACE_SCHEMA)
    times = frame["timestamp"].to_numpy().astype("datetime64[s]").astype(np.int64)
    back = np.flatnonzero(np.diff(times) <= 0)
    if len(back):
        row = int(back[0]) + 1
        raise UserError(
            f"{path}: row {row + 1}, column 'timestamp': got {frame['timestamp'].iloc[row]}; expected a later time than the row before"
        )
    if len(frame) < 2 or frame["value"].max() <= 0:
        raise UserError(f"{path}: expected at least two rows and a positive value")
    return (times - times[0]).astype(float), frame["value"].to_numpy()


def _ar_noise(rng: np.random.Generator, groups: int, minutes: int, rho: float, sd: float) -> np.ndarray:
    """AR(1) noise with t-distributed steps (4 degrees of freedom), stationary sd ``sd`` (G, minutes)."""
    from scipy.signal import lfilter

    steps = rng.standard_t(4, size=(groups, minutes + 200)) / np.sqrt(2.0)
    return np.asarray(sd * np.sqrt(1 - rho**2) * lfilter([1.0], [1.0, -rho], steps, axis=1)[:, 200:])


def _apply_events(
    rate: np.ndarray, clock: np.ndarray, events: Sequence[TrafficEvent], groups: tuple[str, ...]
) -> np.ndarray:
    rate = rate.copy()
    for event in events:
        since = clock - event.day * MINUTES_PER_DAY
        if event.kind == "flash":
            factor = np.where(
                since >= 0, 1 + (event.factor - 1) * np.exp(-np.maximum(since, 0) / event.decay_minutes), 1.0
            )
            rows = slice(None) if event.group is None else groups.index(event.group)
            rate[rows] *= factor
        else:
            lost = event.group or groups[-1]
            down = (since >= 0) & (since < event.decay_minutes)
            for i, group in enumerate(groups):
                rate[i] *= np.where(down, 0.02 if group == lost else event.factor, 1.0)
    return rate


def _poisson(rng: np.random.Generator, means: np.ndarray) -> np.ndarray:
    """Poisson counts by the normal approximation with one draw per cell, so that cells never disturb each other."""
    z = rng.standard_normal(means.shape)
    return np.asarray(np.maximum(np.rint(means + np.sqrt(means) * z), 0).astype(np.int64))


def _calendar(events: Sequence[TrafficEvent], start: np.datetime64) -> pd.DataFrame:
    """Announced flash sales; sizes as announced, which need not be true."""
    rows = [event for event in events if event.announced and event.kind == "flash"]
    times = [start + np.timedelta64(int(round(event.day * 86400)), "s") for event in rows]
    return pd.DataFrame(
        {
            "start": pd.to_datetime(np.array(times, dtype="datetime64[s]")),
            "factor": np.array([event.announced_factor or event.factor for event in rows], dtype=float),
            "decay_minutes": np.array([event.decay_minutes for event in rows], dtype=float),
        }
    )
