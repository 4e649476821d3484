"""Does the request log go on evenly, or does something change, stop or freeze on the way?"""

from __future__ import annotations

import numpy as np
import pandas as pd

from own_system.coded_log import CodedLog, Grouped
from own_system.declaration import OwnSystem
from own_system.findings import Findings

_TAIL = 0.001  # share of rows at either end that may be odd
_GAP = 30  # requests that a silent stretch should have had
_DAY_PAYING = 20  # paying requests that a day should have had
_OUTAGE = 0.25  # of them
_SHIFT = np.log(3.0)  # change of the median payment
_SHIFT_ROWS = 100  # payments before and after
_CUTS = 24  # moments tried for such a change
_DRIFT = 0.5  # share of the rows that moved between values
_FREQUENT, _GONE = 0.05, 0.0005  # share of a value that is frequent, and of one that is gone
_THIRD = 1000  # rows of a third, at least
_USUAL = 0.9  # share of all rows above which a value is nothing odd
_RUN = 50  # rows with one value, at least
_CHANCE = -50.0  # log of how often such a run is to be expected: sessions make rows alike, so far below any doubt
_DUPLICATES = 0.002  # share of rows
_DUPLICATE_ROWS = 10


def check_duplicates(log: CodedLog, findings: Findings) -> None:
    """Rows equal in every column; without times equal rows are nothing odd."""
    if "timestamp" not in log.frame:
        return
    hashes = np.zeros(len(log), np.uint64)
    for name in log.frame:
        values = log.frame[name]
        codes = values.cat.codes if isinstance(values.dtype, pd.CategoricalDtype) else values
        hashes = hashes * np.uint64(1_000_003) + pd.util.hash_array(codes.to_numpy())
    again = pd.Series(hashes).duplicated().to_numpy()
    if again.sum() >= max(_DUPLICATE_ROWS, _DUPLICATES * len(log)):
        value = f"{again.sum():,} of {len(log):,} rows repeat an earlier one"
        findings.add("duplicate_rows", log.file, value, row=log.row(int(np.argmax(again))))


def check_over_time(own: OwnSystem, log: CodedLog, findings: Findings) -> None:
    """Odd times, gaps, days without revenue or with one action alone, shifts and drift."""
    for name, group in {**log.states, **log.actions}.items():
        _check_drift(log, name, group, findings)
    if "timestamp" not in log.frame:
        return
    seconds = log.frame["timestamp"].to_numpy("datetime64[s]").astype(np.int64)
    sound = _without_odd(own, log, seconds, findings)
    _check_gap(own, log, seconds[sound], findings)
    day = (seconds - seconds[sound].min()) // 86_400
    days = np.where(sound, day, -1)
    _check_outage(own, log, days, findings)
    _check_shift(own, log, findings)
    for name, group in {**log.states, **log.actions}.items():
        _check_frozen(log, name, group, findings)


def _without_odd(own: OwnSystem, log: CodedLog, seconds: np.ndarray, findings: Findings) -> np.ndarray:
    """Rows whose time is not far from all others, bool (M,)."""
    low, high = np.quantile(seconds, [_TAIL, 1 - _TAIL])
    span = max(high - low, 3600.0)
    odd = (seconds < low - span) | (seconds > high + span)
    if odd.any():
        first = int(np.argmax(odd))
        at, start, end = (np.datetime64(int(one), "s") for one in (seconds[first], low, high))
        value = f"{at} in {odd.sum():,} rows; the others lie from {start} to {end} (UTC)"
        findings.add("odd_time", log.file, value, column=own.requests.columns.timestamp, row=log.row(first))
    return np.asarray(~odd)


