"""A table in Parquet shards, read one row group at a time: memory holds a group, however many rows the table has.

A row group is what a Parquet file reads at once. Those of a folder come in the order of the names of its files.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow.parquet as pq

from marca_common.errors import UserError
from marca_common.files import shipped
from marca_common.table_files import is_parquet, named_frame, parquet_columns, parts, readable
from marca_common.tables import Negative, Schema, checked_frame, declared_below_zero


@dataclass(frozen=True)
class RowGroup:
    """Where some rows of a table lie."""

    path: Path
    number: int  # row group of the file
    start: int  # rows of the table before it
    before: int  # rows of the file before it
    rows: int


def row_groups(path: str | Path, schema: Schema, rename: Mapping[str, str]) -> list[RowGroup]:
    """The row groups of a Parquet file or a folder of such shards, by the footers of the files alone.

    A UserError where a shard is no Parquet, truncated, without rows, or has other columns of the schema than the first.
    """
    path = shipped(path)
    found: list[RowGroup] = []
    first: tuple[Path, set[str]] | None = None
    if not is_parquet(path):
        raise UserError(f"{path}: holds no Parquet; expected Parquet shards, or stream: null")
    for part in parts(path):
        if not part.stat().st_size:
            raise UserError(f"{part}: the shard is empty; write it anew, or remove it")
        with readable(part):
            footer = pq.ParquetFile(part)
            names, sizes = footer.schema_arrow.names, footer.metadata
            rows = [sizes.row_group(number).num_rows for number in range(sizes.num_row_groups)]
        if not sum(rows):
            raise UserError(f"{part}: the shard has no rows; write it anew, or remove it")
        columns = {column.name for column in schema} & {rename.get(name, name) for name in names}
        first = first or (part, columns)
        if columns != first[1]:
            odd = sorted(columns ^ first[1])[0]
            raise UserError(f"{part}: column {odd!r} stands in only one of this shard and {first[0].name}")
        start = found[-1].start + found[-1].rows if found else 0
        for number, size in enumerate(rows):
            before = sum(rows[:number])
            found.append(RowGroup(part, number, start + before, before, size))
    return [one for one in found if one.rows]


def read_row_group(
    group: RowGroup,
    schema: Schema,
    *,
    rename: Mapping[str, str],
    timezone: str,
    negative: Mapping[str, Negative],
    **_: Any,
) -> pd.DataFrame:
    """The schema's columns of a row group, checked and typed as in ``read_table``; options as there, those of text do nothing."""
    wanted = {column.name for column in schema}
    with readable(group.path):
        file = pq.ParquetFile(group.path)
        names = file.schema_arrow.names
        raw = file.read_row_group(group.number, columns=parquet_columns(group.path, names, dict(rename), wanted))
        frame = named_frame(raw.to_pandas(), dict(rename), names)
    here = declared_below_zero(frame, wanted, rename, negative)
    return checked_frame(frame, schema, str(group.path), timezone=timezone, start=group.before, negative=here)
