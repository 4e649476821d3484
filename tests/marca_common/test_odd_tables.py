"""Tables as other people write them: the same values whatever the file, or one line that names place and value."""

from __future__ import annotations

import gc
import gzip
import warnings
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given

from marca_common.column_values import as_categories, category
from marca_common.config import Config, parse_config, to_dict
from marca_common.encoding import StateEncoder
from marca_common.errors import UserError
from marca_common.files import file_hash
from marca_common.requests import RequestSpec
from marca_common.tables import Column, checked_frame, read_chunks, read_table
from mpc_balancer.config import ColumnsConfig

SCHEMA = [Column("when", "time"), Column("place", "category"), Column("n", "int", 0), Column("x", nullable=True)]
TEXT = "when,place,n,x\n2026-01-05 10:00:00,north,1,0.5\n2026-01-05 10:01:00,NA,2,\n"
EXPECTED = {"when": ["2026-01-05T10:00:00", "2026-01-05T10:01:00"], "place": ["north", "NA"], "n": [1, 2]}


def plain(frame: pd.DataFrame) -> dict[str, list[Any]]:
    times = frame["when"].to_numpy("datetime64[s]").astype(str).tolist()
    return {"when": times, "place": frame["place"].astype(str).tolist(), "n": frame["n"].tolist()}


def write(path: Path, text: str | bytes) -> Path:
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (True, "1"), (np.False_, "0"), ("True", "1"), ("false", "0"), ("FALSE", "0"), (1, "1"), (1.0, "1"), ("1.0", "1"),
        (np.int64(7), "7"), (2.5, "2.5"), (np.float32(0.1), "0.1"), (Decimal("2.00"), "2"), (Decimal("1.50"), "1.50"),
        ("1.50", "1.50"), (b"north", "north"), ("007", "007"), ("NA", "NA"), ("None", "None"), ("nan", "nan"), ("-0.0", "0"),
        (" a", " a"), ("1.0.0", "1.0.0"), ("v1.0", "v1.0"),
    ],
)  # fmt: skip
def test_one_text_for_a_category_whatever_type_it_came_in(value: Any, text: str) -> None:
    assert category(value) == text


VALUES = st.one_of(
    st.lists(st.booleans(), min_size=1, max_size=6),
    st.lists(st.integers(-5, 5), min_size=1, max_size=6),
    st.lists(st.sampled_from([0.0, 1.0, 2.5, -3.0]), min_size=1, max_size=6),
    st.lists(st.sampled_from(["NA", "None", "null", "nan", "true", "False", "007", "1.0", "a,b", 'say "x"', "é", " n "]), min_size=1, max_size=6),
)  # fmt: skip


@given(VALUES)
def test_csv_parquet_and_memory_give_the_same_states(
    tmp_path_factory: pytest.TempPathFactory, values: list[Any]
) -> None:
    folder = tmp_path_factory.mktemp("same")
    frame = pd.DataFrame({"s": values, "n": range(len(values))})
    schema = [Column("s", "category"), Column("n", "int")]
    frame.to_csv(folder / "t.csv", index=False)
    frame.to_parquet(folder / "t.parquet")
    frame.astype({"s": "category"}).to_parquet(folder / "d.parquet")
    found = [read_table(folder / name, schema) for name in ("t.csv", "t.parquet", "d.parquet")]
    found.append(checked_frame(frame, schema, "memory"))
    assert all(one["s"].tolist() == [category(value) for value in values] for one in found)
    encoder = StateEncoder.fit(found[0], {"s": "category"})
    codes = encoder.transform(found[0])[0]
    assert (codes > 0).all()
    np.testing.assert_array_equal(encoder.transform(frame)[0], codes)  # as served: the values as they are


