"""Malformed tables: every way to spoil a CSV or Parquet file, and ways to dress a sound one.

A column is told by a word: ``category``, ``time``, ``int``, ``float``, with its least and greatest value behind it. ``?`` after
the kind: it may be empty. ``*`` after the kind: it may be absent. Other columns of the file are not read.
"""

from __future__ import annotations

import csv
import gzip
import io
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from tests.malformed.cases import Expected

Rows = list[list[str]]


@dataclass(frozen=True)
class Trait:
    """What a column takes, by its word."""

    kind: str
    low: float
    high: float
    nullable: bool
    optional: bool

    @classmethod
    def of(cls, word: str) -> Trait:
        """``"float? 0 100"``: a float from 0 to 100 that may be empty."""
        kind, *limits = word.split()
        low, high = [*map(float, limits), *[-np.inf, np.inf][len(limits) :]]
        return cls(kind.rstrip("?*"), low, high, "?" in kind, "*" in kind)


def cells(trait: Trait) -> Iterator[tuple[str, str, Expected]]:
    """Kind of fault, a value and what a reader has to do with it."""
    empty: Expected = "either" if trait.nullable else "refused"
    yield "an empty cell", "", empty
    yield "a NUL in a cell", "1\x00", "refused"
    if trait.kind == "category":
        return
    yield "NaN", "NaN", empty
    for value in ("many", "1,5", "0x1F", "1_000", "--1", "1 2", "inf", "-inf", "1e999"):
        yield f"{value} in a {trait.kind} column", value, "refused"
    if trait.kind == "time":
        for value in ("2026-02-30 00:00:00", "2026-01-05 25:00:00", "1767225600", "05/01/2026", "12:00:00"):
            yield f"the time {value}", value, "refused"
        return
    yield "1e300", "1e300", "either" if trait.high == np.inf and trait.kind == "float" else "refused"
    yield "a negative number", "-1", "refused" if trait.low >= 0 else "either"
    if trait.high < np.inf:
        yield "a number above the range", f"{trait.high + 1:g}", "refused"
    if trait.kind == "int":
        yield "a fraction", "1.5", "refused"


def cell_faults(rows: Rows, columns: Mapping[str, str]) -> Iterator[tuple[str, bytes, Expected]]:
    """A table with one wrong cell, in its second row."""
    for name, word in columns.items():
        at = rows[0].index(name)
        for kind, value, expected in cells(Trait.of(word)):
            yield f"{kind} ({name})", text(changed(rows, 2, at, value)), expected


def column_faults(rows: Rows, columns: Mapping[str, str]) -> Iterator[tuple[str, bytes, Expected]]:
    """A column that is gone, doubled or called otherwise."""
    for name, word in columns.items():
        at, expected = rows[0].index(name), "either" if Trait.of(word).optional else "refused"
        yield f"no column {name}", text([row[:at] + row[at + 1 :] for row in rows]), expected  # type: ignore[misc]
        yield f"column {name} twice", text([[*row, row[at]] for row in rows]), "refused"
        for other in (name.upper(), f" {name}", f"{name}s"):
            yield f"column {name} called {other!r}", text(changed(rows, 0, at, other)), expected  # type: ignore[misc]


def time_faults(rows: Rows, name: str, ordered: bool) -> Iterator[tuple[str, bytes, Expected]]:
    """Times of several kinds in one column; out of order where the table has to be in order."""
    at, wrong = rows[0].index(name), "refused" if ordered else "either"
    swapped = [rows[0], rows[2], rows[1], *rows[3:]] if len(rows) > 2 else rows
    yield "times out of order", text(swapped), wrong if len(rows) > 2 else "accepted"  # type: ignore[misc]
    yield "a time twice", text([*rows[:2], *rows[1:]]), wrong  # type: ignore[misc]
    yield "one time with Z", text(changed(rows, 1, at, f"{rows[1][at]}Z")), "accepted"
    yield "one time with +00:00", text(changed(rows, 1, at, f"{rows[1][at]}+00:00")), "accepted"
    yield "a time with +99:00", text(changed(rows, 1, at, f"{rows[1][at]}+99:00")), "refused"


