"""The system table: one row per minute and data centre, in the form that controllers learn from."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import pandas as pd

from marca_common.protocols import Measurement
from marca_common.tables import Column


def system_schema(services: Sequence[str], sub_intervals: int = 0) -> list[Column]:
    """Columns of the system table of these services, with that many sub-minute arrival columns."""
    aggregates = ["q_sum", "q_mean", *(f"c_{name}_{what}" for name in services for what in ("sum", "mean"))]
    return [
        Column("timestamp", "time"),
        Column("idc", "category"),
        Column("qps", low=0),
        *(Column(f"cpu_{name}", low=0, high=100, nullable=True) for name in services),
        Column("degradation", low=0),
        *(Column(name) for name in aggregates),
        *(Column(f"lambda_{name}", low=0) for name in services),
        *(Column(f"next_cpu_{name}", low=0, high=100, nullable=True) for name in services),
        Column("next_qps", low=0),
        *(Column(f"arrivals_{i}", low=0, required=False) for i in range(sub_intervals)),
    ]


def system_table(measurements: Iterable[Measurement], services: Sequence[str]) -> pd.DataFrame:
    """Measurements as a system table, each group in time order; the last minute of a group has no next and is left out."""
    rows = pd.DataFrame([_row(one, services) for one in measurements])
    parts = []
    for _, part in rows.groupby("idc", sort=True):
        part = part.sort_values("timestamp", ignore_index=True)
        for name in services:
            part[f"next_cpu_{name}"] = part[f"cpu_{name}"].shift(-1)
        part["next_qps"] = part["qps"].shift(-1)
        parts.append(part.iloc[:-1])
    table = pd.concat(parts, ignore_index=True)
    early = [name for name in table if name.startswith("arrivals_")]
    order = [column.name for column in system_schema(services) if column.name in table]
    return table[[*order, *early]]


def _row(one: Measurement, services: Sequence[str]) -> dict[str, object]:
    row: dict[str, object] = {"timestamp": one.timestamp, "idc": one.group, "qps": one.qps}
    for j, name in enumerate(services):
        row[f"cpu_{name}"] = float(one.cpu[j])
        row[f"lambda_{name}"] = float(one.lambda_[j])
    row |= {"degradation": one.degradation, **one.aggregates}
    if one.arrivals is not None:
        row |= {f"arrivals_{i}": float(count) for i, count in enumerate(np.asarray(one.arrivals))}
    return row
