"""The three files as declared: read once, typed, in our units; what cannot be read becomes findings, not a refusal.

Rows with a bad value are left out of the frames, so that everything after this sees sound rows only. A frame's index is
the row in the file, from 0.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from marca_common.column_values import BadValue, as_categories, as_instants, as_numbers, shown
from marca_common.errors import UserError
from marca_common.files import shipped
from marca_common.table_files import TextLayout, parts, raw_frames
from own_system.declaration import EPOCHS, ONLY_CENTRE, OwnSystem, OwnTable
from own_system.findings import Findings


@dataclass(frozen=True)
class Role:
    """What one column of a file means: its name here, its name there, its kind and the range of a number."""

    ours: str
    yours: str
    kind: str  # "number", "category" or "time"
    low: float = -np.inf
    high: float = np.inf
    nullable: bool = False
    whole: bool = False
    factor: float = 1.0  # the file's number times this is ours
    bad: str = "out_of_range"  # kind of the finding of a number outside the range


@dataclass(frozen=True)
class OwnTables:
    """The files as frames under our names; None where a file can't be read as declared."""

    requests: pd.DataFrame | None
    minutes: pd.DataFrame | None
    load_tests: pd.DataFrame | None
    rows: dict[str, int]  # file → rows in it


def read_own(own: OwnSystem, findings: Findings) -> OwnTables:
    """Read all files; findings say what is wrong with columns and values."""
    wanted = {
        "requests": (own.requests, request_roles(own)),
        "minutes": (own.minutes, minute_roles(own)),
        "load_tests": (own.load_tests, load_test_roles(own)),
    }
    for role, (table, columns) in wanted.items():
        added = ["idc"] if own.data_centre is None and role != "requests" else []
        _require_names(role, table, columns, added)
    names = {role: _names(table, columns) for role, (table, columns) in wanted.items()}
    frames: dict[str, pd.DataFrame | None] = {}
    rows: dict[str, int] = {}
    for role, (table, columns) in wanted.items():
        frames[role] = None
        if _has_columns(role, wanted, names, findings):
            raw = _raw(table, columns, findings)
            if raw is not None:
                rows[table.file] = len(raw)
                frames[role] = _typed(raw, table, columns, own.timezone, findings)
    if own.data_centre is None:
        for role in ("minutes", "load_tests"):
            frame = frames[role]
            if frame is not None:
                frame["idc"] = pd.Categorical.from_codes(np.zeros(len(frame), np.int8), [ONLY_CENTRE])
    return OwnTables(frames["requests"], frames["minutes"], frames["load_tests"], rows)


def request_roles(own: OwnSystem) -> list[Role]:
    """Columns of the request log."""
    columns = own.requests.columns
    roles = [Role("timestamp", columns.timestamp, "time")] if columns.timestamp else []
    roles += [Role(name, name, "category" if kind == "category" else "number") for name, kind in own.state.items()]
    roles += [Role(name, name, "category") for name in own.sub_actions]
    roles += [Role(ours, yours, "number", 0) for ours, yours in own.results.items()]
    roles += [Role(name, name, "number", 0) for name in own.side_columns]
    roles.append(Role("revenue", columns.revenue, "number", 0, factor=own.money))
    if columns.propensity:
        roles.append(Role("propensity", columns.propensity, "number", 1e-12, 1, bad="propensity_range"))
    return roles


def minute_roles(own: OwnSystem) -> list[Role]:
    """Columns of the minute table; a λ column once, however many services share it."""
    table, columns = own.minutes, own.minutes.columns
    per_second = 1.0 if table.traffic == "requests_per_second" else 1 / 60
    roles = [Role("timestamp", columns.timestamp, "time")]
    roles += [Role("idc", own.data_centre.minutes, "category")] if own.data_centre else []
    roles.append(Role("qps", columns.traffic, "number", 0, factor=per_second))
    for name, service in own.services.items():
        roles.append(_cpu_role(f"cpu_{name}", service.cpu, table.cpu, nullable=True))
    roles += [Role(ours, yours, "number", 0, factor=own.price_factor) for yours, ours in own.prices.items()]
    roles += [Role("degradation", columns.degradation, "number", 0)] if columns.degradation else []
    return roles + [Role(name, name, "number") for name in table.extras]


