"""Hull shards: what scoring hands to allocation, of one shard of states, in one Arrow IPC file.

A row is a state. Beside the state columns it holds ``count``, its requests, and ``hull``: the joint actions that some price
λ ≥ 0 makes best, by rising cost, each with its cost ``c`` and value ``q`` (float32). Nothing is compressed, so the file is
mapped into memory and read as it lies. The schema's metadata hold sums and a histogram of the hulls' edges by slope,
extra value per extra cost. From these alone λ is known to within .4 %.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.ipc as ipc

from marca_common.arrays import require_shape
from marca_common.column_values import words
from marca_common.errors import UserError
from marca_common.files import atomic_path
from marca_common.table_files import parts

SHIFT = 44  # a slope's bin is its float64 bits without the last 44: 256 bins from one power of 2 to the next
SUFFIX = ".arrow"
VERSION = "1"  # of the layout
_NUMBERS = {"action": (pa.uint16(), pa.uint32()), "c": (pa.float32(),), "q": (pa.float32(),)}


@dataclass(frozen=True)
class Hulls:
    """Upper hulls of S states, one after another."""

    first: np.ndarray  # int32 (S + 1,): where each state's vertices begin
    action: np.ndarray  # uint16 or uint32 (V,): joint action
    c: np.ndarray  # float32 (V,): cost per request, rising within a state
    q: np.ndarray  # float32 (V,): value per request, rising within a state


@dataclass(frozen=True)
class ShardSums:
    """What is known of a shard without reading its hulls; costs and values are Σ over its requests."""

    vocabulary: str  # JSON of the state columns and sub-actions; equal for all shards of an allocation
    made_by: str  # names the models; equal for all shards of an allocation
    source: str  # names the rows that it was made from
    requests: float
    least_cost: float  # every state at its cheapest action
    most_cost: float  # every state at its best action, where λ is 0

    @classmethod
    def of(cls, hulls: Hulls, count: np.ndarray, vocabulary: Mapping[str, Any], made_by: str, source: str) -> ShardSums:
        """Sums of hulls of states with ``count`` (S,) requests."""
        least, most = (float(count @ hulls.c[at].astype(np.float64)) for at in (hulls.first[:-1], hulls.first[1:] - 1))
        return cls(json.dumps(vocabulary), made_by, source, float(count.sum()), least, most)


@dataclass(frozen=True)
class SlopeHistogram:
    """Edges of a shard by the bins of their slopes, only bins that hold some."""

    bin: np.ndarray  # int32 (B,), rising
    edges: np.ndarray  # int64 (B,)
    cost: np.ndarray  # float64 (B,): Σ count·Δcost

    @classmethod
    def of(cls, hulls: Hulls, count: np.ndarray) -> SlopeHistogram:
        """The histogram of hulls whose states have ``count`` (S,) requests."""
        inside = np.ones(max(len(hulls.c) - 1, 0), bool)
        inside[hulls.first[1:-1] - 1] = False  # from one state's last vertex to the next one's first
        requests = np.repeat(count, np.diff(hulls.first) - 1)
        q, c = (np.diff(one.astype(np.float64))[inside][requests > 0] for one in (hulls.q, hulls.c))
        place = (q / c).view(np.int64) >> SHIFT
        lowest = place.min() if len(place) else 0
        edges, cost = np.bincount(place - lowest), np.bincount(place - lowest, requests[requests > 0] * c)
        held = np.flatnonzero(edges)
        return cls((lowest + held).astype(np.int32), edges[held].astype(np.int64), cost[held].astype(np.float64))


@dataclass(frozen=True)
class HullShard:
    """An open shard; its arrays lie in the mapped file."""

    path: Path
    sums: ShardSums
    histogram: SlopeHistogram
    batch: pa.RecordBatch

    @property
    def columns(self) -> str:
        """Names and types of the columns."""
        return ", ".join(f"{field.name} {field.type}" for field in self.batch.schema)

    @property
    def count(self) -> np.ndarray:
        """Requests of each state, float64 (S,)."""
        return np.asarray(self.batch.column("count").to_numpy())

    @cached_property
    def hulls(self) -> Hulls:
        """The hulls as they lie in the file; offsets are the reader's to check."""
        column = self.batch.column("hull")
        vertices = {name: column.values.field(name).to_numpy() for name in _NUMBERS}
        return Hulls(column.offsets.to_numpy(), **vertices)

    def states(self) -> pd.DataFrame:
        """The state columns, as text."""
        names = [name for name in self.batch.schema.names if name not in ("count", "hull")]
        return pd.DataFrame({name: self.batch.column(name).cast(pa.string()).to_pandas() for name in names})


