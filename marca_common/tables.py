"""Tables on disk or in memory under one schema of names, kinds and ranges.

A schema violation is a UserError that names file, row, column, the value and what was expected.
Rows are counted from 1, the header not included. CSV, Parquet and a frame in memory give the same values.
"""

from __future__ import annotations

import difflib
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from pandas.api.types import union_categoricals

from marca_common.column_values import BadValue, as_categories, as_instants, as_numbers, shown
from marca_common.errors import UserError
from marca_common.files import atomic_path, shipped
from marca_common.table_files import TextLayout, is_parquet, parts, raw_frames

log = logging.getLogger(__name__)

Kind = Literal["int", "float", "category", "time"]
Negative = Literal["clip", "drop"]  # a number below 0 where none is expected: 0 in its place, or the row left out


@dataclass(frozen=True)
class Column:
    """One column: its name, kind and closed range; ``nullable`` lets a float be empty."""

    name: str
    kind: Kind = "float"
    low: float = -np.inf
    high: float = np.inf
    required: bool = True
    nullable: bool = False


Schema = Sequence[Column]


def read_table(path: str | Path, schema: Schema, **reading: Any) -> pd.DataFrame:
    """Read the schema's columns of a table on disk, checked and typed; other columns are left out.

    ``path``: CSV (also ``.gz``), Parquet, or a folder of such part files, read in the order of their names. Options as in
    ``read_chunks``. Kinds become int64, float64, category (of text) and datetime64 in UTC.
    """
    chunks = list(read_chunks(path, schema, rows=None, **reading))
    return chunks[0] if len(chunks) == 1 else _joined(chunks, schema)


def read_all_columns(path: str | Path) -> pd.DataFrame:
    """Every column of a table on disk as it stands there, unchecked; ``path`` as in ``read_table``.

    A UserError where it can't be read, two columns have one name, or no row is there.
    """
    path, layout = shipped(path), TextLayout(",", header=None, as_text=set())
    frames = [frame for part in parts(path) for frame in raw_frames(part, None, {}, None, layout)]
    if not any(map(len, frames)):
        raise UserError(f"{path}: the file has no rows")
    return pd.concat(frames, ignore_index=True)


def read_chunks(
    path: str | Path,
    schema: Schema,
    *,
    rows: int | None,
    rename: Mapping[str, str] | None = None,
    header: Sequence[str] | None = None,
    separator: str = ",",
    timezone: str = "UTC",
    negative: Mapping[str, Negative] | None = None,
) -> Iterator[pd.DataFrame]:
    """As read_table, ``rows`` rows at a time (None: a file at once), for tables larger than memory.

    ``rename`` maps names in the file to names in the schema; ``header`` names the columns of a text file without a header
    row; times without an offset are read in ``timezone``; ``negative`` says what becomes of numbers below 0, by column.
    """
    path = shipped(path)
    wanted = {column.name for column in schema}
    total, kept, first = 0, 0, None
    for part in parts(path):
        layout = TextLayout(separator, header, as_text={c.name for c in schema if c.kind in ("category", "time")})
        start = 0
        for raw in raw_frames(part, rows, dict(rename or {}), wanted, layout):
            first = first or (part, set(raw.columns))
            if set(raw.columns) != first[1]:
                odd = sorted(set(raw.columns) ^ first[1])[0]
                raise UserError(f"{part}: column {odd!r} stands in only one of this part and {first[0].name}")
            here = declared_below_zero(raw, wanted, rename or {}, negative or {})
            frame = checked_frame(raw, schema, str(part), timezone=timezone, start=start, negative=here)
            start, kept = start + len(raw), kept + len(frame)
            yield frame
        total += start
    if total and not kept:
        raise UserError(f"{path}: all {total} rows are left out for a number below 0; expected some others")
    if total == 0:
        expected = ", ".join(c.name for c in schema)
        raise UserError(
            f"{path}: {'the file has no rows' if first else 'the file is empty'}; expected columns {expected}"
        )


def declared_below_zero(
    raw: pd.DataFrame, wanted: set[str], rename: Mapping[str, str], negative: Mapping[str, Negative]
) -> dict[str, Negative]:
    """``negative`` without the columns of the file that are not read."""
    aside = {rename.get(name, name) for name in raw.attrs["names"]} - wanted
    return {name: how for name, how in negative.items() if name not in aside}


def checked_frame(
    frame: pd.DataFrame,
    schema: Schema,
    place: str,
    *,
    timezone: str = "UTC",
    start: int = 0,
    negative: Mapping[str, Negative] | None = None,
) -> pd.DataFrame:
    """The schema's columns of a frame in memory, checked and typed as those of a file are; ``place`` opens messages.

    ``start``: rows before this frame, for messages. ``negative`` as in ``read_chunks``.
    """
    negative = negative or {}
    columns = {}
    for column in _with_negatives(schema, negative, frame, place):
        if column.name not in frame:
            if not column.required:
                continue
            raise UserError(f"{place}: column {column.name!r} is missing; {_found(column.name, frame)}")
        values = frame[column.name]
        if isinstance(values, pd.DataFrame):
            raise UserError(f"{place}: column {column.name!r} stands {values.shape[1]} times; expected it once")
        try:
            columns[column.name] = _typed(values, column, timezone)
        except BadValue as bad:
            row, value = start + bad.row + 1, shown(values, bad.row)
            raise UserError(
                f"{place}: row {row}, column {column.name!r}: got {value}; expected {bad.expected}"
            ) from None
    return _without_negatives(pd.DataFrame(columns, index=frame.index), negative, place)


