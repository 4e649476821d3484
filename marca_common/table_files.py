"""Frames out of table files: text with separators or Parquet, one file or a folder of parts, as they stand there."""

from __future__ import annotations

import csv
import gzip
import io
import itertools
import re
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Annotated

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import AfterValidator

from marca_common.errors import UserError

_PARQUET = (".parquet", ".parq", ".pq")
_EMPTY = ["", "NA", "N/A", "n/a", "NaN", "nan", "-NaN", "-nan", "null", "NULL", "None", "<NA>", "#N/A", "#NA"]
_NUMBER = re.compile(r"\s*[-+]?(\d+\.?\d*|\.\d+)(e[-+]?\d+)?\s*", re.IGNORECASE)
_KINDS = {
    b"PAR1": "Parquet",
    b"\x1f\x8b": "gzip",
    b"PK\x03\x04": "a zip archive",
    b"\xff\xfe": "UTF-16 text",
    b"\xfe\xff": "UTF-16 text",
}


def _separator(text: str) -> str:
    if len(text) != 1 or not text.isascii() or text in '"\n\r\0':
        raise ValueError("expected one ASCII character, neither a quotation mark nor a line break")
    return text


Separator = Annotated[str, AfterValidator(_separator)]


@dataclass(frozen=True)
class TextLayout:
    """How a text file is laid out."""

    separator: str
    header: Sequence[str] | None  # column names of a file without a header row
    as_text: set[str]  # columns, by their names in the schema, that are text whatever they look like


def is_parquet(path: str | Path) -> bool:
    """Does the name say Parquet? A folder is what its first part is."""
    path = Path(path)
    if path.is_dir():
        return is_parquet(parts(path)[0])
    return path.name.lower().endswith(_PARQUET)


def parts(path: Path) -> list[Path]:
    """The file, or the part files of a folder in the order of their names; markers such as ``_SUCCESS`` are left out."""
    if not path.exists():
        raise UserError(f"{path}: no such file")
    if not path.is_dir():
        return [path]
    found = sorted(one for one in path.iterdir() if one.name[0] not in "_." and not one.name.endswith(".crc"))
    for one in found:
        if one.is_dir():
            raise UserError(f"{path}: holds the folder {one.name!r}; expected part files only, no partitions by folder")
        if one.name.lower().endswith(_PARQUET) != found[0].name.lower().endswith(_PARQUET):
            raise UserError(f"{path}: {found[0].name} and {one.name} are of different formats; expected one")
    if not found:
        raise UserError(f"{path}: the folder holds no part files")
    return found


def raw_frames(
    path: Path, rows: int | None, rename: dict[str, str], wanted: set[str] | None, layout: TextLayout
) -> Iterator[pd.DataFrame]:
    """The wanted columns (None: all) of one file, renamed, ``rows`` rows at a time (None: at once); nothing if empty."""
    parquet = is_parquet(path)
    with readable(path):
        size = path.stat().st_size
        with path.open("rb") as file:
            start = file.read(4)
        held = next((text for magic, text in _KINDS.items() if start.startswith(magic)), "text")
        expected = "Parquet" if parquet else "gzip" if path.name.lower().endswith(".gz") else "text"
        if size and held != expected:
            raise UserError(f"{path}: holds {held}; expected {expected} by its name")
        if size:
            yield from (
                _parquet_frames(path, rows, rename, wanted)
                if parquet
                else _text_frames(path, rows, rename, wanted, layout)
            )


@contextmanager
def readable(path: Path) -> Iterator[None]:
    """Whatever a table file can't be read for becomes one UserError that begins with its path."""
    try:
        yield
    except UserError:
        raise
    except UnicodeDecodeError:
        raise UserError(f"{path}: not UTF-8 text") from None
    except (pa.ArrowException, OSError, ValueError, EOFError, zlib.error, csv.Error) as error:  # pandas': ValueErrors
        what = "Parquet file" if is_parquet(path) else "table"
        detail = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise UserError(f"{path}: not a readable {what} (truncated?): {detail}") from None


def _parquet_frames(
    path: Path, rows: int | None, rename: dict[str, str], wanted: set[str] | None
) -> Iterator[pd.DataFrame]:
    file = pq.ParquetFile(path)
    names = file.schema_arrow.names
    chosen = parquet_columns(path, names, rename, wanted)
    batches = [file.read(columns=chosen)] if rows is None else file.iter_batches(batch_size=rows, columns=chosen)
    for batch in batches:
        yield named_frame(batch.to_pandas(), rename, names)


def parquet_columns(path: Path, names: list[str], rename: dict[str, str], wanted: set[str] | None) -> list[str]:
    """Which of a Parquet file's columns to read; a UserError where two of them would have one name."""
    _require_distinct(path, names, rename, wanted)
    return _chosen(names, rename, wanted)


