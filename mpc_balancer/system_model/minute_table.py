"""The minute table, read and checked by configured column names."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd

from marca_common.column_values import BadValue, as_instants
from marca_common.errors import UserError
from marca_common.system import system_schema
from marca_common.tables import Column, checked_frame, read_table
from mpc_balancer.config import MINUTE_OF_DAY, ColumnsConfig


@dataclass(frozen=True)
class Layout:
    """Columns of a table with all defaults filled in."""

    services: tuple[str, ...]
    cpu: tuple[str, ...]
    price: tuple[str, ...]
    next_cpu: tuple[str, ...]
    extras: tuple[str, ...]
    columns: ColumnsConfig

    @classmethod
    def of(cls, columns: ColumnsConfig, services: list[str]) -> Layout:
        """Fill in the house table's names (marca_common.system.system_schema) where the config leaves them null."""
        known = [c.name for c in system_schema(services)]
        extras = [n for n in known if n == "degradation" or n.startswith(("q_", "c_"))]
        cpu = columns.cpu or [f"cpu_{s}" for s in services]
        next_cpu = columns.next_cpu or [f"next_cpu_{s}" for s in services]
        if len(cpu) != len(services) or len(next_cpu) != len(services):
            raise UserError(f"columns.cpu: got {len(cpu)} and next_cpu {len(next_cpu)}; expected {len(services)} each")
        price = columns.price or [f"lambda_{s}" for s in services]
        used_extras = columns.extras if columns.extras is not None else extras
        return cls(tuple(services), tuple(cpu), tuple(price), tuple(next_cpu), tuple(used_extras), columns)

    @property
    def arrivals(self) -> list[str]:
        """Names under which sub-minute arrivals may stand."""
        own = self.columns.arrivals
        return own if own is not None else [f"arrivals_{i}" for i in range(60)]

    def schema(self) -> list[Column]:
        """What a table of this layout must hold."""
        own = self.columns
        when = (
            [Column(own.timestamp[0], "time")]
            if _is_iso_column(own)
            else [Column(n, "category") for n in own.timestamp]
        )
        if own.minutes_counted:
            when[-1] = Column(own.timestamp[-1], "int", 0, 24 * 60 - 1)
        house = {column.name: column for column in system_schema(self.services)}
        optional = [Column(own.next_qps, low=0, required=False)] if own.next_qps else []
        return [
            *when,
            *(Column(name, "category") for name in own.group),
            Column(own.qps, low=0),
            *(Column(name, low=0, high=100, nullable=True) for name in self.cpu),
            *(Column(name, low=0) for name in self.price),
            *(Column(name, low=0, high=100, nullable=True) for name in self.next_cpu),
            *optional,
            *(house.get(name, Column(name)) for name in self.extras),
            *(Column(name, low=0, required=own.arrivals is not None) for name in self.arrivals),
        ]


@dataclass(frozen=True)
class SystemData:
    """The table as arrays, ordered by group and time."""

    layout: Layout
    groups: tuple[str, ...]
    group: np.ndarray  # int (T,), index into groups
    timestamps: np.ndarray  # datetime64[s] (T,)
    qps: np.ndarray  # (T,)
    cpu: np.ndarray  # (T, D), NaN where lost
    price: np.ndarray  # (T, L), in force in the minute that ``layout.columns.price_in_force`` names
    next_cpu: np.ndarray  # (T, D)
    next_qps: np.ndarray  # (T,), NaN where unknown
    extras: np.ndarray  # (T, E)
    arrivals: np.ndarray | None  # (T, I)
    follows: np.ndarray  # bool (T,): the next row is the next minute of the same group
    step: np.timedelta64  # distance of rows

    def __len__(self) -> int:
        return len(self.qps)

    def take(self, rows: np.ndarray) -> SystemData:
        """The given rows (int or bool), in order; a row whose successor is left out no longer ``follows``."""
        index = np.flatnonzero(rows) if rows.dtype == bool else rows
        kept_next = np.zeros(len(index), dtype=bool)
        kept_next[:-1] = np.diff(index) == 1
        names = ("group", "timestamps", "qps", "cpu", "price", "next_cpu", "next_qps", "extras")
        arrivals = None if self.arrivals is None else self.arrivals[index]
        taken = {name: getattr(self, name)[index] for name in names}
        return replace(self, arrivals=arrivals, follows=self.follows[index] & kept_next, **taken)

    def split(self, validation_share: float) -> tuple[SystemData, SystemData]:
        """Earlier and later part, cut at one time for all groups."""
        first, last = self.timestamps.min(), self.timestamps.max()
        cut = last - (last - first) * validation_share
        early = self.timestamps <= cut
        if not early.any() or early.all():
            raise UserError(f"system table: {len(self)} rows are too few to keep {validation_share:.0%} for validation")
        return self.take(early), self.take(~early)


