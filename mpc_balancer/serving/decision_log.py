"""What was measured and what was decided, one row a step: Parquet parts, and the open part as JSON lines.

A line is appended before the state is saved, so that a crash loses no row; one cut off in the middle was never acted on.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import IO, Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from marca_common.errors import UserError
from marca_common.files import atomic_path, read_json_lines, write_text
from marca_common.protocols import Measurement

_OPEN = "open.jsonl"


def schema_of(services: Sequence[str], prices: Sequence[str]) -> pa.Schema:
    """Columns of the log; numbers in the controllers' own units."""
    texts = ["group", "born", "kind", "measured_group", "extras", "rung", "refused", "alarms"]
    numbers = ["qps", *(f"cpu_{name}" for name in services), *(f"in_force_{name}" for name in prices)]
    numbers += ["expected_qps", *(f"price_{name}" for name in prices)]
    fields = [pa.field(name, pa.string()) for name in texts] + [pa.field(name, pa.float64()) for name in numbers]
    more = {"step": pa.int64(), "timestamp": pa.timestamp("s"), "shadow": pa.bool_(), "decision_ms": pa.float64()}
    return pa.schema([*fields, *more.items(), ("arrivals", pa.list_(pa.float64()))])


class DecisionLog:
    """Appends rows; after ``rows_per_part`` of them the open part becomes a Parquet file."""

    def __init__(self, folder: Path, services: Sequence[str], prices: Sequence[str], rows_per_part: int) -> None:
        self.folder, self.schema, self.rows_per_part = folder, schema_of(services, prices), rows_per_part
        self.services, self.prices = tuple(services), tuple(prices)
        folder.mkdir(parents=True, exist_ok=True)
        self._file: IO[str] | None = None
        found = read_json_lines(folder / _OPEN)
        self._count = len(found)
        if found:  # without a last line that was cut off
            write_text(folder / _OPEN, "".join(map(_line, found)))

    def append(self, row: dict[str, Any]) -> None:
        """One row, on its way to the disk when this returns."""
        if self._file is None:
            self._file = (self.folder / _OPEN).open("a", encoding="utf-8")
        self._file.write(_line(row))
        self._file.flush()
        self._count += 1
        if self._count >= self.rows_per_part:
            self.close()

    def close(self) -> None:
        """Turn what is open into a part."""
        if self._file is not None:
            self._file.close()
            self._file = None
        rows = read_json_lines(self.folder / _OPEN)
        if rows:
            last = max((int(path.stem.split("_")[-1]) for path in self.folder.glob("decisions_*.parquet")), default=0)
            with atomic_path(self.folder / f"decisions_{last + 1:06d}.parquet") as temporary:
                pq.write_table(_table(rows, self.schema), temporary, compression="zstd")
        (self.folder / _OPEN).unlink(missing_ok=True)
        self._count = 0


def measured(one: Measurement | None, services: Sequence[str], prices: Sequence[str]) -> dict[str, Any]:
    """A measurement as columns of the log; empty where there was none."""
    if one is None:
        return {}
    return {
        "timestamp": None if np.isnat(one.timestamp) else str(one.timestamp),
        "measured_group": one.group,
        "qps": _null(one.qps),
        **{f"cpu_{name}": _null(value) for name, value in zip(services, one.cpu)},
        **{f"in_force_{name}": _null(value) for name, value in zip(prices, one.lambda_)},
        "arrivals": None if one.arrivals is None else [_null(value) for value in one.arrivals],
        "extras": json.dumps({"degradation": one.degradation, "aggregates": one.aggregates}),
    }


def measurement_of(row: dict[str, Any], services: Sequence[str], prices: Sequence[str]) -> Measurement:
    """The measurement that ``measured`` put into a row."""
    stamp, extras = row["timestamp"], json.loads(row["extras"])
    return Measurement(
        minute=0,
        timestamp=np.datetime64("NaT", "s") if pd.isna(stamp) else np.datetime64(stamp, "s"),
        group=row["measured_group"],
        qps=_number(row["qps"]),
        cpu=np.array([_number(row[f"cpu_{name}"]) for name in services]),
        degradation=extras["degradation"],
        lambda_=np.array([_number(row[f"in_force_{name}"]) for name in prices]),
        arrivals=None if row["arrivals"] is None else np.array([_number(one) for one in row["arrivals"]]),
        aggregates=extras["aggregates"],
    )


def read_log(folder: str | Path) -> pd.DataFrame:
    """All rows of a decision log, the open part's too, in the order of steps; a UserError where there are none.

    A step that stands twice was begun, cut off by a crash and made again: the last one counts.
    """
    folder = Path(folder)
    parts = sorted(folder.glob("decisions_*.parquet"))
    rows = [row for part in parts for row in _part(part)] + list(map(_timed, read_json_lines(folder / _OPEN)))
    if not rows:
        raise UserError(f"{folder}: no decisions_*.parquet with rows; expected the folder of a decision log")
    frame = pd.DataFrame(rows).drop_duplicates(["group", "born", "step"], keep="last")
    return frame.sort_values(["group", "born", "step"], kind="stable", ignore_index=True)


def _part(path: Path) -> list[dict[str, Any]]:
    try:
        rows: list[dict[str, Any]] = pq.read_table(path).to_pylist()
    except (OSError, pa.ArrowException) as error:
        raise UserError(f"{path}: not a readable Parquet file: {str(error).splitlines()[0][:160]}") from None
    for name in ("group", "born", "step", "kind", "extras"):
        if rows and name not in rows[0]:
            raise UserError(f"{path}: column {name!r} is missing; expected a part of a decision log")
    return rows


def _table(rows: list[dict[str, Any]], schema: pa.Schema) -> pa.Table:
    return pa.Table.from_pylist(list(map(_timed, rows)), schema)


def _timed(row: dict[str, Any]) -> dict[str, Any]:
    """A row of the open part with its time stamp as Parquet holds it."""
    stamp = row.get("timestamp")
    return {**row, "timestamp": None if stamp is None else datetime.fromisoformat(stamp)}


def _line(row: dict[str, Any]) -> str:
    return json.dumps(row, ensure_ascii=False) + "\n"


def _null(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None


def _number(value: Any) -> float:
    return float("nan") if value is None else float(value)
