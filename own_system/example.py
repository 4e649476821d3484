"""Somebody else's tables, to try the door with: ``python -m own_system.example``, as ``configs/own_system.yaml`` declares them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from cascade_world.config import WorldConfig
from cascade_world.generate import generate
from marca_common.cli import run_cli
from marca_common.config import replaced
from marca_common.errors import UserError
from marca_common.run_folder import RunFolder
from marca_common.tables import write_table

ZONE = "Europe/Berlin"
_REQUESTS = {
    "timestamp": "when", "user_value": "tier", "placement": "page", "segment": "audience", "idc": "site", "a1": "sources",
    "a2": "depth_a", "a3": "depth_b", "a4": "scorer", "a5": "cut", "retrieved": "fetched", "preranked": "ranked",
    "predicted_value": "guess", "revenue": "income_cents", "propensity": "p_taken",
}  # fmt: skip
_MINUTES = {
    "timestamp": "minute", "idc": "dc", "qps": "calls", "cpu_retrieval": "util_recall", "cpu_ranking": "util_rank",
    "degradation": "degraded", "lambda_retrieval": "price_recall", "lambda_ranking": "price_rank",
}  # fmt: skip
_LOAD_TESTS = {
    "idc": "dc", "service": "component", "round": "run", "channels": "opened", "model": "scorer_used",
    "retrieved": "fetched_mean", "preranked": "ranked_mean", "degradation": "degraded", "qps": "rate",
    "machines": "hosts", "cores": "cores_per_host", "cpu_percent": "busy",
}  # fmt: skip
_SCORERS = {"light": "small", "heavy": "large"}
_COMPONENTS = {"retrieval": "recall-svc", "ranking": "rank-svc"}


@dataclass
class ExampleResult:
    """What was written."""

    summary: dict[str, Any]


def example(config: WorldConfig, out: str | Path) -> ExampleResult:
    """Generate an open world and write its logs as another platform would: requests.csv, minutes.csv, load_tests.csv.

    Names, action values, units and the time zone differ from ours. A world of other sub-actions than a1 … a5 is a UserError.
    """
    if list(config.cascade.actions) != ["a1", "a2", "a3", "a4", "a5"]:
        raise UserError(f"cascade.actions: got {list(config.cascade.actions)}; expected a1 to a5, as in the base world")
    with RunFolder(out, config) as run:
        generate(replaced(config, {"truth.cache": None}), run.path / "world")
        rows = write_foreign(config, run.path / "world/logs", run.path)
        summary = {"rows": rows}
        run.write_summary(summary)
    return ExampleResult(summary)


def write_foreign(config: WorldConfig, logs: Path, out: Path) -> dict[str, int]:
    """Disguise the ``logs`` of a world as another platform's files; the rows of each."""
    tables = {
        "requests": _requests(config, pd.read_parquet(logs / "requests.parquet")),
        "minutes": _minutes(pd.read_parquet(logs / "system.parquet")),
        "load_tests": _load_tests(pd.read_csv(logs / "loadtest.csv", keep_default_na=False)),
    }
    for name, table in tables.items():
        write_table(table, out / f"{name}.csv")
    return {name: len(table) for name, table in tables.items()}


def _requests(config: WorldConfig, log: pd.DataFrame) -> pd.DataFrame:
    """Own action values, tiers as numbers, revenue in cents, local times."""
    values = {name: [_level(one) for one in action.levels] for name, action in config.cascade.actions.items()}
    taken = {name: np.array(levels, dtype=object)[log[name].to_numpy()] for name, levels in values.items()}
    tiers = log["user_value"].astype(str).str.lstrip("v").astype(np.int64)
    table = log.assign(**taken, user_value=tiers, revenue=(100 * log["revenue"]).round(2), timestamp=_local(log))
    return table[list(_REQUESTS)].rename(columns=_REQUESTS)


def _minutes(table: pd.DataFrame) -> pd.DataFrame:
    """Calls per minute, CPU as shares, λ in cents per core-second, local times."""
    shares = {name: (table[name] / 100).round(6) for name in table if name.startswith("cpu_")}
    prices = {name: (100_000 * table[name]).round(3) for name in table if name.startswith("lambda_")}
    table = table.assign(**shares, **prices, qps=(60 * table["qps"]).round(), timestamp=_local(table))
    return table[list(_MINUTES)].rename(columns=_MINUTES)


def _load_tests(table: pd.DataFrame) -> pd.DataFrame:
    """Services and models under other names."""
    table = table.assign(model=table["model"].map(_SCORERS), service=table["service"].map(_COMPONENTS))
    return table[list(_LOAD_TESTS)].rename(columns=_LOAD_TESTS)


def _local(table: pd.DataFrame) -> pd.Series:
    return table["timestamp"].dt.tz_localize("UTC").dt.tz_convert(ZONE).dt.tz_localize(None)


def _level(level: list[str] | int | str) -> str:
    return "+".join(level) if isinstance(level, list) else _SCORERS.get(str(level), str(level))


def main() -> None:
    """The command line."""
    run_cli(example, WorldConfig, default_config="configs/cascade_world/small.yaml", default_out="runs/own_example")


if __name__ == "__main__":
    main()
