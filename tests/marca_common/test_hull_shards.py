"""Hull shards on disk: they come back as written, and what is no whole shard is named."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.ipc as ipc
import pytest

from marca_common.errors import UserError
from marca_common.hull_shards import SHIFT, Hulls, ShardSums, SlopeHistogram, open_shard, shard_paths, write_shard

# State 0: (cost, value) = (1, 1), (2, 4), (4, 5): slopes 3 and 0.5. State 1: (1, 0) alone. State 2: (0, 0), (2, 3): slope 1.5.
HULLS = Hulls(
    np.array([0, 3, 4, 6], np.int32),
    np.array([7, 0, 2, 1, 3, 9], np.uint16),
    np.array([1, 2, 4, 1, 0, 2], np.float32),
    np.array([1, 4, 5, 0, 0, 3], np.float32),
)
COUNT = np.array([2.0, 1.0, 3.0])
STATES = pd.DataFrame({"segment": ["a", "b", "a"], "idc": [0, 1, 1]})


def written(path: Path, hulls: Hulls = HULLS, count: np.ndarray = COUNT, states: pd.DataFrame = STATES) -> Path:
    write_shard(path, states, count, hulls, ShardSums.of(hulls, count, {"sizes": {"a1": 10}}, "models", "rows"))
    return path


def test_a_shard_comes_back_as_written(tmp_path: Path) -> None:
    shard = open_shard(written(tmp_path / "one.arrow"))
    for name in ("first", "action", "c", "q"):
        assert getattr(shard.hulls, name).dtype == getattr(HULLS, name).dtype
        assert getattr(shard.hulls, name).tolist() == getattr(HULLS, name).tolist()
    assert shard.count.tolist() == [2, 1, 3]
    assert shard.states().to_dict("list") == {"segment": ["a", "b", "a"], "idc": ["0", "1", "1"]}
    assert (shard.sums.requests, shard.sums.least_cost, shard.sums.most_cost) == (6, 2 + 1 + 0, 8 + 1 + 6)
    assert (shard.sums.vocabulary, shard.sums.made_by, shard.sums.source) == ('{"sizes": {"a1": 10}}', "models", "rows")


def test_the_hulls_are_not_copied_into_memory(tmp_path: Path) -> None:
    shard = open_shard(written(tmp_path / "one.arrow"))
    before = pa.total_allocated_bytes()
    assert not shard.hulls.c.flags.owndata
    assert not shard.hulls.first.flags.owndata
    assert pa.total_allocated_bytes() == before


def test_the_histogram_by_hand() -> None:
    """256 bins from one power of 2 to the next; states without requests are left out."""
    histogram = SlopeHistogram.of(HULLS, COUNT)
    slopes = np.array([0.5, 1.5, 3.0]).view(np.int64) >> SHIFT
    assert histogram.bin.tolist() == slopes.tolist()
    assert slopes[1] - slopes[0] == 256 + 128
    assert histogram.edges.tolist() == [1, 1, 1]
    assert histogram.cost.tolist() == [2 * 2, 3 * 2, 2 * 1]
    assert SlopeHistogram.of(HULLS, np.array([0.0, 1.0, 1.0])).cost.tolist() == [2]
    assert SlopeHistogram.of(HULLS, np.zeros(3)).bin.tolist() == []


@pytest.mark.parametrize("share", [0.0, 0.3, 0.7, 0.99])
def test_a_truncated_shard_is_named(tmp_path: Path, share: float) -> None:
    path = written(tmp_path / "one.arrow")
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    with pytest.raises(UserError, match=r"one\.arrow: not a readable hull shard"):
        open_shard(path)


def test_other_files_are_named(tmp_path: Path) -> None:
    plain = pa.table({"count": [1.0], "hull": [[1.0]]})
    for name, metadata in (("bare", None), ("odd", {"sums": "{}"}), ("text", {"sums": "no JSON"})):
        with ipc.new_file(str(tmp_path / f"{name}.arrow"), plain.schema.with_metadata(metadata)) as file:
            file.write_table(plain)
        with pytest.raises(UserError, match=rf"{name}\.arrow: not a readable hull shard"):
            open_shard(tmp_path / f"{name}.arrow")
    with pytest.raises(UserError, match=r"none\.arrow: not a readable hull shard"):
        open_shard(tmp_path / "none.arrow")


def test_metadata_of_other_rows_are_named(tmp_path: Path) -> None:
    path = written(tmp_path / "one.arrow")
    batch = ipc.open_file(str(path)).get_batch(0)
    metadata = batch.schema.metadata

    def message(*batches: pa.RecordBatch, **changed: bytes) -> str:
        schema = batches[0].schema.with_metadata(metadata | {key.encode(): one for key, one in changed.items()})
        with ipc.new_file(str(path), schema) as file:
            for one in batches:
                file.write_batch(one.replace_schema_metadata(schema.metadata))
        with pytest.raises(UserError, match=r"one\.arrow: not a readable hull shard") as found:
            open_shard(path)
        return str(found.value)

    counts = batch.set_column(batch.schema.get_field_index("count"), "count", pa.array([2.0, np.nan, 3.0]))
    sums = metadata[b"sums"]
    assert "it holds 2 record batches; expected one" in message(batch.slice(0, 1), batch.slice(1))
    assert "its counts add up to nan; expected 6 requests" in message(counts)
    assert '\'Field "count" does not exist' in message(batch.drop_columns(["count"]))
    assert "its histogram differ in length" in message(batch, cost=metadata[b"cost"][:-8])
    assert "its sums are not finite" in message(batch, sums=sums.replace(b"15.0", b"NaN"))
    assert "must be real number" in message(batch, sums=sums.replace(b"15.0", b'"15"'))


def test_a_layout_of_another_version_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = written(tmp_path / "one.arrow")
    monkeypatch.setattr("marca_common.hull_shards.VERSION", "2")
    with pytest.raises(UserError, match="its layout is version 1; expected 2"):
        open_shard(path)


def test_what_is_no_shard_is_not_written(tmp_path: Path) -> None:
    none = Hulls(np.zeros(1, np.int32), *(getattr(HULLS, name)[:0] for name in ("action", "c", "q")))
    with pytest.raises(UserError, match=r"one\.arrow: got no states"):
        written(tmp_path / "one.arrow", none, COUNT[:0], STATES[:0])
    with pytest.raises(UserError, match="count: got shape"):
        write_shard(tmp_path / "one.arrow", STATES, COUNT[:2], HULLS, open_sums())
    assert not [*tmp_path.iterdir()]


def open_sums() -> Any:
    return ShardSums.of(HULLS, COUNT, {}, "", "")


def test_a_folder_holds_shards_only(tmp_path: Path) -> None:
    paths = [written(tmp_path / f"{name}.arrow") for name in "ba"]
    assert shard_paths(tmp_path) == paths[::-1]
    (tmp_path / "c.parquet").touch()
    with pytest.raises(UserError, match=r"c\.parquet"):
        shard_paths(tmp_path)
