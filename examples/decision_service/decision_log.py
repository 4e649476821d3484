"""Every decision with its propensity, as Parquet parts; what the next training reads once outcomes are joined.

``decisions_<first request>.parquet``: a row a decision. ``pricings.jsonl``: the λ in force, a line whenever it, the rule or
the policy changed. ``states_<version>.parquet``: the states of a policy, which rows of ``decisions`` point into.
"""

from __future__ import annotations

import json
import logging
import os
import struct
import time
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from marca_common.arrays import require_range
from marca_common.errors import UserError
from marca_common.files import atomic_path, read_json_lines, remove_partial_files
from marca_common.requests import RequestSpec
from marca_common.run_folder import locked
from marca_common.tables import write_table

log = logging.getLogger(__name__)
_PRICINGS = "pricings.jsonl"
SCHEMA = pa.schema(
    {
        "request": pa.int64(),  # unique, also across restarts
        "time": pa.timestamp("us"),  # UTC
        "pricing": pa.int32(),  # the one of this number in pricings.jsonl
        "state": pa.int32(),  # row of the policy's states, −1: not known to it
        "joint": pa.int32(),  # joint action decided
        "propensity": pa.float32(),  # its probability
        "unknown": pa.string(),  # state columns of an unknown state, JSON
    }
)

_PRICING_COLUMNS = ["pricing", "policy", "shadow", "group_column", "rule"]  # columns of pricings.jsonl that are read
# Single decisions are kept packed, without `unknown`: a Python object each would cost the thread that answers a pause of tens
# of milliseconds whenever the log is written, since objects are read only while that thread stands still.
_ROW = np.dtype(
    [("request", "<i8"), ("time", "<i8"), ("pricing", "<i4"), ("state", "<i4"), ("joint", "<i4"), ("propensity", "<f4")]
)
_pack = struct.Struct("<qqiiif").pack


class Taken(NamedTuple):
    """What was noted between two calls of ``take``."""

    ones: bytearray  # rows of _ROW
    unknown: dict[int, str]  # state columns of unknown states among them, by request
    many: list[pa.RecordBatch]


