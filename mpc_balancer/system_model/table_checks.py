"""What a minute table must be for anything to be learned from it, and what its reader must know."""

from __future__ import annotations

import numpy as np

from marca_common.errors import UserError
from marca_common.spread import is_flat, require_earned, require_usable
from mpc_balancer.price_scale import without_outliers
from mpc_balancer.system_model.minute_table import SystemData

_SHARE = 1.5  # CPU that never exceeds this many percent is taken for a share of 1
_LAGS = range(-1, 11)  # rows from which next_cpu may have been taken
_CLOSER = 0.8  # another row's CPU is the better match where it lies this much closer
_PAIRS = 30  # fewest rows that tell two matches apart


def require_learnable(data: SystemData) -> None:
    """A UserError where nothing could be learned.

    Traffic or a service's CPU is 0 throughout, or a few rows of a column drown all others; CPU is a share of 1, not
    percent; ``next_cpu`` is another row's or another service's CPU.
    """
    require_earned(data.qps, f"system table: column {data.layout.columns.qps!r}")
    require_usable(data.next_qps[np.isfinite(data.next_qps)], "system table: traffic one minute later")
    for j, name in enumerate(data.layout.cpu):
        _require_percent(data.cpu[np.isfinite(data.cpu[:, j]), j], f"system table: column {name!r}", len(data))
    for names, values in ((data.layout.price, data.price), (data.layout.extras, data.extras)):
        for j, name in enumerate(names):
            require_usable(values[:, j], f"system table: column {name!r}")
    for j in range(len(data.layout.services)):
        _require_next_row(data, j)


def _require_percent(known: np.ndarray, place: str, rows: int) -> None:
    if not len(known):
        raise UserError(f"{place}: all {rows} readings are lost; expected some")
    require_earned(known, place)
    if known.max() <= _SHARE:
        raise UserError(
            f"{place}: no reading is above {known.max():g}; expected percent from 0 to 100: multiply a share by 100"
        )


def _require_next_row(data: SystemData, service: int) -> None:
    """A UserError where ``next_cpu`` of a service agrees better with a row or a service other than its own next row."""
    names = data.layout.cpu
    distance = {(j, lag): _distance(data, service, j, lag) for j in range(len(names)) for lag in _LAGS}
    own = distance.pop((service, 1))
    (j, lag), best = min(distance.items(), key=lambda one: one[1])
    if best < _CLOSER * own < np.inf:
        where = {-1: "the row before", 0: "the same row", 1: "the next row"}.get(lag, f"the row {lag} rows later")
        raise UserError(
            f"system table: column {data.layout.next_cpu[service]!r}: agrees with {names[j]!r} of {where} (to {best:.2g} points) "
            f"and not with {names[service]!r} of the next row ({own:.2g}); expected this service's CPU one row later"
        )


def _distance(data: SystemData, service: int, other: int, lag: int) -> float:
    """Median |next_cpu of a row - CPU of the row ``lag`` rows later|, points; infinite where few rows have both."""
    first, last = max(0, -lag), len(data) - max(0, lag)
    rows = np.arange(first, max(first, last))
    later = rows + lag
    apart = data.timestamps[later] - data.timestamps[rows] == lag * data.step
    gap = np.abs(data.next_cpu[rows, service] - data.cpu[later, other])
    gap = gap[apart & (data.group[rows] == data.group[later]) & np.isfinite(gap)]
    return float(np.median(gap)) if len(gap) >= _PAIRS else np.inf


def require_rows(data: SystemData) -> None:
    """A UserError where there are too few rows for a system model, whatever they hold."""
    if len(data) < _PAIRS:
        raise UserError(f"system table: {len(data)} rows are too few for a system model; expected at least {_PAIRS}")


def require_moving_price(data: SystemData) -> None:
    """A UserError where a price is 0 throughout: it has no effect to learn, and no box to steer it in."""
    for j, name in enumerate(data.layout.price):
        if not (data.price[:, j] > 0).any():
            raise UserError(
                f"system table: column {name!r} is 0 in all rows: what λ takes off CPU cannot be learned, nor in which range to"
                " steer it. Let λ move (python -m mpc_balancer.commission writes the plan), or set price_high, its largest"
                " value, and allow_unidentified: true"
            )


def odd_data(data: SystemData) -> list[str]:
    """What a reader of the results must know of single columns, a sentence each."""
    notes = []
    for j, name in enumerate(data.layout.price):
        largest, kept = data.price[:, j].max(), without_outliers(data.price[:, j])
        if kept < largest:
            notes.append(
                f"column {name!r}: the largest value is {largest:g}, the largest that is no outlier {kept:g}: "
                "λ's box ends there unless price_high says otherwise"
            )
    for j, name in enumerate(data.layout.cpu):
        known = data.cpu[np.isfinite(data.cpu[:, j]), j]
        if len(known) and is_flat(known):
            notes.append(f"column {name!r} is {known[0]:g} in all rows: is its sensor stuck?")
    return notes