def file_faults(data: bytes, name: str) -> Iterator[tuple[str, bytes | Callable[[Path], None], str, Expected]]:
    """Kind, content (or what makes the path), file name and expectation, for a CSV file as a whole."""
    lines, squeezed = data.splitlines(keepends=True), gzip.compress(data, mtime=0)
    whole, head, rest = data.decode(), lines[0], b"".join(lines[1:])
    yield "separated by ;", whole.replace(",", ";").encode(), f"{name}.csv", "refused"
    yield "separated by tabs", whole.replace(",", "\t").encode(), f"{name}.csv", "refused"
    yield "UTF-16", whole.encode("utf-16"), f"{name}.csv", "refused"
    yield "UTF-16 without a mark", whole.encode("utf-16-le"), f"{name}.csv", "refused"
    yield "Latin-1", data.replace(b"\n", b"\xe9\n"), f"{name}.csv", "refused"
    yield "an empty file", b"", f"{name}.csv", "refused"
    yield "one empty line", b"\n", f"{name}.csv", "refused"
    yield "only a header", head, f"{name}.csv", "refused"
    yield "no header", rest, f"{name}.csv", "refused"
    yield "two headers", head + data, f"{name}.csv", "refused"
    yield "a row with more fields", data + lines[1].strip() + b",1,2\n", f"{name}.csv", "refused"
    yield "a row with one field", data + lines[1].partition(b",")[0] + b"\n", f"{name}.csv", "refused"
    yield "a quote that does not end", data + b'"' + lines[1], f"{name}.csv", "refused"
    yield "zeros", bytes(1000), f"{name}.csv", "refused"
    yield "JSON", b'{"rows": [1, 2]}', f"{name}.csv", "refused"
    yield "HTML", b"<html><body>404</body></html>\n", f"{name}.csv", "refused"
    yield "CSV called .parquet", data, f"{name}.parquet", "refused"
    yield "gzip called .csv", squeezed, f"{name}.csv", "refused"
    yield "CSV called .gz", data, f"{name}.csv.gz", "refused"
    yield "half a gzip", squeezed[: len(squeezed) // 2], f"{name}.csv.gz", "refused"
    yield "a broken gzip", squeezed[:20] + bytes(8) + squeezed[28:], f"{name}.csv.gz", "refused"
    yield "an empty folder", lambda path: path.mkdir(), f"{name}.csv", "refused"
    yield "a folder in a folder", lambda path: (path / "inner").mkdir(parents=True), f"{name}.csv", "refused"
    yield "no such file", lambda path: None, f"{name}.csv", "refused"
    yield "a link to itself", lambda path: path.symlink_to(path), f"{name}.csv", "refused"
    yield "a byte-order mark", b"\xef\xbb\xbf" + data, f"{name}.csv", "accepted"
    yield "Windows line ends", data.replace(b"\n", b"\r\n"), f"{name}.csv", "accepted"
    yield "no last line end", data.rstrip(b"\n"), f"{name}.csv", "accepted"
    yield "gzip", squeezed, f"{name}.csv.gz", "accepted"
    yield "a suffix in capitals", data, f"{name}.CSV", "accepted"
    yield "everything in quotes", quoted(data), f"{name}.csv", "accepted"
    yield "columns in another order", turned(data), f"{name}.csv", "accepted"
    yield "a folder of parts", _parts(lines), name, "accepted"


def parquet_faults(frame: pd.DataFrame, columns: Mapping[str, str]) -> Iterator[tuple[str, bytes, Expected]]:
    """A Parquet file that is damaged, or whose columns have other types."""
    table = pa.Table.from_pandas(frame, preserve_index=False)
    whole = parquet(table)
    yield "half a Parquet file", whole[: len(whole) // 2], "refused"
    yield "Parquet without its end", whole[:-8] + bytes(8), "refused"
    yield (
        "Parquet with a broken middle",
        whole[: len(whole) // 3] + bytes(200) + whole[len(whole) // 3 + 200 :],
        "either",
    )
    yield "Parquet without rows", parquet(table.slice(0, 0)), "refused"
    for name, word in columns.items():
        trait, at = Trait.of(word), table.column_names.index(name)
        for kind, values, expected in _other_types(table.column(name), trait):
            yield f"{kind} ({name})", parquet(table.set_column(at, name, values)), expected


def _other_types(column: pa.ChunkedArray, trait: Trait) -> Iterator[tuple[str, pa.Array, Expected]]:
    plain, rows = column.to_pylist(), len(column)
    yield "lists", pa.array([[1]] * rows), "refused"
    yield "structures", pa.array([{"x": 1}] * rows), "refused"
    yield "nothing but nulls", pa.nulls(rows), "either" if trait.nullable else "refused"
    if trait.kind == "time":
        yield "microseconds with a zone", pa.array(plain, pa.timestamp("us", tz="UTC")), "accepted"
        yield "whole numbers for times", pa.array(range(rows)), "refused"
        return
    yield (
        "times for other values",
        pa.array(np.zeros(rows, "datetime64[us]")),
        "refused" if trait.kind != "category" else "either",
    )
    yield "dictionary-coded", column.combine_chunks().dictionary_encode(), "accepted"
    if trait.kind == "category":
        yield "bytes", pa.array([str(one).encode() for one in plain]), "accepted"
        yield "bytes that are no text", pa.array([b"\xff\xfe"] * rows), "refused"
    else:
        yield "numbers as text", pa.array([None if one is None else repr(one) for one in plain]), "accepted"
        yield "complex text", pa.array(["1+2j"] * rows), "refused"


def parquet(table: pa.Table) -> bytes:
    """The table as the bytes of a Parquet file."""
    sink = io.BytesIO()
    pq.write_table(table, sink)
    return sink.getvalue()


def rows_of(data: bytes) -> Rows:
    """A CSV file as rows of text, the header first."""
    return list(csv.reader(io.StringIO(data.decode())))


def text(rows: Rows, quoting: Any = csv.QUOTE_MINIMAL) -> bytes:
    """Rows as a CSV file."""
    file = io.StringIO()
    csv.writer(file, lineterminator="\n", quoting=quoting).writerows(rows)
    return file.getvalue().encode()


def quoted(data: bytes) -> bytes:
    """The same CSV, every field in quotes."""
    return text(rows_of(data), csv.QUOTE_ALL)


def turned(data: bytes) -> bytes:
    """The same CSV, the last column first."""
    return text([row[::-1] for row in rows_of(data)])


def changed(rows: Rows, row: int, at: int, value: str) -> Rows:
    """Rows with another value in one cell."""
    copy = [list(one) for one in rows]
    copy[min(row, len(rows) - 1)][at] = value
    return copy


def _parts(lines: list[bytes]) -> Callable[[Path], None]:
    def make(path: Path) -> None:
        path.mkdir()
        half = max(len(lines) // 2, 2)
        (path / "_SUCCESS").touch()
        (path / "part-0.csv").write_bytes(b"".join(lines[:half]))
        if lines[half:]:
            (path / "part-1.csv").write_bytes(b"".join([lines[0], *lines[half:]]))

    return make