@pytest.mark.parametrize(
    ("column", "values"),
    [
        ("n", pd.array([1, 2], dtype="Int64")),
        ("n", [Decimal("1"), Decimal("2")]),
        ("n", [1.0, 2.0]),
        ("n", ["1", "2"]),
        ("place", pd.Categorical(["north", "NA"])),
        ("place", [b"north", b"NA"]),
        ("when", pd.to_datetime(["2026-01-05 11:00+01:00", "2026-01-05 11:01+01:00"])),
        ("when", ["2026-01-05T18:00:00+08:00", "2026-01-05T10:01:00Z"]),
        ("when", [pd.Timestamp("2026-01-05 18:00", tz="Asia/Shanghai"), pd.Timestamp("2026-01-05 10:01")]),
    ],
)
def test_other_types_of_the_same_values(tmp_path: Path, column: str, values: Any) -> None:
    frame = read_table(write(tmp_path / "t.csv", TEXT), SCHEMA).assign(place=["north", "NA"])
    frame[column] = values
    assert plain(checked_frame(frame, SCHEMA, "memory")) == EXPECTED
    if not (column == "when" and isinstance(values, list) and not isinstance(values[0], str)):
        pq.write_table(pa.Table.from_pandas(frame), tmp_path / "t.PARQUET")
        assert plain(read_table(tmp_path / "t.PARQUET", SCHEMA)) == EXPECTED


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("t.CSV", TEXT.encode()),
        ("t.txt", TEXT.encode("utf-8-sig")),
        ("t.csv.gz", gzip.compress(TEXT.encode(), mtime=0)),
        ("T.CSV.GZ", gzip.compress(TEXT.encode(), mtime=0)),
        ("t.csv", TEXT.replace("\n", "\r\n").encode()),
        ("t", TEXT.encode()),
    ],
)
def test_names_and_packings_of_text_files(tmp_path: Path, name: str, content: bytes) -> None:
    assert plain(read_table(write(tmp_path / name, content), SCHEMA)) == EXPECTED


def test_a_folder_of_parts_is_one_table(tmp_path: Path) -> None:
    frame = read_table(write(tmp_path / "t.csv", TEXT), SCHEMA)
    folder = tmp_path / "t.parquet"
    folder.mkdir()
    for k in range(2):
        frame.iloc[[k]].to_parquet(folder / f"part-{k}.parquet")
    for name in ("_SUCCESS", ".part-0.parquet.crc", "_metadata"):
        (folder / name).touch()
    assert plain(read_table(folder, SCHEMA)) == EXPECTED
    assert [len(part) for part in read_chunks(folder, SCHEMA, rows=10)] == [1, 1]
    before = file_hash(folder)
    frame.iloc[[0]].to_parquet(folder / "part-2.parquet")
    assert file_hash(folder) != before
    frame.drop(columns="x").to_parquet(folder / "part-3.parquet")
    with pytest.raises(UserError, match=r"part-3.parquet: column 'x' stands in only one of this part and part-0"):
        read_table(folder, SCHEMA)
    (folder / "year=2026").mkdir()
    with pytest.raises(UserError, match="holds the folder 'year=2026'; expected part files only"):
        read_table(folder, SCHEMA)
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="empty: the folder holds no part files"):
        read_table(tmp_path / "empty", SCHEMA)


BROKEN: dict[str, tuple[str, bytes, str]] = {
    "twice": ("t.csv", TEXT.replace("n,x", "n,n").encode(), r"columns 'n' and 'n'; expected one column 'n'"),
    "case": ("t.csv", TEXT.replace("place", "Place ").encode(), r"column 'place' is missing; found 'Place '; names are taken"),
    "separator": ("t.csv", TEXT.replace(",", ";").encode(), r"its first line holds ';' where ',' is expected; set separator"),
    "utf-16": ("t.csv", TEXT.encode("utf-16"), "holds UTF-16 text; expected text by its name"),
    "latin-1": ("t.csv", TEXT.replace("north", "n\u00f6rd").encode("latin-1"), "not UTF-8 text"),
    "parquet in csv": ("t.csv", b"PAR1 and so on", "holds Parquet; expected text by its name"),
    "text in parquet": ("t.parquet", TEXT.encode(), "holds text; expected Parquet by its name"),
    "gzip in csv": ("t.csv", gzip.compress(TEXT.encode(), mtime=0), "holds gzip; expected text"),
    "cut gzip": ("t.csv.gz", gzip.compress(TEXT.encode() * 50)[:60], "not a readable table"),
    "long row": ("t.csv", TEXT.replace("0.5\n", "0.5,9\n").encode(), "row 1 has more fields than the 4 columns"),
    "longer rows": ("t.csv", (TEXT + "2026-01-05 10:02:00,south,1,2,3\n").encode(), "row 3 has more fields than the 4"),
    "quote": ("t.csv", TEXT.replace("NA", '"NA').encode(), "not a readable table|row 2"),
    "nul": ("t.csv", TEXT.replace("north", "no\0rth").encode(), "row 1, column 'place': got 'no.x00rth'; expected a category"),
    "joiner": ("t.csv", TEXT.replace("north", "no\x1frth").encode(), "row 1, column 'place'"),
    "empty category": ("t.csv", TEXT.replace("NA", "").encode(), "row 2, column 'place': got an empty value; expected a cat"),
    "empty file": ("t.csv", b"", "the file is empty; expected columns when, place, n, x"),
    "no rows": ("t.csv", TEXT.splitlines()[0].encode(), "the file has no rows"),
    "decimal comma": ("t.csv", TEXT.replace("0.5", '"0,5"').encode(), "row 1, column 'x': got '0,5'; expected a finite number"),
    "hexadecimal": ("t.csv", TEXT.replace("north,1", "north,0x1").encode(), "row 1, column 'n': got '0x1'; expected a whole"),
    "grouped digits": ("t.csv", TEXT.replace("north,1", "north,1_0").encode(), "row 1, column 'n': got '1_0'"),
    "infinite": ("t.csv", TEXT.replace("0.5", "inf").encode(), "row 1, column 'x': got inf; expected a finite number"),
    "huge": ("t.csv", TEXT.replace("0.5", "1e999").encode(), "row 1, column 'x': got inf; expected a finite number"),
    "epoch": ("t.csv", TEXT.replace("2026-01-05 10:00:00", "1767571380").encode(), "row 1, column 'when': got '1767571380'"),
    "no such day": ("t.csv", TEXT.replace("01-05 10:01", "02-30 10:01").encode(), "row 2, column 'when': got '2026-02-30"),
    "far year": ("t.csv", TEXT.replace("2026-01-05 10:01", "992026-01-05 10:01").encode(), "row 2, column 'when'"),
}  # fmt: skip