def load_test_roles(own: OwnSystem) -> list[Role]:
    """Columns of the load tests; settings are named as their sub-action, a channel set ``channels``."""
    table, columns = own.load_tests, own.load_tests.columns
    roles = [Role("idc", own.data_centre.load_tests, "category")] if own.data_centre else []
    roles += [Role("service", columns.service, "category"), Role("round", columns.round, "number", 0, whole=True)]
    roles += [Role("channels", table.channels.column, "category")] if table.channels else []
    roles += [Role(name, yours, "category") for name, yours in table.switches.items()]
    roles += [Role(name, length.column, "number", 0, nullable=True) for name, length in table.lengths.items()]
    roles += [Role("degradation", columns.degradation, "number", 0)] if columns.degradation else []
    roles.append(Role("qps", columns.qps, "number", 0))
    roles += [Role(name, getattr(columns, name), "number", 1, whole=True) for name in ("machines", "cores")]
    return [*roles, _cpu_role("cpu_percent", columns.cpu, table.cpu)]


def _cpu_role(ours: str, yours: str, unit: str, nullable: bool = False) -> Role:
    """Percent here; a share may be up to 100 for now, so that percent in its place is told as such (checks.cpu)."""
    return Role(ours, yours, "number", 0, 100, nullable=nullable, factor=1.0 if unit == "percent" else 100.0)


def _require_names(role: str, table: OwnTable, columns: list[Role], added: list[str]) -> None:
    """A UserError where two columns would have one name here, or ``negative`` names one that can't be repaired so."""
    taken = [*added, *(one.ours for one in columns)]
    twice = sorted({name for name in taken if taken.count(name) > 1})
    if twice:
        raise UserError(f"{role}: {twice[0]!r} is the name of another column here; rename that of yours")
    known = [one.ours for one in columns if one.kind == "number" and one.low <= 0]
    unknown = [name for name in table.negative if name not in known]
    if unknown:
        raise UserError(f"{role}.negative: got {unknown[0]!r}; expected some of {', '.join(known)}")


def _names(table: OwnTable, columns: list[Role]) -> list[str] | UserError:
    """Column names of a file, or why it can't be read."""
    layout = TextLayout(table.separator, table.header, as_text=set())
    try:
        first = parts(shipped(table.file))[0]
        frame = next(raw_frames(first, 1, {}, {one.yours for one in columns}, layout), None)
    except UserError as error:
        return error
    return UserError(f"{table.file}: the file is empty") if frame is None else list(frame.attrs["names"])


def _has_columns(
    role: str,
    wanted: dict[str, tuple[OwnTable, list[Role]]],
    names: dict[str, list[str] | UserError],
    findings: Findings,
) -> bool:
    """Whether the file of a role can be read and has its columns; otherwise findings say what it lacks."""
    table, columns = wanted[role]
    found = names[role]
    if isinstance(found, UserError):
        findings.add("unreadable_file", table.file, str(found).removeprefix(f"{table.file}: "))
        return False
    missing = [one.yours for one in columns if one.yours not in found]
    if not missing:
        return True
    for other, present in names.items():
        if other != role and isinstance(present, list) and {one.yours for one in columns} <= set(present):
            findings.add(
                "swapped_files", table.file, f"declared as {role}, whose columns stand in {wanted[other][0].file}"
            )
            return False
    for name in missing:
        findings.add("missing_column", table.file, f"not among {', '.join(found)}", column=name)
    return False


def _raw(table: OwnTable, columns: list[Role], findings: Findings) -> pd.DataFrame | None:
    text = {
        one.yours
        for one in columns
        if (one.kind != "number" and table.time_format not in EPOCHS) or one.kind == "category"
    }
    layout = TextLayout(table.separator, table.header, as_text=text)
    try:
        read = [
            frame
            for part in parts(shipped(table.file))
            for frame in raw_frames(part, None, {}, {one.yours for one in columns}, layout)
        ]
        raw = pd.concat(read, ignore_index=True) if len(read) > 1 else read[0]
    except UserError as error:
        findings.add("unreadable_file", table.file, str(error).removeprefix(f"{table.file}: "))
        return None
    if not len(raw):
        findings.add("unreadable_file", table.file, "the file has no rows")
        return None
    return raw


