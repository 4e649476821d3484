from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from marca_common.errors import UserError
from marca_common.tables import Column, read_chunks, read_table, write_table

SCHEMA = [
    Column("when", "time"),
    Column("kind", "category"),
    Column("count", "int", 0, 4),
    Column("money", "float", 0),
    Column("cpu", "float", 0, 100, nullable=True),
    Column("extra", "float", required=False),
]


def frame(rows: int = 5) -> Any:
    return pd.DataFrame(
        {
            "when": pd.date_range("2026-01-01", periods=rows, freq="min"),
            "kind": [f"k{i % 2}" for i in range(rows)],
            "count": np.arange(rows) % 5,
            "money": np.linspace(0, 1.5, rows),
            "cpu": [np.nan, *np.linspace(1, 99, rows - 1)],
            "unrelated": "x",
        }
    )


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_both_formats_read_back_the_same_typed_table(tmp_path: Path, suffix: Any) -> None:
    path = tmp_path / f"t.{suffix}"
    write_table(frame(), path)
    table = read_table(path, SCHEMA)
    assert list(table) == ["when", "kind", "count", "money", "cpu"]
    assert table["count"].dtype == np.int64
    assert list(table["kind"].astype(str)) == list(frame()["kind"])
    np.testing.assert_allclose(table["money"], frame()["money"])
    assert np.isnan(table["cpu"][0])


def break_cell(column: Any, value: Any, row: int = 2) -> Any:
    bad = frame()
    bad[column] = bad[column].astype(object)
    bad.loc[row, column] = value
    return bad


@pytest.mark.parametrize(
    "column, value, message",
    [
        ("count", "many", "row 3, column 'count': got 'many'; expected a whole number"),
        ("count", 7, "row 3, column 'count': got 7; expected a whole number from 0 to 4"),
        ("count", -1, "row 3, column 'count': got -1"),
        ("count", 1.5, "row 3, column 'count': got .*1.5.*; expected a whole number"),
        ("money", np.nan, "row 3, column 'money': got an empty value; expected a number"),
        ("money", -0.5, "row 3, column 'money': .*expected a number of at least 0"),
        ("money", np.inf, "row 3, column 'money': .*finite"),
        ("cpu", 101.0, "row 3, column 'cpu': .*from 0 to 100"),
        ("when", "noon", "row 3, column 'when': got 'noon'; expected a time"),
        ("kind", np.nan, "row 3, column 'kind': got an empty value; expected a category"),
    ],
)
def test_a_bad_cell_is_named_by_file_row_column_and_value(
    tmp_path: Path, column: Any, value: Any, message: str
) -> None:
    path = tmp_path / "bad.csv"
    write_table(break_cell(column, value), path)
    with pytest.raises(UserError, match=message) as caught:
        read_table(path, SCHEMA)
    assert "bad.csv" in str(caught.value)


def test_a_bad_cell_of_a_later_chunk_keeps_its_row_number(tmp_path: Path) -> None:
    path = tmp_path / "bad.csv"
    write_table(break_cell("count", 9, row=4), path)
    with pytest.raises(UserError, match="row 5"):
        list(read_chunks(path, SCHEMA, rows=2))


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_chunks_join_to_the_whole(tmp_path: Path, suffix: Any) -> None:
    path = tmp_path / f"t.{suffix}"
    write_table(frame(7), path)
    chunks = list(read_chunks(path, SCHEMA, rows=3))
    assert [len(chunk) for chunk in chunks] == [3, 3, 1]
    assert list(pd.concat(chunks)["count"]) == list(read_table(path, SCHEMA)["count"])


def test_headerless_and_renamed_columns(tmp_path: Path) -> None:
    path = tmp_path / "raw.txt"
    path.write_text("7\t2.5\n8\t3.5\n")
    schema = [Column("n", "int"), Column("x")]
    table = read_table(path, schema, header=["N", "x"], rename={"N": "n"}, separator="\t")
    assert table["n"].tolist() == [7, 8]
    assert table["x"].tolist() == [2.5, 3.5]


def test_files_that_are_no_tables(tmp_path: Path) -> None:
    write_table(frame(), tmp_path / "whole.parquet")
    content = (tmp_path / "whole.parquet").read_bytes()
    (tmp_path / "cut.parquet").write_bytes(content[: len(content) // 2])
    (tmp_path / "empty.csv").write_text("")
    (tmp_path / "header.csv").write_text("when,kind,count,money,cpu\n")
    for name, message in {
        "cut.parquet": "truncated",
        "empty.csv": "the file is empty",
        "header.csv": "no rows",
        "none.csv": "no such file",
    }.items():
        with pytest.raises(UserError, match=message):
            read_table(tmp_path / name, SCHEMA)
    write_table(frame().drop(columns="money"), tmp_path / "less.csv")
    with pytest.raises(UserError, match="column 'money' is missing; found when, kind"):
        read_table(tmp_path / "less.csv", SCHEMA)


def test_a_failed_write_leaves_nothing(tmp_path: Path) -> None:
    blocker = tmp_path / "file"
    blocker.write_text("")
    with pytest.raises(UserError, match="cannot write"):
        write_table(frame(), blocker / "t.csv")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file"]