@pytest.mark.parametrize("kind", BROKEN)
def test_a_broken_file_is_one_line(tmp_path: Path, kind: str) -> None:
    name, content, message = BROKEN[kind]
    with pytest.raises(UserError, match=message) as raised:
        read_table(write(tmp_path / name, content), SCHEMA)
    assert str(raised.value).startswith(str(tmp_path / name))


@pytest.mark.parametrize(
    ("column", "values", "message"),
    [
        ("when", [1, 2], "row 1, column 'when': got 1; expected a time"),
        ("when", [pd.Timestamp(0), pd.NaT], "row 2, column 'when': got an empty value"),
        ("place", [["a"], ["b"]], "row 1, column 'place'"),
        ("place", [b"\xff", b"a"], "row 1, column 'place'"),
        ("place", [None, "a"], "row 1, column 'place': got an empty value"),
        ("n", pd.to_datetime(["2026-01-01", "2026-01-02"]), "row 1, column 'n'"),
        ("n", [1 + 2j, 0], "row 1, column 'n'"),
        ("n", pd.array([1, None], dtype="Int64"), "row 2, column 'n': got an empty value; expected a whole number"),
        ("n", [{}, 1], "row 1, column 'n'"),
        ("n", [1, 10**400], "row 2, column 'n': got 1000+…; expected a whole number"),
        ("x", [1, -(10**400)], "row 2, column 'x': got -1000+…; expected a finite number"),
        ("place", [10**5000, "a"], "row 1, column 'place': got a number of more digits than can be shown"),
    ],
)
def test_a_frame_in_memory_is_checked_as_a_file_is(tmp_path: Path, column: str, values: Any, message: str) -> None:
    frame = read_table(write(tmp_path / "t.csv", TEXT), SCHEMA).assign(place=["a", "b"])
    frame[column] = values
    with pytest.raises(UserError, match=f"memory: {message}"):
        checked_frame(frame, SCHEMA, "memory")


@pytest.mark.parametrize("config", [RequestSpec, ColumnsConfig])
@pytest.mark.parametrize("separator", ["", "||", '"', "\n", "\r", "\0", "§"])
def test_a_separator_is_one_character_or_the_config_is_refused(config: type[Config], separator: str) -> None:
    with pytest.raises(UserError) as raised:
        parse_config(config, {"separator": separator}, "c.yaml")
    expected = "expected one ASCII character, neither a quotation mark nor a line break"
    assert str(raised.value) == f"c.yaml: separator: got {separator!r}; {expected}"
    for one in "\t;|\x01 ":
        assert to_dict(parse_config(config, {"separator": one}, "c.yaml"))["separator"] == one


def test_a_table_that_was_read_is_closed(tmp_path: Path) -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        read_table(write(tmp_path / "t.csv", TEXT), SCHEMA)
        gc.collect()
    assert not [one for one in caught if issubclass(one.category, ResourceWarning)]