def _typed(
    raw: pd.DataFrame, table: OwnTable, columns: list[Role], timezone: str, findings: Findings
) -> pd.DataFrame | None:
    """Sound rows under our names, index = row in the file; None where a column holds nothing sound."""
    note = _Notes(table.file, raw, findings)
    good, typed, before = np.ones(len(raw), dtype=bool), {}, len(findings)
    for one in columns:
        values = raw[one.yours]
        if one.kind == "number":
            how = table.negative.get(one.ours)
            typed[one.ours], sound = _numbers(values, replace(one, low=-np.inf) if how else one, note)
            if how == "clip":
                typed[one.ours] = np.maximum(typed[one.ours], 0.0)
            elif how == "drop":
                sound = sound & ~(typed[one.ours] < 0)
        elif one.kind == "category":
            typed[one.ours], sound = _categories(values, one, note)
        else:
            typed[one.ours], sound = _times(values, one, table.time_format, timezone, note)
        good &= sound
    if not good.any():
        if len(findings) == before:
            findings.add(
                "out_of_range",
                table.file,
                f"{', '.join(table.negative)}: no row is left when those below 0 are dropped",
            )
        return None
    frame = pd.DataFrame(typed, index=raw.index)
    return frame if good.all() else frame[good]


@dataclass(frozen=True)
class _Notes:
    """Turns bad cells of one file into findings."""

    file: str
    raw: pd.DataFrame
    findings: Findings

    def bad(self, kind: str, one: Role, rows: np.ndarray, expected: str) -> None:
        """A finding where some ``rows``, bool (M,), of a column are bad."""
        if rows.any():
            first = int(np.argmax(rows))
            value = (
                f"got {shown(self.raw[one.yours], first)}; expected {expected} ({rows.sum():,} of {len(rows):,} rows)"
            )
            self.findings.add(kind, self.file, value, column=one.yours, row=first)


def _numbers(values: pd.Series, one: Role, note: _Notes) -> tuple[np.ndarray, np.ndarray]:
    numbers, missing = as_numbers(values)
    what = "a whole number" if one.whole else "a number"
    wrong = ~np.isfinite(numbers) & ~missing
    if one.whole:
        wrong |= np.isfinite(numbers) & (numbers != np.floor(numbers))
    outside = np.isfinite(numbers) & ~wrong & ((numbers < one.low) | (numbers > one.high))
    empty = missing & (not one.nullable)
    note.bad("empty_value", one, empty, what)
    note.bad("not_a_number", one, wrong, what)
    note.bad(one.bad, one, outside, f"{what} {_range(one)}")
    return numbers * one.factor, ~(empty | wrong | outside)


def _range(one: Role) -> str:
    if one.high == np.inf:
        return f"of at least {one.low:g}"
    return f"from {one.low:g} to {one.high:g}"


def _categories(values: pd.Series, one: Role, note: _Notes) -> tuple[pd.Series, np.ndarray]:
    empty = (values.isna() | (values == "")).to_numpy(dtype=bool)
    note.bad("empty_value", one, empty, "a category")
    if empty.all():
        return pd.Series(pd.Categorical([None] * len(values))), ~empty
    try:
        sound = as_categories(values[~empty] if empty.any() else values)
    except BadValue as bad:
        at = np.flatnonzero(~empty)[bad.row]
        note.bad("not_a_category", one, np.arange(len(values)) == at, bad.expected)
        return pd.Series(pd.Categorical([None] * len(values))), np.zeros(len(values), dtype=bool)
    return sound.reindex(values.index), ~empty


def _times(values: pd.Series, one: Role, form: str | None, timezone: str, note: _Notes) -> tuple[pd.Series, np.ndarray]:
    parsed = _parsed(values, form)
    bad = parsed.isna().to_numpy()
    expected = "a time such as 2026-01-31 12:00:00" if form is None else f"a time as {form}"
    note.bad("not_a_time", one, bad, expected)
    nowhere = pd.Series(np.full(len(values), np.datetime64("NaT", "us")), index=values.index)
    if bad.all():
        return nowhere, ~bad
    text = (values if form is None else parsed)[~bad]
    try:
        zone = "UTC" if form in EPOCHS else timezone
        return as_instants(text, zone).reindex(values.index), ~bad
    except BadValue as wrong:
        at = np.flatnonzero(~bad)[wrong.row]
        note.bad("not_a_time", one, np.arange(len(values)) == at, wrong.expected)
        return nowhere, np.zeros(len(values), dtype=bool)


def _parsed(values: pd.Series, form: str | None) -> pd.Series:
    """Which values are times: NaT where one is none."""
    if form in EPOCHS:
        numbers = pd.Series(as_numbers(values)[0], index=values.index)
        return pd.to_datetime(numbers, unit=EPOCHS[form], errors="coerce")
    if form is not None:
        return pd.to_datetime(values, format=form, errors="coerce", utc="%z" in form)
    if values.dtype.kind == "M":
        return values
    return pd.to_datetime(values.astype(str), format="ISO8601", errors="coerce", utc=True)