def _check_gap(own: OwnSystem, log: CodedLog, seconds: np.ndarray, findings: Findings) -> None:
    first = int(seconds.min()) // 3600
    counts = np.bincount(seconds // 3600 - first)[:-1]  # the last hour is not whole
    hour = (np.arange(len(counts)) + first) % 24
    usual = np.array([np.median(counts[hour == one]) if (hour == one).any() else 0.0 for one in range(24)])[hour]
    silent = counts == 0
    run = np.cumsum(~silent)
    missed = np.bincount(run[silent], weights=usual[silent], minlength=1) if silent.any() else np.zeros(1)
    if missed.max() >= _GAP:
        hours = np.flatnonzero(silent & (run == int(missed.argmax())))
        start, end = (np.datetime64(int((one + first) * 3600), "s") for one in (hours[0], hours[-1] + 1))
        value = f"no request from {start} to {end} (UTC), where about {missed.max():,.0f} usually come"
        findings.add("gap", log.file, value, column=own.requests.columns.timestamp)


def _check_outage(own: OwnSystem, log: CodedLog, days: np.ndarray, findings: Findings) -> None:
    known = days >= 0
    rows = np.bincount(days[known])
    paid = np.bincount(days[known], weights=log.revenue[known] > 0)
    share = paid / np.maximum(rows, 1)
    expected = rows * np.median(share[rows > 0])
    bad = (expected >= _DAY_PAYING) & (paid < _OUTAGE * expected)
    if bad.any():
        first = int(np.argmax(bad))
        row = int(np.argmax(days == first))
        start = log.frame["timestamp"].iloc[row]
        value = f"{paid[first]:.0f} of {rows[first]:,} requests of the day from {start:%Y-%m-%d %H:%M} (UTC) paid, usual are about"
        value += f" {expected[first]:,.0f} ({bad.sum()} such days)"
        findings.add("revenue_outage", log.file, value, column=own.requests.columns.revenue, row=log.row(row))


def _check_shift(own: OwnSystem, log: CodedLog, findings: Findings) -> None:
    at = np.flatnonzero(log.revenue > 0)
    if len(at) < 2 * _SHIFT_ROWS:
        return
    size = np.log(log.revenue[at])
    cuts = np.unique(np.linspace(_SHIFT_ROWS, len(at) - _SHIFT_ROWS, _CUTS).astype(np.int64))
    steps = np.array([np.median(size[cut:]) - np.median(size[:cut]) for cut in cuts])
    worst = int(np.abs(steps).argmax())
    if abs(steps[worst]) > _SHIFT:
        row = int(at[cuts[worst]])
        when = log.frame["timestamp"].iloc[row]
        value = f"the median payment is {np.exp(steps[worst]):.3g} times what it was, from about {when:%Y-%m-%d %H:%M} (UTC)"
        findings.add("revenue_shift", log.file, value, column=own.requests.columns.revenue, row=log.row(row))


def _check_drift(log: CodedLog, name: str, group: Grouped, findings: Findings) -> None:
    """A long tail of values always drifts somewhat, and new ones come; a frequent one that is gone is something else."""
    third, size = len(log) // 3, len(group.labels)
    if third < _THIRD or 2 * size > third:  # few rows, or an identifier
        return
    early, late = (np.bincount(part, minlength=size) / third for part in (group.codes[:third], group.codes[-third:]))
    gone = (early >= _FREQUENT) & (late <= _GONE)
    moved = distance(early, late)
    if gone.any() or moved > _DRIFT:
        most = int((np.abs(early - late) + gone).argmax())
        value = f"{moved:.0%} of the rows moved; {group.labels[most]!r}: {early[most]:.1%} in the first third, {late[most]:.1%} in the last"
        findings.add("drift", log.file, value, column=name)


def distance(early: np.ndarray, late: np.ndarray) -> float:
    """Total variation between two distributions: the least share of rows that must move to turn one into the other."""
    return float(0.5 * np.abs(early - late).sum())


def _check_frozen(log: CodedLog, name: str, group: Grouped, findings: Findings) -> None:
    """The longest run of one value, row after row in time, where independent rows would hardly show one so long."""
    edges = np.flatnonzero(np.diff(group.codes)) + 1
    starts, ends = np.append(0, edges), np.append(edges, len(log))
    share = np.minimum(group.counts / len(log), _USUAL)[group.codes[starts]]
    chance = np.log(len(log)) + (ends - starts) * np.log(share)
    chance[group.counts[group.codes[starts]] > _USUAL * len(log)] = 0.0
    worst = int(chance.argmin())
    if chance[worst] < _CHANCE and ends[worst] - starts[worst] >= _RUN:
        first = int(starts[worst])
        when = log.frame["timestamp"].iloc[[first, int(ends[worst]) - 1]]
        value = f"{group.labels[group.codes[first]]!r} in all {ends[worst] - first:,} rows from {when.iloc[0]} to {when.iloc[1]} (UTC),"
        value += f" in {share[worst]:.0%} of all"
        findings.add("frozen_column", log.file, value, column=name, row=log.row(first))