def write_shard(path: str | Path, states: pd.DataFrame, count: np.ndarray, hulls: Hulls, sums: ShardSums) -> None:
    """Write one shard, atomically. ``states`` (S rows), ``count`` (S,) requests of each."""
    require_shape("count", count, (len(states),))
    require_shape("first", hulls.first, (len(states) + 1,))
    if not len(states):
        raise UserError(f"{path}: got no states; expected at least one in a shard")
    vertices = pa.StructArray.from_arrays([pa.array(getattr(hulls, name)) for name in _NUMBERS], list(_NUMBERS))
    columns = {name: pa.array(words(states, name)).dictionary_encode() for name in states.columns}
    columns["count"] = pa.array(np.asarray(count, np.float64))
    columns["hull"] = pa.ListArray.from_arrays(pa.array(hulls.first, pa.int32()), vertices)
    histogram = {name: one.tobytes() for name, one in vars(SlopeHistogram.of(hulls, count)).items()}
    batch = pa.record_batch(columns).replace_schema_metadata(
        {"version": VERSION, "sums": json.dumps(asdict(sums)), **histogram}
    )
    with atomic_path(path) as temporary, ipc.new_file(str(temporary), batch.schema) as file:
        file.write_batch(batch)


def open_shard(path: str | Path) -> HullShard:
    """Map a shard; one that is truncated, empty or no hull shard is a UserError that names it."""
    path = Path(path)
    try:
        file = ipc.open_file(pa.memory_map(str(path)))
        metadata = {key.decode(): value for key, value in (file.schema.metadata or {}).items()}
        if metadata["version"].decode() != VERSION:
            raise ValueError(f"its layout is version {metadata['version'].decode()}; expected {VERSION}")
        sums = ShardSums(**json.loads(metadata["sums"]))
        kinds = (np.int32, np.int64, np.float64)
        arrays = [np.frombuffer(metadata[one.name], kind) for one, kind in zip(fields(SlopeHistogram), kinds)]
        batch = file.get_batch(0)
        vertices = batch.schema.field("hull").type.value_type
        if any(vertices.field(name).type not in expected for name, expected in _NUMBERS.items()):
            raise TypeError(f"hull is a list of {vertices}")
        shard = HullShard(path, sums, SlopeHistogram(*arrays), batch)
        _require_consistent(shard, file.num_record_batches)
    except (pa.ArrowException, OSError, KeyError, TypeError, ValueError, AttributeError) as error:
        detail = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise UserError(f"{path}: not a readable hull shard (truncated?): {detail}") from None
    if not batch.num_rows:
        raise UserError(f"{path}: the shard has no states")
    return shard


def _require_consistent(shard: HullShard, batches: int) -> None:
    """A ValueError or TypeError where rows are missing, or metadata are of other rows."""
    sums, histogram = shard.sums, shard.histogram
    if batches != 1:
        raise ValueError(f"it holds {batches} record batches; expected one")
    if not len(histogram.bin) == len(histogram.edges) == len(histogram.cost):
        raise ValueError("the columns of its histogram differ in length")
    if not all(map(math.isfinite, (sums.requests, sums.least_cost, sums.most_cost))):
        raise ValueError("its sums are not finite")
    if not math.isclose(float(shard.count.sum()), sums.requests, rel_tol=1e-9):
        raise ValueError(f"its counts add up to {shard.count.sum():.10g}; expected {sums.requests:.10g} requests")


def shard_paths(folder: str | Path) -> list[Path]:
    """The hull shards of a folder in the order of their names."""
    found = parts(Path(folder))
    odd = next((one for one in found if one.suffix != SUFFIX), None)
    if odd is not None:
        raise UserError(f"{odd}: expected hull shards ({SUFFIX} files) only in {folder}")
    return found