def read_system(path: str | Path, columns: ColumnsConfig, services: list[str]) -> SystemData:
    """Read and check a system table; a UserError names file, row, column, value and expectation."""
    layout = Layout.of(columns, services)
    frame = read_table(path, layout.schema(), timezone=columns.timezone, **columns.reading)
    return _data(frame, layout, str(path))


def from_frame(
    frame: pd.DataFrame, columns: ColumnsConfig, services: list[str], place: str = "system table"
) -> SystemData:
    """As read_system for a frame in memory."""
    layout = Layout.of(columns, services)
    checked = checked_frame(frame, layout.schema(), place, timezone=columns.timezone, negative=columns.negative)
    return _data(checked, layout, place)


def _data(frame: pd.DataFrame, layout: Layout, place: str) -> SystemData:
    columns = layout.columns
    code, groups = _groups(frame, columns.group, place)
    times = _times(frame, columns, code, place)
    _check_order(times, code, groups, place)
    order = np.argsort(code, kind="stable")
    times, code, frame = times[order], code[order], frame.iloc[order]
    step, follows = _steps(times, code, groups, columns, place, order)
    number = {n: frame[list(getattr(layout, n))].to_numpy(np.float64) for n in ("cpu", "price", "next_cpu", "extras")}
    _check_cpu(number["cpu"], layout, order, place)
    qps = frame[columns.qps].to_numpy(np.float64) / columns.qps_divisor
    next_qps = np.where(follows, np.append(qps[1:], np.nan), np.nan)
    if columns.next_qps and columns.next_qps in frame:
        next_qps = frame[columns.next_qps].to_numpy(np.float64) / columns.qps_divisor
    names = [name for name in layout.arrivals if name in frame]
    arrivals = frame[names].to_numpy(np.float64) if names else None
    return SystemData(
        layout=layout,
        groups=groups,
        group=code,
        timestamps=times,
        qps=qps,
        next_qps=next_qps,
        arrivals=arrivals,
        follows=follows,
        step=step,
        **number,
    )


def _groups(frame: pd.DataFrame, columns: list[str], place: str) -> tuple[np.ndarray, tuple[str, ...]]:
    """Number of each row's group, int64 (T,), and the groups' names, sorted."""
    if not columns:
        return np.zeros(len(frame), np.int64), ("all",)
    ids, keys = pd.factorize(pd.MultiIndex.from_frame(frame[columns].astype(str)))
    names = ["/".join(key) for key in keys]
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise UserError(
            f"{place}: columns {columns}: two groups are both called {twice!r}; expected values without '/'"
        )
    order = np.argsort(np.array(names, dtype=object))
    rank = np.empty(len(order), np.int64)
    rank[order] = np.arange(len(order))
    return rank[ids], tuple(names[i] for i in order)


def _is_iso_column(columns: ColumnsConfig) -> bool:
    return len(columns.timestamp) == 1 and columns.timestamp_format is None


def _times(frame: pd.DataFrame, columns: ColumnsConfig, code: np.ndarray, place: str) -> np.ndarray:
    if _is_iso_column(columns):
        return np.asarray(frame[columns.timestamp[0]].to_numpy("datetime64[s]"))
    text = _time_text(frame[columns.timestamp], columns)
    if columns.timestamp_format is not None:
        form = columns.timestamp_format.replace(MINUTE_OF_DAY, "%H:%M")
        parsed = pd.to_datetime(text, format=form, errors="coerce", utc="%z" in form)
        _refuse_time(parsed.isna().to_numpy(), text, columns, place, f"a time as {form}")
        text = parsed if columns.date_known else _days_counted(parsed, code)
    try:
        times = as_instants(text, columns.timezone)
    except BadValue as bad:
        _refuse_time(np.arange(len(text)) == bad.row, text.astype(str), columns, place, bad.expected)
        raise
    return np.asarray(times.to_numpy("datetime64[s]"))