def _text_frames(
    path: Path, rows: int | None, rename: dict[str, str], wanted: set[str] | None, layout: TextLayout
) -> Iterator[pd.DataFrame]:
    names = _names(path, layout, rename, wanted)
    _require_no_more_fields(path, layout, names)
    text = {name for name in names if rename.get(name, name) in layout.as_text}
    reader = pd.read_csv(
        path,
        sep=layout.separator,
        header=None if layout.header else 0,
        names=names,
        index_col=False,
        usecols=_chosen(names, rename, wanted),
        dtype=dict.fromkeys(text, str),
        keep_default_na=False,
        na_values={name: _EMPTY for name in names if name not in text},
        chunksize=rows,
        low_memory=False,
        encoding="utf-8-sig",
        compression="gzip" if path.name.lower().endswith(".gz") else None,
    )
    for frame in [reader] if rows is None else reader:
        yield named_frame(frame.reset_index(drop=True), rename, names)


def _chosen(names: list[str], rename: dict[str, str], wanted: set[str] | None) -> list[str]:
    """Names in the file of the wanted columns; the first column where none is there, so that rows can be counted."""
    return [name for name in names if wanted is None or rename.get(name, name) in wanted] or names[:1]


def named_frame(frame: pd.DataFrame, rename: dict[str, str], names: Sequence[str]) -> pd.DataFrame:
    """Under the schema's names; ``attrs`` keeps all names of the file, for messages."""
    frame = frame.rename(columns=rename)
    frame.attrs["names"] = list(names)
    return frame


def _names(path: Path, layout: TextLayout, rename: dict[str, str], wanted: set[str] | None) -> list[str]:
    """Column names of a text file; a UserError where they or the first row don't fit the layout."""
    with _opened(path) as file:
        rows = list(itertools.islice(csv.reader(file, delimiter=layout.separator), 2))
    if not rows:
        return list(layout.header or [])
    names = list(layout.header) if layout.header else rows[0]
    found = {rename.get(name, name) for name in rows[0]}
    if layout.header:
        _require_no_header(path, layout.header, rows[0])
    elif wanted and not found & wanted:
        _require_header(path, rows[0])
    other = next((mark for mark in ";\t|," if mark != layout.separator and mark in "".join(rows[0])), None)
    if len(rows[0]) == 1 and len(wanted or ()) > 1 and other:
        raise UserError(
            f"{path}: its first line holds {other!r} where {layout.separator!r} is expected; set separator: {other!r}"
        )
    _require_distinct(path, names, rename, wanted)
    return names


def _require_header(path: Path, first: list[str]) -> None:
    """A UserError where the first row, which has none of the expected names, looks like data."""
    number = next((field for field in first if _NUMBER.fullmatch(field)), None)
    if number is not None:
        raise UserError(
            f"{path}: its first row holds {number!r}, expected column names; if it has no header row, name the columns under header"
        )


def _require_no_header(path: Path, header: Sequence[str], first: list[str]) -> None:
    """A UserError where the first row holds the names that ``header`` gives, or fewer fields than it names."""
    named = [field for field in first if field in header]
    if len(named) > len(header) / 2:
        raise UserError(
            f"{path}: its first row holds the column name {named[0]!r} while header says that it has no header row; set "
            "header: null"
        )
    if 1 < len(first) < len(header):
        raise UserError(
            f"{path}: row 1 has {len(first)} fields; header names {len(header)} columns: {', '.join(header)}"
        )


def _opened(path: Path) -> IO[str]:
    if path.name.lower().endswith(".gz"):
        return io.TextIOWrapper(gzip.open(path), encoding="utf-8-sig", newline="")
    return path.open(encoding="utf-8-sig", newline="")


def _require_no_more_fields(path: Path, layout: TextLayout, names: Sequence[str]) -> None:
    """The parser drops what a row holds beyond the last column: refuse it. Rows are looked at only if separators are too many."""
    separators, lines, end = 0, 0, "\n"
    with _opened(path) as file:
        while block := file.read(1 << 24):
            separators, lines, end = separators + block.count(layout.separator), lines + block.count("\n"), block[-1]
    if separators <= (lines + (end != "\n")) * (len(names) - 1):
        return
    with _opened(path) as file:
        for number, row in enumerate(csv.reader(file, delimiter=layout.separator), start=int(bool(layout.header))):
            if any(field.strip() for field in row[len(names) :]):
                raise UserError(
                    f"{path}: row {number} has more fields than the {len(names)} columns: {', '.join(names)}"
                )


def _require_distinct(path: Path, names: Sequence[str], rename: dict[str, str], wanted: set[str] | None) -> None:
    """Two columns that end up with one wanted name would be one silently."""
    taken: dict[str, str] = {}
    for name in names:
        new = rename.get(name, name)
        if new in taken and (wanted is None or new in wanted):
            also = f"; both are called {new!r} here" if taken[new] != name else ""
            raise UserError(f"{path}: columns {taken[new]!r} and {name!r}{also}; expected one column {new!r}")
        taken[new] = name
