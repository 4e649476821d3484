"""Tables on disk: CSV or Parquet under one schema of names, kinds and ranges.

A schema violation is a UserError that names file, row, column, the value and what was expected.
Rows are counted from 1, the header not included.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from marca_common.errors import UserError
from marca_common.files import atomic_path, shipped

Kind = Literal["int", "float", "category", "time"]


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


def read_table(
    path: str | Path,
    schema: Schema,
    *,
    rename: Mapping[str, str] | None = None,
    header: Sequence[str] | None = None,
    separator: str = ",",
) -> pd.DataFrame:
    """Read the schema's columns of a CSV or Parquet file, checked and typed; other columns are left out.

    ``rename`` maps names in the file to names in the schema; ``header`` names the columns of a file without a
    header row. Kinds become int64, float64, category (of strings) and datetime64.
    """
    chunks = list(read_chunks(path, schema, rows=None, rename=rename, header=header, separator=separator))
    return chunks[0]


def read_chunks(
    path: str | Path,
    schema: Schema,
    *,
    rows: int | None,
    rename: Mapping[str, str] | None = None,
    header: Sequence[str] | None = None,
    separator: str = ",",
) -> Iterator[pd.DataFrame]:
    """As read_table, ``rows`` rows at a time (None: all at once), for tables larger than memory."""
    path = shipped(path)
    if not path.is_file():
        raise UserError(f"{path}: no such file")
    if path.stat().st_size == 0:
        raise UserError(f"{path}: the file is empty; expected columns {', '.join(c.name for c in schema)}")
    rename = dict(rename or {})
    wanted = {column.name for column in schema}
    raw = (
        _parquet_frames(path, rows, rename, wanted)
        if path.suffix == ".parquet"
        else _csv_frames(path, rows, rename, schema, header, separator)
    )
    start = 0
    for frame in raw:
        yield _checked(frame, schema, path, start)
        start += len(frame)
    if start == 0:
        raise UserError(f"{path}: the file has no rows")


def write_table(frame: pd.DataFrame, path: str | Path) -> None:
    """Write a CSV or (by the suffix) Parquet file, atomically; the same frame gives the same bytes."""
    with atomic_path(path) as temporary:
        if Path(path).suffix == ".parquet":
            pq.write_table(pa.Table.from_pandas(frame, preserve_index=False), temporary, compression="zstd")
        else:
            frame.to_csv(temporary, index=False, lineterminator="\n", date_format="%Y-%m-%d %H:%M:%S")


def _csv_frames(
    path: Path,
    rows: int | None,
    rename: dict[str, str],
    schema: Schema,
    header: Sequence[str] | None,
    separator: str,
) -> Iterator[pd.DataFrame]:
    as_text = {column.name for column in schema if column.kind in ("category", "time")}
    dtypes = {name: str for name in as_text} | {old: str for old, new in rename.items() if new in as_text}
    wanted = {column.name for column in schema}
    try:
        reader = pd.read_csv(
            path,
            sep=separator,
            header=None if header else 0,
            names=list(header) if header else None,
            usecols=lambda name: rename.get(name, name) in wanted,
            dtype=dtypes,
            chunksize=rows,
            low_memory=False,
        )
        for frame in [reader] if rows is None else reader:
            yield frame.rename(columns=rename).reset_index(drop=True)
    except (ValueError, UnicodeDecodeError) as error:  # includes the parser's own errors
        raise UserError(f"{path}: not a readable table: {error}") from None


def _parquet_frames(path: Path, rows: int | None, rename: dict[str, str], wanted: set[str]) -> Iterator[pd.DataFrame]:
    try:
        file = pq.ParquetFile(path)
        names = [name for name in file.schema_arrow.names if rename.get(name, name) in wanted]
        if rows is None:
            yield file.read(columns=names).to_pandas().rename(columns=rename)
            return
        for batch in file.iter_batches(batch_size=rows, columns=names):
            yield batch.to_pandas().rename(columns=rename)
    except (pa.ArrowException, OSError) as error:
        raise UserError(f"{path}: not a readable Parquet file (truncated?): {str(error).splitlines()[0]}") from None


def _checked(frame: pd.DataFrame, schema: Schema, path: Path, start: int) -> pd.DataFrame:
    columns = {}
    for column in schema:
        if column.name not in frame:
            if not column.required:
                continue
            found = ", ".join(map(str, frame.columns)) or "none of the expected ones"
            raise UserError(f"{path}: column {column.name!r} is missing; found {found}")
        columns[column.name] = _typed(frame[column.name], column, path, start)
    return pd.DataFrame(columns)


def _typed(values: pd.Series, column: Column, path: Path, start: int) -> pd.Series:
    def refuse(bad: np.ndarray, expected: str) -> None:
        if bad.any():
            row = int(np.argmax(bad))
            value = values.iloc[row]
            shown = "an empty value" if pd.isna(value) else repr(value.item() if hasattr(value, "item") else value)
            raise UserError(f"{path}: row {start + row + 1}, column {column.name!r}: got {shown}; expected {expected}")

    missing = values.isna().to_numpy()
    if column.kind == "category":
        refuse(missing, "a category")
        return values if _is_text_category(values) else values.astype(str).astype("category")
    if column.kind == "time":
        times = pd.to_datetime(values, errors="coerce", format=None if values.dtype.kind == "M" else "ISO8601")
        refuse(times.isna().to_numpy(), "a time such as 2026-01-31 12:00:00")
        return times
    numbers = pd.to_numeric(values, errors="coerce").to_numpy(dtype=np.float64, na_value=np.nan)
    what = "a whole number" if column.kind == "int" else "a number"
    if not column.nullable:
        refuse(missing, what)
    refuse(
        (np.isnan(numbers) & ~missing) | np.isinf(numbers),
        f"{'a whole' if column.kind == 'int' else 'a finite'} number",
    )
    if column.kind == "int":
        refuse(numbers != np.floor(numbers), what)
    with np.errstate(invalid="ignore"):
        refuse((numbers < column.low) | (numbers > column.high), f"{what} {_range_text(column)}")
    if column.kind == "int":
        exact = values.to_numpy() if values.dtype.kind in "iu" else numbers
        return pd.Series(exact.astype(np.int64), index=values.index)
    return pd.Series(numbers, index=values.index)


def _is_text_category(values: pd.Series) -> bool:
    return isinstance(values.dtype, pd.CategoricalDtype) and pd.api.types.is_string_dtype(values.dtype.categories.dtype)


def _range_text(column: Column) -> str:
    if np.isfinite(column.low) and np.isfinite(column.high):
        return f"from {column.low:g} to {column.high:g}"
    return f"of at least {column.low:g}" if np.isfinite(column.low) else f"of at most {column.high:g}"
