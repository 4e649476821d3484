"""Simulated traffic of the bench: requests from a table, or drawn from the choices of each field."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from autobucket.bench.bench_config import BenchTrafficConfig
from marca_common.errors import UserError
from marca_common.seeding import numpy_generator
from marca_common.tables import read_all_columns


def make_requests(config: BenchTrafficConfig, seed: int, *names: str, count: int | None = None) -> pd.DataFrame:
    """``count`` (default: the scouting pass's) requests, one a row, columns = fields; the same for the same seed and names."""
    generator = numpy_generator(seed, "autobucket", "bench", "traffic", *names)
    wanted = config.requests if count is None else count
    if config.table is not None:
        table = _read(config.table, config.value)
        return table.iloc[generator.integers(0, len(table), wanted)].reset_index(drop=True)
    user = generator.integers(0, config.users, wanted)
    tiers = list(config.values)
    tier_of = numpy_generator(seed, "autobucket", "bench", "users").choice(  # a user keeps its value
        len(tiers), config.users, p=_shares(config)
    )
    columns: dict[str, Any] = {"user": user, config.value: np.array(tiers)[tier_of[user]]}
    for name, choices in config.fields.items():
        columns[name] = np.array(choices, dtype=object)[generator.integers(0, len(choices), wanted)]
    return pd.DataFrame(columns)


def payloads(requests: pd.DataFrame) -> list[dict[str, Any]]:
    """Rows as JSON-ready fields; empty cells are left out."""
    rows = requests.to_dict("records")
    return [{str(name): _plain(value) for name, value in row.items() if not _missing(value)} for row in rows]


def _shares(config: BenchTrafficConfig) -> np.ndarray:
    shares = np.array(list(config.values.values()), np.float64)
    if (shares < 0).any() or shares.sum() <= 0:
        raise UserError(f"traffic.values: got {config.values}; expected shares of at least 0 with a positive sum")
    return np.asarray(shares / shares.sum())


def _read(path: Path, value: str) -> pd.DataFrame:
    """Any columns are fields; only the request value's column is required."""
    table = read_all_columns(path)
    if value not in table:
        raise UserError(
            f"{path}: column {value!r} (request value) is missing; found {', '.join(map(str, table.columns))}"
        )
    return table


def _plain(value: Any) -> Any:
    return value.item() if isinstance(value, np.generic) else value


def _missing(value: Any) -> bool:
    return value is None or (isinstance(value, float) and np.isnan(value))
