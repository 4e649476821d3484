"""Recorded traffic for the reference plant: arrival times as they are, counts spread over their interval at random.

What a record doesn't hold must not tell the future. So a count says nothing about where in a minute its requests came:
each falls anywhere in it. Rates move from minute to minute only, and never along a line that can be extended.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pandas as pd
import scipy.sparse as sp
from pydantic import Field, model_validator
from scipy.sparse.linalg import spsolve

from marca_common.config import Config
from marca_common.errors import UserError
from marca_common.seeding import numpy_generator
from marca_common.tables import Column, read_table
from mpc_balancer.testbed.reference_traffic import TrafficRun

_MINUTE = 60_000  # ms
_LONGEST = 10 * 366 * 1440  # minutes; a wrong year in one row must not fill the memory
_MOST = 2**53  # requests; beyond it, float64 has no whole numbers


class TraceConfig(Config):
    """Recorded traffic. A path alone stands for a ``timestamp,value`` file of requests per interval."""

    path: str = Field(description="CSV (also .gz) or Parquet")
    timestamp: str = Field("timestamp", description="column of times; a count's is the start of its interval")
    value: str | None = Field("value", description="column of counts or rates; null = one row per request")
    unit: Literal["requests", "per_second", "per_minute"] = Field(
        "requests", description="of the value: requests in the interval, per second or per minute"
    )
    interval_seconds: float | None = Field(None, ge=0.001, description="length of an interval; null = the median step")
    gaps: Literal["error", "zero", "longest"] = Field(
        "error", description="missing intervals: refused, without requests, or only the longest stretch between them"
    )
    within: Literal["walk", "held"] = Field(
        "walk", description="minutes of a longer interval: a random walk with the recorded means, or all alike"
    )
    scale: float | None = Field(None, gt=0, description="all is multiplied by this; null = as recorded")
    mean_qps: float | None = Field(
        None, gt=0, description="scale, as the whole trace's mean in requests per second; null = as recorded"
    )

    @model_validator(mode="before")
    @classmethod
    def _a_path_alone(cls, given: Any) -> Any:
        return {"path": given} if isinstance(given, str) else given

    @model_validator(mode="after")
    def _one_meaning(self) -> TraceConfig:
        if self.scale is not None and self.mean_qps is not None:
            raise ValueError("scale and mean_qps exclude each other; expected one of them")
        of_counts = ("unit", "interval_seconds", "gaps", "within")
        if self.value is None and any(
            getattr(self, name) != type(self).model_fields[name].default for name in of_counts
        ):
            raise ValueError("with value: null rows are requests; expected no unit, interval_seconds, gaps or within")
        return self


@dataclass(frozen=True)
class _Counts:
    """Requests of intervals without gaps."""

    start: np.datetime64  # [s]
    requests: np.ndarray  # (N,)
    length: int  # of an interval, ms


def trace_traffic(
    config: TraceConfig, sub_intervals: int, seed: int, minutes: int | None = None, timezone: str = "UTC"
) -> TrafficRun:
    """The trace's first ``minutes`` whole minutes (None: all) in ``sub_intervals`` each; ``seed`` spreads counts over them.

    A UserError where the file or what it holds doesn't fit ``config``.
    """
    times, values = _read(config, timezone)
    if values is None:
        start, parts = _counted(config, times, sub_intervals)
        scale = _scale(config, parts.sum() * sub_intervals / 60 / len(parts))
        arrivals = _whole(parts * scale)
    else:
        counts = _counts(config, times, values)
        scale = _scale(config, counts.requests.sum() / len(counts.requests) / counts.length * 1000)
        start, arrivals = counts.start, _spread(config, counts, scale, sub_intervals, seed)
    length = min(len(arrivals) // sub_intervals, len(arrivals) if minutes is None else minutes)
    return TrafficRun(
        start + np.arange(length) * np.timedelta64(60, "s"),
        arrivals[: length * sub_intervals].reshape(length, sub_intervals).astype(np.float64),
        scale,
    )


def _read(config: TraceConfig, timezone: str) -> tuple[pd.Series, np.ndarray | None]:
    columns = [Column(config.timestamp, "time")] + ([Column(config.value, low=0)] if config.value else [])
    frame = read_table(config.path, columns, timezone=timezone)
    if len(frame) < 2:
        raise UserError(f"{config.path}: got {len(frame)} rows; expected at least 2")
    return frame[config.timestamp], frame[config.value].to_numpy(np.float64) if config.value else None


def _scale(config: TraceConfig, mean: float) -> float:
    if not mean > 0:
        raise UserError(f"{config.path}: column {config.value!r}: all values are 0; expected traffic")
    return config.mean_qps / mean if config.mean_qps is not None else config.scale or 1.0


def _counted(config: TraceConfig, times: pd.Series, sub_intervals: int) -> tuple[np.datetime64, np.ndarray]:
    """Requests in each sub-interval (T·I,) from the first one's second on; the last minute is left out unless whole."""
    stamps = times.to_numpy("datetime64[us]")
    start = stamps.min().astype("datetime64[s]")
    since = (stamps - start).astype(np.int64)
    length = _sensible(config, int(since.max()) // 60_000_000)
    part = since * sub_intervals // 60_000_000
    return start, np.bincount(part[part < length * sub_intervals], minlength=length * sub_intervals)


def _counts(config: TraceConfig, times: pd.Series, values: np.ndarray) -> _Counts:
    """Requests of evenly spaced intervals, gaps treated as declared."""
    steps, length = _steps(config, times)
    requests = values * {"requests": 1.0, "per_second": length / 1000, "per_minute": length / _MINUTE}[config.unit]
    first, last = 0, len(values)
    if config.gaps == "longest":
        edges = np.concatenate([[0], np.flatnonzero(steps > 1) + 1, [len(values)]])
        longest = int(np.argmax(np.diff(edges)))
        first, last = edges[longest], edges[longest + 1]
    place = np.concatenate([[0], np.cumsum(steps[first : last - 1])])
    _sensible(config, int(place[-1] + 1) * length // _MINUTE)
    filled = np.zeros(place[-1] + 1)
    filled[place] = requests[first:last]
    return _Counts(times.to_numpy("datetime64[s]")[first], filled, length)


def _steps(config: TraceConfig, times: pd.Series) -> tuple[np.ndarray, int]:
    """Intervals from each row to the next (N-1,), and their length in ms; stamps may be off by a quarter of it.

    A UserError where times go back, repeat, don't fit or leave a gap that isn't declared.
    """
    jump = np.diff(times.to_numpy("datetime64[ms]").astype(np.int64))
    if (jump <= 0).any():
        row = int(np.argmax(jump <= 0)) + 1
        kind = "is duplicated" if jump[row - 1] == 0 else "comes after a later one"
        raise UserError(
            f"{config.path}: row {row + 1}, column {config.timestamp!r}: {times.iloc[row]} {kind}; expected ascending times"
        )
    length = round(1000 * config.interval_seconds) if config.interval_seconds else int(np.median(jump))
    steps = np.rint(jump / length).astype(np.int64)
    odd = (np.abs(jump - steps * length) > length / 4) | (steps < 1) | ((steps > 1) & (config.gaps == "error"))
    if odd.any():
        row = int(np.argmax(odd)) + 1
        advice = " (gaps: zero or longest accept missing rows)" if steps[row - 1] > 1 else ""
        raise UserError(
            f"{config.path}: row {row + 1}: {jump[row - 1] / 1000:g} s after the row before; expected {length / 1000:g} s{advice}"
        )
    return steps, length


def _sensible(config: TraceConfig, minutes: int) -> int:
    if not 1 <= minutes <= _LONGEST:
        raise UserError(f"{config.path}: got {minutes} whole minutes; expected from 1 to {_LONGEST}, ten years")
    return minutes


def _spread(config: TraceConfig, counts: _Counts, scale: float, sub_intervals: int, seed: int) -> np.ndarray:
    """Requests of each sub-interval (T·I,): those of an interval fall into minutes by their rate, and anywhere in a minute.

    That is a Poisson process that is known to have brought the recorded counts.
    """
    generator = numpy_generator(seed, "mpc_balancer", "trace")
    rate = _rates(config, counts, generator)
    requests = _whole(counts.requests * scale)
    if not requests.sum() < _MOST:
        raise UserError(f"{config.path}: got {requests.sum():.3g} requests; expected less than {_MOST:.3g}")
    # Time in units of 1/I ms, in which edges of intervals, sub-intervals and minutes are whole numbers.
    interval, part, minute = counts.length * sub_intervals, _MINUTE, _MINUTE * sub_intervals
    end = len(requests) * interval
    edges = np.unique(np.concatenate([np.arange(0, end, interval), np.arange(0, end, part), [end]]))
    row = edges[:-1] // interval
    piece = np.arange(len(row)) - np.searchsorted(row, row)  # place within its row
    share = np.zeros((len(requests), piece.max() + 1))
    share[row, piece] = np.diff(edges) * rate[edges[:-1] // minute]
    drawn = generator.multinomial(requests.astype(np.int64), share / share.sum(axis=1, keepdims=True))
    return np.bincount(edges[:-1] // part, drawn[row, piece])[: end // minute * sub_intervals]


def _rates(config: TraceConfig, counts: _Counts, generator: np.random.Generator) -> np.ndarray:
    """Rates of minutes (T,) relative to the mean of their interval."""
    if counts.length <= _MINUTE or config.within == "held":
        return np.ones(-(-len(counts.requests) * counts.length // _MINUTE))
    if counts.length % _MINUTE:
        seconds = counts.length / 1000
        raise UserError(f"{config.path}: intervals of {seconds:g} s; expected whole minutes, or within: held")
    return walk(counts.requests, counts.length // _MINUTE, generator)


def walk(requests: np.ndarray, minutes: int, generator: np.random.Generator) -> np.ndarray:
    """Rates (N·minutes,) whose logs are a random walk, drawn among those with the recorded log means (N,).

    Its steps are as large as makes the means move as the recorded ones do. So a change of a minute tells nothing of the
    next one; a straight line, or a walk with smaller steps, would tell where the next count lies. The draw is that of
    least squares around random steps, which is exact for a Gaussian walk.
    """
    means = np.log(np.maximum(requests, 0.5))  # an interval without requests counts as half a one
    count = len(means) * minutes
    step = np.sqrt(np.mean(np.diff(means) ** 2) * 3 * minutes / (2 * minutes**2 + 1))
    moves = step * generator.standard_normal(count - 1)
    differences = sp.diags_array([-1.0, 1.0], offsets=[0, 1], shape=(count - 1, count))
    average = sp.kron(sp.eye_array(len(means)), np.full((1, minutes), 1 / minutes))
    system = sp.block_array([[differences.T @ differences, average.T], [average, None]], format="csc")
    path = spsolve(system, np.concatenate([differences.T @ moves, means]))[:count]
    return np.asarray(np.exp(path - np.repeat(means, minutes)))


def _whole(requests: np.ndarray) -> np.ndarray:
    """Whole numbers with the same running total, but for half a request."""
    return np.diff(np.rint(np.cumsum(requests)), prepend=0.0)
