"""Finished measurements: what each was of, the journal that an interrupted bench goes on from, cost per request."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from autobucket.bench.measuring.load import LoadWindow


@dataclass(frozen=True)
class Cell:
    """What one measurement is of."""

    bucket: str
    rate: float
    degradation: float = 0.0


@dataclass
class Record:
    """One finished measurement; ``kind``: idle | noop | cell | replay."""

    round: int
    kind: str
    window: LoadWindow
    cell: Cell | None = None
    lengths: dict[str, float] = field(default_factory=dict)  # mean realised lengths of its requests


def idle_rates(records: Sequence[Record]) -> dict[int, dict[str, float]]:
    """Round → service → CPU seconds per second without requests (mean where a round was resumed)."""
    rates: dict[int, list[dict[str, float]]] = {}
    for one in records:
        if one.kind == "idle":
            rates.setdefault(one.round, []).append({name: s / one.window.seconds for name, s in one.window.cpu.items()})
    return {number: {k: float(np.mean([p[k] for p in parts])) for k in parts[0]} for number, parts in rates.items()}


def cost_ms(record: Record, idle: dict[int, dict[str, float]]) -> dict[str, float]:
    """Service → core-ms per answered request, the round's idle CPU taken off (Eq. 26 with the target's own clock)."""
    window, rate = record.window, idle.get(record.round, {})
    n = max(window.ok, 1)
    return {name: 1000 * (cpu - rate.get(name, 0.0) * window.seconds) / n for name, cpu in window.cpu.items()}


def costs_by_cell(records: Sequence[Record]) -> dict[Cell, list[float]]:
    """Cell → total core-ms per request, one per round."""
    idle = idle_rates(records)
    costs: dict[Cell, list[float]] = {}
    for one in records:
        if one.kind == "cell" and one.cell is not None and one.window.ok:
            costs.setdefault(one.cell, []).append(sum(cost_ms(one, idle).values()))
    return costs


def standard_error_pct(costs: Sequence[float]) -> float:
    """Standard error of the mean between rounds, percent of the mean; infinite below two rounds."""
    values = np.asarray(costs, np.float64)
    if len(values) < 2 or values.mean() <= 0:
        return float("inf")
    return float(100 * values.std(ddof=1) / np.sqrt(len(values)) / values.mean())


def append_journal(path: Path, record: Record) -> Record:
    """Write one line; only a replay keeps its answers. Returns what was kept."""
    if record.kind != "replay":
        record = replace(record, window=replace(record.window, results=[]))
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(_plain(record)) + "\n")
    return record


def _plain(record: Record) -> dict[str, Any]:
    content = asdict(record)
    window = content["window"]
    for name in ("lateness_ms", "latency_ms"):
        window[name] = [round(value, 3) for value in window[name]]
    return content


def read_journal(path: Path) -> list[Record]:
    """Finished measurements of an interrupted bench; a last line that was cut off is dropped."""
    records: list[Record] = []
    if not path.exists():
        return records
    lines = path.read_text(encoding="utf-8").splitlines()
    kept = []
    for line in lines:
        try:
            content = json.loads(line)
        except ValueError:
            break
        window = LoadWindow(**{**content["window"], "switches": tuple(content["window"]["switches"])})
        cell = Cell(**content["cell"]) if content["cell"] else None
        records.append(Record(content["round"], content["kind"], window, cell, content["lengths"]))
        kept.append(line)
    if len(kept) < len(lines):
        path.write_text("".join(line + "\n" for line in kept), encoding="utf-8")
    return records