class DecisionLog:
    """Gathers rows in memory; ``write`` puts them on the disk. A disk that takes no more is counted, and decisions go on."""

    def __init__(self, folder: Path) -> None:
        """Go on with the log of a folder; a UserError where another process writes it, or its last part can't be read."""
        self.folder, self.lost = folder, 0
        folder.mkdir(parents=True, exist_ok=True)
        try:
            self._lock = locked(folder / ".lock")
        except UserError as error:
            raise UserError(f"{folder}: {error}") from None
        remove_partial_files(folder)
        request, pricing = _last(folder)
        self.next = max(time.time_ns() // 1000, request + 1)
        self.pricing = max([pricing, *(one["pricing"] for one in _pricings(folder))])
        self._lines: list[str] = []  # of pricings.jsonl that the disk has not taken
        self._taken = Taken(bytearray(), {}, [])

    def close(self) -> None:
        """Let another process write the folder."""
        os.close(self._lock)

    def keep_states(self, version: str, states: pd.DataFrame) -> None:
        """Write the states that rows will point into, unless an earlier start did."""
        path = self.folder / f"states_{version}.parquet"
        if not path.exists():
            write_table(states, path)

    def price(self, content: dict[str, Any]) -> None:
        """From here on rows were decided under ``content``: policy, shadow, and of each data centre λ and rule."""
        self.pricing += 1
        self._lines.append(json.dumps({"pricing": self.pricing, "time": time.time(), **content}))
        try:
            with (self.folder / _PRICINGS).open("a", encoding="utf-8") as file:
                file.write("".join(f"\n{line}\n" for line in self._lines))  # the line before may have been cut off
            self._lines = []
        except OSError as error:
            log.warning("decision log: %s: %s", self.folder, error.strerror)

    def one(self, row: int, joint: int, propensity: float, unknown: str | None = None) -> int:
        """Note one decision; its request number."""
        request = self.next
        self.next = request + 1
        self._taken.ones.extend(_pack(request, time.time_ns() // 1000, self.pricing, row, joint, propensity))
        if unknown is not None:
            self._taken.unknown[request] = unknown
        return request

    def many(self, rows: np.ndarray, joint: np.ndarray, propensity: np.ndarray, unknown: pa.Array) -> np.ndarray:
        """Note a batch, all (M,); its request numbers, int64 (M,)."""
        size = len(rows)
        requests = np.arange(self.next, self.next + size)
        self.next += size
        same = [np.full(size, time.time_ns() // 1000), np.full(size, self.pricing, np.int32)]
        if size:
            self._taken.many.append(_batch([requests, *same, rows.astype(np.int32), joint, propensity, unknown]))
        return requests

    def take(self) -> Taken:
        """What was noted since the last call; in the thread that notes."""
        taken, self._taken = self._taken, Taken(bytearray(), {}, [])
        return taken

    def write(self, taken: Taken) -> None:
        """Write what ``take`` gave; in any thread."""
        batches = taken.many + ([_unpacked(taken)] if taken.ones else [])
        if not batches:
            return
        table = pa.Table.from_batches(batches)
        first = min(batch["request"][0].as_py() for batch in batches)
        try:
            with atomic_path(self.folder / f"decisions_{first:017d}.parquet") as temporary:
                pq.write_table(table, temporary, compression="zstd", use_dictionary=["pricing", "state", "joint"])
        except (UserError, OSError) as error:
            self.lost += len(table)
            log.warning("decision log: %d rows lost: %s", len(table), error)


def _unpacked(taken: Taken) -> pa.RecordBatch:
    rows = np.frombuffer(taken.ones, _ROW)
    texts = pa.nulls(len(rows), pa.string())
    if taken.unknown:
        cells = np.full(len(rows), None, object)
        cells[np.searchsorted(rows["request"], list(taken.unknown))] = list(taken.unknown.values())
        texts = pa.array(cells, pa.string())
    return _batch([*(rows[name] for name in _ROW.names or ()), texts])


def _batch(columns: list[Any]) -> pa.RecordBatch:
    return pa.record_batch([pa.array(one).cast(field.type) for one, field in zip(columns, SCHEMA)], schema=SCHEMA)


def read_log(folder: str | Path, spec: RequestSpec) -> pd.DataFrame:
    """All decisions: request, time, state columns, sub-actions, propensity, rule, data centre, shadow, policy.

    A UserError for a folder that is no decision log, or whose states or prices are missing.
    """
    folder = Path(folder)
    parts = _parts(folder)
    if not parts:
        raise UserError(f"{folder}: no decisions_*.parquet; expected the folder of a decision log")
    frame = pd.concat(map(_part, parts)).sort_values("request", ignore_index=True)
    pricings = pd.DataFrame(_pricings(folder), columns=_PRICING_COLUMNS).set_index("pricing")
    lacking = ~frame["pricing"].isin(pricings.index)
    if lacking.any():
        raise UserError(f"{folder / _PRICINGS}: pricing {frame['pricing'][lacking].iloc[0]} is missing")
    for name in ("policy", "shadow"):
        frame[name] = pricings[name].reindex(frame["pricing"]).to_numpy()
    frame = frame.join(_states(folder, frame, spec))
    frame["rule"] = _rules(frame, pricings)
    require_range(f"{folder}: joint action", frame["joint"].to_numpy(np.int64), spec.n_joint)
    actions = np.stack(np.unravel_index(frame["joint"].to_numpy(), spec.shape), 1)
    return frame.drop(columns=["unknown"]).assign(**dict(zip(spec.sub_actions, actions.T)))


def _states(folder: Path, frame: pd.DataFrame, spec: RequestSpec) -> pd.DataFrame:
    """State columns of every row, as text."""
    columns = pd.DataFrame(index=frame.index, columns=list(spec.state), dtype=object)
    for version, rows in frame.groupby("policy").groups.items():
        path = folder / f"states_{version}.parquet"
        if not path.is_file():
            raise UserError(f"{path}: no such file; expected the states of policy {version}")
        states = _table(path).to_pandas()
        if set(states) != set(spec.state):
            raise UserError(f"{path}: states of {', '.join(states)}; expected {', '.join(spec.state)}")
        known = rows[frame.loc[rows, "state"] >= 0]
        places = frame.loc[known, "state"].to_numpy(np.int64)
        require_range(f"{path}: state", places, len(states))
        columns.loc[known] = states[list(spec.state)].to_numpy(object)[places]
    new = frame.index[frame["state"] < 0]
    columns.loc[new] = pd.DataFrame([json.loads(one) for one in frame.loc[new, "unknown"]], new, list(spec.state))
    return columns


def _rules(frame: pd.DataFrame, pricings: pd.DataFrame) -> np.ndarray:
    """The rule of every row: ``unknown``, or that of its data centre at the time."""
    rules = np.full(len(frame), "unknown", dtype=object)
    for number, rows in frame.groupby("pricing").groups.items():
        pricing = pricings.loc[number]
        column = pricing["group_column"]
        group = frame.loc[rows, column] if column else pd.Series(next(iter(pricing["rule"])), rows)
        rules[rows] = np.where(frame.loc[rows, "state"] < 0, "unknown", group.map(pricing["rule"]))
    return rules


def _parts(folder: Path) -> list[Path]:
    return sorted(folder.glob("decisions_*.parquet"))


def _part(path: Path) -> pd.DataFrame:
    table = _table(path)
    if table.schema != SCHEMA or any(table[name].null_count for name in SCHEMA.names if name != "unknown"):
        raise UserError(f"{path}: not a part of a decision log; expected columns {', '.join(SCHEMA.names)}, filled")
    frame: pd.DataFrame = table.to_pandas()
    return frame


def _table(path: Path) -> pa.Table:
    try:
        table = pq.read_table(path)
        table.validate(full=True)
        return table
    except (OSError, pa.ArrowException) as error:
        raise UserError(f"{path}: not a readable part of a decision log: {str(error).splitlines()[0][:160]}") from None


def _last(folder: Path) -> tuple[int, int]:
    """The last request and its pricing, −1 and 0 where there is none."""
    parts = _parts(folder)
    frame = _part(parts[-1]) if parts else None
    return (-1, 0) if frame is None else (int(frame["request"].max()), int(frame["pricing"].max()))


def _pricings(folder: Path) -> list[dict[str, Any]]:
    """Lines of pricings.jsonl by number; those that a crash or a full disk cut off are left out."""
    lines = read_json_lines(folder / _PRICINGS)
    whole = [one for one in lines if isinstance(one, dict) and set(one) >= set(_PRICING_COLUMNS)]
    return list({one["pricing"]: one for one in whole}.values())