def test_a_categorical_of_text_keeps_the_order_of_its_categories_and_other_values_are_sorted() -> None:
    unchanged = pd.Series(pd.Categorical(["b", "a"], pd.Index(["b", "a"], dtype="str")))
    assert as_categories(unchanged).cat.categories.tolist() == ["b", "a"]
    assert as_categories(pd.Series([2, 10])).cat.categories.tolist() == ["10", "2"]


def test_whole_numbers_beyond_doubles_stay_exact(tmp_path: Path) -> None:
    frame = pd.DataFrame({"n": [2**53 + 1, 2**62 + 1]})
    frame.to_parquet(tmp_path / "t.parquet")
    assert read_table(tmp_path / "t.parquet", [Column("n", "int")])["n"].tolist() == frame["n"].tolist()


def test_a_state_given_twice_by_other_types_is_one_state() -> None:
    spec = RequestSpec(state={"new": "category"}, agents={"r": ["a"]}, sizes={"a": 2})
    frame = checked_frame(pd.DataFrame({"new": [True, "true", 1, "1", False]}), [Column("new", "category")], "m")
    assert len(spec.distinct_states(frame)[0]) == 2


def localised(zone: str, *times: str) -> list[str]:
    frame = checked_frame(pd.DataFrame({"when": times}), SCHEMA[:1], "m", timezone=zone)
    return [str(one)[:16] for one in frame["when"].to_numpy("datetime64[m]")]


def test_times_without_an_offset_are_read_in_the_declared_zone() -> None:
    found = localised("Asia/Shanghai", "2026-01-05 10:00", "2026-01-05T10:00:00+01:00", "2026-01-05T02:30Z")
    assert found == ["2026-01-05T02:00", "2026-01-05T09:00", "2026-01-05T02:30"]


def test_the_hour_that_occurs_twice_is_told_by_order() -> None:
    twice = ["2026-10-25 00:30", "2026-10-25 01:30", "2026-10-25 01:00", "2026-10-25 01:30", "2026-10-25 02:00"]
    found = localised("Europe/London", *twice)
    assert [one[11:] for one in found] == ["23:30", "00:30", "01:00", "01:30", "02:00"]


@pytest.mark.parametrize(
    ("times", "message"),
    [
        (["2026-10-25 01:30"], "row 1, column 'when': got '2026-10-25 01:30'; expected an offset, since Europe/London"),
        (["2026-03-29 00:59", "2026-03-29 01:30"], "row 2, .*; expected a time that the clocks of Europe/London show"),
        (["2026-10-25 01:30", "2026-10-25 01:00", "2026-10-25 01:30", "2026-10-25 01:10"], "row 1"),
    ],
)
def test_times_that_clocks_show_twice_or_never(times: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        localised("Europe/London", *times)


def test_an_unknown_zone_gets_a_hint() -> None:
    with pytest.raises(ValueError, match="did you mean 'Asia/Shanghai'"):
        RequestSpec(timezone="Asia/Shangai")


@pytest.mark.parametrize(
    ("rename", "change", "message"),
    [
        ({"income": "n"}, lambda f: f.assign(income=1), "columns 'n' and 'income'; both are called 'n' here"),
        ({"place_": "place"}, lambda f: f.rename(columns={"place": "place_"}), None),
    ],
)
def test_columns_that_clash_under_new_names(
    tmp_path: Path, rename: dict[str, str], change: Callable[[pd.DataFrame], pd.DataFrame], message: str | None
) -> None:
    frame = change(pd.read_csv(write(tmp_path / "t.csv", TEXT), keep_default_na=False, na_values={"x": [""]}))
    frame.to_csv(tmp_path / "t.csv", index=False)
    frame.to_parquet(tmp_path / "t.parquet")
    for name in ("t.csv", "t.parquet"):
        if message is None:
            assert plain(read_table(tmp_path / name, SCHEMA, rename=rename)) == EXPECTED
        else:
            with pytest.raises(UserError, match=message):
                read_table(tmp_path / name, SCHEMA, rename=rename)


def test_a_headerless_file_with_more_fields_than_names_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "t.csv", "".join(TEXT.splitlines(keepends=True)[1:]))
    assert plain(read_table(path, SCHEMA, header=["when", "place", "n", "x"])) == EXPECTED
    with pytest.raises(UserError, match="row 1 has more fields than the 3 columns: when, place, n"):
        read_table(path, SCHEMA[:3], header=["when", "place", "n"])
