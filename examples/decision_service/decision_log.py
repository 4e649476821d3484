"""Every decision with its propensity, as Parquet parts; what the next training reads once outcomes are joined.

``decisions_<first request>.parquet``: a row a decision. ``pricings.jsonl``: the λ in force, a line whenever it, the rule or
the policy changed. ``states_<version>.parquet``: the states of a policy, which rows of ``decisions`` point into.
"""

from __future__ import annotations

import json
import logging
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from marca_common.errors import UserError
from marca_common.files import atomic_path, read_json_lines, remove_partial_files, write_text
from marca_common.requests import RequestSpec
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

Taken = tuple[list[tuple[Any, ...]], list[pa.RecordBatch]]


class DecisionLog:
    """Gathers rows in memory; ``write`` puts them on the disk. A disk that takes no more is counted, and decisions go on."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.lost = folder, 0
        folder.mkdir(parents=True, exist_ok=True)
        remove_partial_files(folder)
        request, pricing = _last(folder)
        self.next = max(time.time_ns() // 1000, request + 1)
        self._pricings = folder / _PRICINGS
        said = read_json_lines(self._pricings)
        if said:  # without a last line that was cut off: the next one would be part of it
            write_text(self._pricings, "".join(map(_line, said)))
        self.pricing = max([pricing, *(one["pricing"] for one in said)])
        self._ones: list[tuple[Any, ...]] = []
        self._many: list[pa.RecordBatch] = []

    def keep_states(self, version: str, states: pd.DataFrame) -> None:
        """Write the states that rows will point into, unless an earlier start did."""
        path = self.folder / f"states_{version}.parquet"
        if not path.exists():
            write_table(states, path)

    def price(self, content: dict[str, Any]) -> None:
        """From here on rows were decided under ``content``: policy, shadow, and of each data centre λ and rule."""
        self.pricing += 1
        try:
            with self._pricings.open("a", encoding="utf-8") as file:
                file.write(_line({"pricing": self.pricing, "time": time.time(), **content}))
        except OSError as error:
            log.warning("decision log: %s: %s", self.folder, error.strerror)

    def one(self, row: int, joint: int, propensity: float, unknown: str | None = None) -> int:
        """Note one decision; its request number."""
        request = self.next
        self.next = request + 1
        self._ones.append((request, time.time_ns() // 1000, self.pricing, row, joint, propensity, unknown))
        return request

    def many(self, rows: np.ndarray, joint: np.ndarray, propensity: np.ndarray, unknown: pa.Array) -> np.ndarray:
        """Note a batch, all (M,); its request numbers, int64 (M,)."""
        size = len(rows)
        requests = np.arange(self.next, self.next + size)
        self.next += size
        same = [np.full(size, time.time_ns() // 1000), np.full(size, self.pricing, np.int32)]
        columns = [requests, *same, rows.astype(np.int32), joint, propensity, unknown]
        if size:
            arrays = [pa.array(column).cast(field.type) for column, field in zip(columns, SCHEMA)]
            self._many.append(pa.record_batch(arrays, schema=SCHEMA))
        return requests

    def take(self) -> Taken:
        """What was noted since the last call; in the thread that notes."""
        taken = self._ones, self._many
        self._ones, self._many = [], []
        return taken

    def write(self, taken: Taken) -> None:
        """Write what ``take`` gave; in any thread."""
        ones, many = taken
        if ones:
            many = [*many, pa.record_batch([pa.array(c, f.type) for c, f in zip(zip(*ones), SCHEMA)], schema=SCHEMA)]
        if not many:
            return
        table = pa.Table.from_batches(many)
        first = min(batch["request"][0].as_py() for batch in many)
        try:
            with atomic_path(self.folder / f"decisions_{first:017d}.parquet") as temporary:
                pq.write_table(table, temporary, compression="zstd", use_dictionary=["pricing", "state", "joint"])
        except (UserError, OSError) as error:
            self.lost += len(table)
            log.warning("decision log: %d rows lost: %s", len(table), error)


def read_log(folder: str | Path, spec: RequestSpec) -> pd.DataFrame:
    """All decisions: request, time, state columns, sub-actions, propensity, rule, data centre, shadow, policy.

    A UserError for a folder that is no decision log, or whose states or prices are missing.
    """
    folder = Path(folder)
    parts = _parts(folder)
    if not parts:
        raise UserError(f"{folder}: no decisions_*.parquet; expected the folder of a decision log")
    frame = pd.concat(map(_part, parts)).sort_values("request", ignore_index=True)
    said = read_json_lines(folder / _PRICINGS)
    lacking = ~frame["pricing"].isin([one["pricing"] for one in said])
    if lacking.any():
        raise UserError(f"{folder / _PRICINGS}: pricing {frame['pricing'][lacking].iloc[0]} is missing")
    pricings = pd.DataFrame(said).set_index("pricing")
    for name in ("policy", "shadow"):
        frame[name] = pricings[name].reindex(frame["pricing"]).to_numpy()
    frame = frame.join(_states(folder, frame, spec))
    frame["rule"] = _rules(frame, pricings)
    actions = np.stack(np.unravel_index(frame["joint"].to_numpy(), spec.shape), 1)
    return frame.drop(columns=["unknown"]).assign(**dict(zip(spec.sub_actions, actions.T)))


def _states(folder: Path, frame: pd.DataFrame, spec: RequestSpec) -> pd.DataFrame:
    """State columns of every row, as text."""
    columns = pd.DataFrame(index=frame.index, columns=list(spec.state), dtype=object)
    for version, rows in frame.groupby("policy").groups.items():
        path = folder / f"states_{version}.parquet"
        if not path.is_file():
            raise UserError(f"{path}: no such file; expected the states of policy {version}")
        states = pd.read_parquet(path)
        known = rows[frame.loc[rows, "state"] >= 0]
        columns.loc[known] = states[list(spec.state)].to_numpy(object)[frame.loc[known, "state"]]
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
    try:
        frame: pd.DataFrame = pq.read_table(path, schema=SCHEMA).to_pandas()
        return frame
    except (OSError, pa.ArrowException) as error:
        raise UserError(f"{path}: not a readable part of a decision log: {str(error).splitlines()[0][:160]}") from None


def _last(folder: Path) -> tuple[int, int]:
    """Number of the last request that was written, and of its pricing; −1 and 0 where there is none."""
    parts = _parts(folder)
    if not parts:
        return -1, 0
    frame = _part(parts[-1])
    return int(frame["request"].max()), int(frame["pricing"].max())


def _line(content: dict[str, Any]) -> str:
    return json.dumps(content, ensure_ascii=False) + "\n"