def write_table(frame: pd.DataFrame, path: str | Path) -> None:
    """Write a CSV or (by the suffix) Parquet file, atomically; the same frame gives the same bytes."""
    with atomic_path(path) as temporary:
        if is_parquet(path):
            pq.write_table(pa.Table.from_pandas(frame, preserve_index=False), temporary, compression="zstd")
        else:
            frame.to_csv(temporary, index=False, lineterminator="\n", date_format="%Y-%m-%d %H:%M:%S")


def _with_negatives(schema: Schema, negative: Mapping[str, Negative], frame: pd.DataFrame, place: str) -> list[Column]:
    """The schema, open below 0 in the columns that ``negative`` names; one that can't hold a 0 is a UserError."""
    for column in schema:
        if column.name in negative and (column.kind not in ("int", "float") or column.low > 0):
            raise UserError(f"{place}: negative: {column.name!r}: expected a column of numbers that may be 0")
    names = {column.name for column in schema} | set(frame.columns)
    unknown = next((name for name in negative if name not in names), None)
    if unknown is not None:
        raise UserError(f"{place}: negative: column {unknown!r} is missing; {_found(unknown, frame)}")
    return [replace(column, low=-np.inf) if column.name in negative else column for column in schema]


def _without_negatives(frame: pd.DataFrame, negative: Mapping[str, Negative], place: str) -> pd.DataFrame:
    """Numbers below 0 set to 0, or their rows left out, as declared; said in the log, with their number."""
    kept = np.ones(len(frame), dtype=bool)
    for name, how in negative.items():
        below = frame[name].to_numpy() < 0 if name in frame else np.zeros(len(frame), dtype=bool)
        if not below.any():
            continue
        log.warning("%s: column %r: %d of %d values below 0: %s", place, name, below.sum(), len(frame), _DONE[how])
        if how == "clip":
            frame[name] = frame[name].clip(lower=0)
        else:
            kept &= ~below
    return frame if kept.all() else frame[kept].reset_index(drop=True)


_DONE = {"clip": "counted as 0", "drop": "their rows are left out, later row numbers are without them"}


def _found(name: str, frame: pd.DataFrame) -> str:
    names = [str(one) for one in frame.attrs.get("names", frame.columns)]
    near = difflib.get_close_matches(name.casefold(), [one.strip().casefold() for one in names], n=1, cutoff=0.8)
    if near:
        return f"found {next(one for one in names if one.strip().casefold() == near[0])!r}; names are taken as written"
    return f"found {', '.join(names) or 'none of the expected ones'}"


def _joined(chunks: list[pd.DataFrame], schema: Schema) -> pd.DataFrame:
    columns = {}
    for column in schema:
        if column.name not in chunks[0]:
            continue
        parts = [chunk[column.name] for chunk in chunks]
        if column.kind == "category":
            joined = union_categoricals([part.array for part in parts], sort_categories=True)
            columns[column.name] = pd.Series(joined)
        else:
            columns[column.name] = pd.concat(parts, ignore_index=True)
    return pd.DataFrame(columns)


def _typed(values: pd.Series, column: Column, timezone: str) -> pd.Series:
    if column.kind == "category":
        return as_categories(values)
    if column.kind == "time":
        return as_instants(values, timezone)
    numbers, missing = as_numbers(values)
    what = "a whole number" if column.kind == "int" else "a number"
    if not column.nullable:
        _refuse(missing, what)
    _refuse(~np.isfinite(numbers) & ~missing, what if column.kind == "int" else "a finite number")
    if column.kind == "int":
        _refuse((numbers != np.floor(numbers)) | (np.abs(numbers) >= 2.0**63), what)
    with np.errstate(invalid="ignore"):
        _refuse((numbers < column.low) | (numbers > column.high), f"{what} {_range_text(column)}")
    if column.kind == "int":
        exact = values.to_numpy(np.int64) if values.dtype.kind in "iu" else numbers.astype(np.int64)
        return pd.Series(exact, index=values.index)
    return pd.Series(numbers, index=values.index)


def _refuse(bad: np.ndarray, expected: str) -> None:
    if bad.any():
        raise BadValue(int(np.argmax(bad)), expected)


def _range_text(column: Column) -> str:
    if np.isfinite(column.low) and np.isfinite(column.high):
        return f"from {column.low:g} to {column.high:g}"
    return f"of at least {column.low:g}" if np.isfinite(column.low) else f"of at most {column.high:g}"
