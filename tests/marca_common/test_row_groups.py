"""Row groups: the same rows as the table read at once, however the shards are cut; messages count rows as the file does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from marca_common.errors import UserError
from marca_common.row_groups import RowGroup, read_row_group, row_groups
from marca_common.tables import Column, read_table

SCHEMA = [Column("city", "category"), Column("n", "int", 0, 99), Column("money", "float", 0)]
OPTIONS: dict[str, Any] = {"rename": {"town": "city"}, "timezone": "UTC", "negative": {}}


@pytest.fixture
def parts(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    frame = pd.DataFrame(
        {"town": rng.choice(["x", "y", "z"], 50), "n": rng.integers(0, 99, 50), "money": rng.random(50)}
    )
    folder = tmp_path / "parts"
    folder.mkdir()
    for number, rows in enumerate(np.split(np.arange(50), [7, 30])):
        table = pa.Table.from_pandas(frame.iloc[rows].assign(aside=1.0), preserve_index=False)
        pq.write_table(table, folder / f"{number}.parquet", row_group_size=6)
    return folder


def test_row_groups_are_the_table_in_pieces(parts: Path) -> None:
    found = row_groups(parts, SCHEMA, OPTIONS["rename"])
    assert [one.rows for one in found] == [6, 1, 6, 6, 6, 5, 6, 6, 6, 2]
    assert [one.start for one in found] == [0, 6, 7, 13, 19, 25, 30, 36, 42, 48]
    assert [one.before for one in found] == [0, 6, 0, 6, 12, 18, 0, 6, 12, 18]
    pieces = pd.concat(
        [read_row_group(one, SCHEMA, **OPTIONS).astype({"city": str}) for one in found], ignore_index=True
    )
    whole = read_table(parts, SCHEMA, rename=OPTIONS["rename"]).astype({"city": str})
    pd.testing.assert_frame_equal(pieces, whole)


def test_one_file_is_a_table_too(parts: Path) -> None:
    assert [one.start for one in row_groups(parts / "1.parquet", SCHEMA, OPTIONS["rename"])] == [0, 6, 12, 18]


def test_a_bad_value_is_named_by_its_row_of_the_file(parts: Path) -> None:
    table = pq.read_table(parts / "2.parquet").to_pandas()
    table.loc[15, "n"] = 100
    pq.write_table(pa.Table.from_pandas(table, preserve_index=False), parts / "2.parquet", row_group_size=6)
    group = row_groups(parts, SCHEMA, OPTIONS["rename"])[-2]
    with pytest.raises(
        UserError, match=r"2\.parquet: row 16, column 'n': got 100; expected a whole number from 0 to 99"
    ):
        read_row_group(group, SCHEMA, **OPTIONS)


def test_a_missing_column_is_named(parts: Path) -> None:
    group = row_groups(parts, SCHEMA, {})[0]
    with pytest.raises(UserError, match="column 'city' is missing; found town, n, money, aside"):
        read_row_group(group, SCHEMA, rename={}, timezone="UTC", negative={})


def test_numbers_below_zero_are_clipped_as_declared(parts: Path) -> None:
    table = pq.read_table(parts / "0.parquet").to_pandas().assign(money=-1.0)
    pq.write_table(pa.Table.from_pandas(table, preserve_index=False), parts / "0.parquet")
    group = row_groups(parts, SCHEMA, OPTIONS["rename"])[0]
    frame = read_row_group(group, SCHEMA, **{**OPTIONS, "negative": {"money": "clip"}})
    assert frame["money"].tolist() == [0.0] * 7


def test_text_is_no_row_groups(tmp_path: Path) -> None:
    (tmp_path / "log.csv").write_text("city,n,money\nx,1,2\n")
    with pytest.raises(UserError, match=r"log\.csv: holds no Parquet; expected Parquet shards, or stream: null"):
        row_groups(tmp_path / "log.csv", SCHEMA, {})


def test_a_shard_that_vanished_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"gone\.parquet: not a readable Parquet file"):
        read_row_group(RowGroup(tmp_path / "gone.parquet", 0, 0, 0, 5), SCHEMA, **OPTIONS)