def _time_text(parts: pd.DataFrame, columns: ColumnsConfig) -> pd.Series:
    """The time columns joined by a space; minutes since midnight as a time of day."""
    parts = parts.astype(str)
    if columns.minutes_counted:
        parts[columns.timestamp[-1]] = [f"{int(one) // 60:02d}:{int(one) % 60:02d}" for one in parts.iloc[:, -1]]
    return parts.agg(" ".join, axis=1)


def _days_counted(times: pd.Series, code: np.ndarray) -> pd.Series:
    """Times of day on counted days: each group's rows begin on 1970-01-01, and a fall by half a day or more is midnight."""
    clock = times - times.dt.floor("D")
    midnight = clock.groupby(code).diff() <= -pd.Timedelta(hours=12)
    return pd.Timestamp(0) + clock + pd.to_timedelta(midnight.groupby(code).cumsum(), unit="D")


def _refuse_time(bad: np.ndarray, text: pd.Series, columns: ColumnsConfig, place: str, expected: str) -> None:
    if bad.any():
        row = int(np.argmax(bad))
        raise UserError(
            f"{place}: row {row + 1}, columns {columns.timestamp}: got {text.iloc[row]!r}; expected {expected}"
        )


def _check_order(times: np.ndarray, code: np.ndarray, groups: tuple[str, ...], place: str) -> None:
    for g, name in enumerate(groups):
        rows = np.flatnonzero(code == g)
        jump = np.diff(times[rows]).astype(np.int64)
        if (jump == 0).any():
            row = rows[1:][jump == 0][0]
            raise UserError(
                f"{place}: row {row + 1}: timestamp {times[row]} of group {name!r} is duplicated; expected one row a minute"
            )
        if (jump < 0).any():
            row = rows[1:][jump < 0][0]
            raise UserError(
                f"{place}: row {row + 1}: timestamp {times[row]} of group {name!r} comes after a later one; expected ascending order"
            )


def _steps(
    times: np.ndarray, code: np.ndarray, groups: tuple[str, ...], columns: ColumnsConfig, place: str, order: np.ndarray
) -> tuple[np.timedelta64, np.ndarray]:
    same = np.append(np.diff(code) == 0, False)
    jump = np.append(np.diff(times).astype(np.int64), 0)
    step = int(np.median(jump[same])) if same.any() else 60
    follows = same & (jump == step)
    gap = same & ~follows
    if gap.any() and columns.gaps == "error":
        row = int(np.argmax(gap))
        raise UserError(
            f"{place}: row {order[row + 1] + 1}: minutes are missing in group {groups[code[row]]!r} between {times[row]} and"
            f" {times[row + 1]}; expected a row every {step} s (or set columns.gaps: split)"
        )
    return np.timedelta64(step, "s"), follows


def _check_cpu(cpu: np.ndarray, layout: Layout, order: np.ndarray, place: str) -> None:
    bad = (cpu < 0) | (cpu > 100)
    if bad.any():
        row, column = map(int, np.argwhere(bad)[0])
        raise UserError(
            f"{place}: row {order[row] + 1}, column {layout.cpu[column]!r}: got {cpu[row, column]}; expected a number from 0 to 100"
        )


def prices_in_force(data: SystemData) -> tuple[np.ndarray, np.ndarray]:
    """λ in force in each row's minute and in the one after it, (T, L) each; NaN where the table does not say."""
    unknown = np.full((1, data.price.shape[1]), np.nan)
    if data.layout.columns.price_in_force == "this_minute":
        return data.price, np.where(data.follows[:, None], np.concatenate([data.price[1:], unknown]), np.nan)
    known = np.append(False, data.follows[:-1])[:, None]
    return np.where(known, np.concatenate([unknown, data.price[:-1]]), np.nan), data.price
