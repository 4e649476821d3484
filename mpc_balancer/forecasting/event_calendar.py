"""The calendar of planned events: sales, campaigns, drills (CSV with ``start``, ``factor``, ``decay_minutes``), and changes of capacity
(CSV with ``start``, ``end``, ``share``)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from marca_common.errors import UserError
from marca_common.tables import Column, checked_frame, read_table

_SCHEMA = [Column("start", "time"), Column("factor", low=0), Column("decay_minutes", low=0)]
_CAPACITY = [Column("start", "time"), Column("end", "time"), Column("share", low=0)]


@dataclass(frozen=True)
class PlannedEvent:
    """Traffic is multiplied by ``factor`` from ``start`` on and returns to normal with time constant ``decay_minutes``."""

    start: np.datetime64
    factor: float
    decay_minutes: float


@dataclass(frozen=True)
class PlannedCapacity:
    """From ``start`` until ``end`` only ``share`` of the usual machines serve: each takes 1/share times its usual load."""

    start: np.datetime64
    end: np.datetime64
    share: float


class Calendar:
    """Events in time order; two that overlap (the next starts within the decay time of the one before) are an error."""

    def __init__(
        self, events: Sequence[PlannedEvent], place: str = "calendar", capacity: Sequence[PlannedCapacity] = ()
    ) -> None:
        self.events, self.capacity = list(events), list(capacity)
        for number, change in enumerate(self.capacity, start=1):
            if not (change.share > 0 and change.end > change.start):
                raise UserError(
                    f"{place}: row {number}: got share {change.share}, {change.start} to {change.end}; expected a share above 0"
                    " and an end after the start"
                )
        for number, event in enumerate(self.events, start=1):
            if not (event.factor > 0 and event.decay_minutes > 0):
                raise UserError(
                    f"{place}: row {number}: got factor {event.factor}, decay_minutes {event.decay_minutes};"
                    " expected both above 0"
                )
        for number, (one, two) in enumerate(zip(self.events[:-1], self.events[1:]), start=2):
            if two.start <= one.start:
                raise UserError(
                    f"{place}: row {number}, column 'start': {two.start} is not after {one.start} of the row before;"
                    " expected ascending times"
                )
            minutes = (two.start - one.start) / np.timedelta64(1, "m")
            if minutes < one.decay_minutes:
                raise UserError(
                    f"{place}: row {number}, column 'start': {two.start} overlaps the event of {one.start}, which"
                    f" decays over {one.decay_minutes:g} minutes; merge the two"
                )

    @classmethod
    def read(cls, path: str | Path, timezone: str = "UTC") -> Calendar:
        """Read a calendar CSV, times without an offset in ``timezone``; a bad one is a UserError that names the row."""
        frame = read_table(path, _SCHEMA, timezone=timezone)
        return cls.from_frame(frame, str(path))

    def with_capacity(self, path: str | Path, timezone: str = "UTC") -> Calendar:
        """This calendar with the changes of capacity of a CSV, which replace its own; a bad row is a UserError that names it."""
        frame = read_table(path, _CAPACITY, timezone=timezone)
        times = (frame[name].to_numpy("datetime64[s]") for name in ("start", "end"))
        changes = [PlannedCapacity(s, e, float(share)) for s, e, share in zip(*times, frame["share"])]
        return Calendar(self.events, str(path), changes)

    @classmethod
    def from_frame(cls, frame: pd.DataFrame, place: str = "calendar") -> Calendar:
        """A calendar from a frame with the CSV's columns, naive times in UTC."""
        frame = checked_frame(frame, _SCHEMA, place)
        starts = frame["start"].to_numpy("datetime64[s]")
        return cls(
            [PlannedEvent(s, float(f), float(d)) for s, f, d in zip(starts, frame["factor"], frame["decay_minutes"])],
            place,
        )

    def factor(self, timestamp: np.datetime64 | np.ndarray, step_seconds: int = 60) -> np.ndarray:
        """Planned multiple of normal traffic, mean over the steps that start at ``timestamp`` (any shape)."""
        times = np.asarray(timestamp).astype("datetime64[s]").astype(np.int64).astype(np.float64)
        out = np.ones(times.shape)
        for event in self.events:
            begin = event.start.astype("datetime64[s]").astype(np.int64)
            scale = event.decay_minutes * 60
            first = np.clip(times - begin, 0, None)
            last = np.clip(times + step_seconds - begin, 0, None)
            out = out * (
                1 + (event.factor - 1) * scale * (np.exp(-first / scale) - np.exp(-last / scale)) / step_seconds
            )
        return out

    def load(self, timestamp: np.datetime64 | np.ndarray) -> np.ndarray:
        """Load of a machine as a multiple of its usual load at equal traffic, for steps that start at ``timestamp`` (any shape)."""
        times = np.asarray(timestamp).astype("datetime64[s]")
        out = np.ones(times.shape)
        for change in self.capacity:
            out = np.where((times >= change.start) & (times < change.end), out / change.share, out)
        return out
