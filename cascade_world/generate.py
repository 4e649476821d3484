"""Write a world's logs, its calendar and, apart from them, its truth."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from cascade_world.config import WorldConfig
from cascade_world.mechanism.truth import save_tables, truth_key
from cascade_world.population.world_traffic import make_traffic, require_trace
from cascade_world.records.load_tests import loadtest_log
from cascade_world.records.request_log import request_log, system_log
from cascade_world.world import Truth, World
from marca_common.cli import run_cli
from marca_common.config import content_hash, to_dict
from marca_common.run_folder import RunFolder
from marca_common.scores import ScoreMatrix, write_scores
from marca_common.seeding import numpy_generator
from marca_common.tables import write_table


@dataclass
class Generated:
    """What ``generate`` returns."""

    world: World
    folder: Path
    summary: dict[str, Any]


def generate(config: WorldConfig, out: str | Path) -> Generated:
    """Generate a world: logs/requests.parquet, logs/system.parquet, logs/loadtest.csv, calendar.csv, and truth/.

    Files that a run of the same config has finished already are kept, so an interrupted run goes on.
    """
    started = time.perf_counter()
    require_trace(config)
    with RunFolder(out, config, resumes_from="truth/tables.npz") as folder:
        out = folder.path
        world = World(config)
        world.require_budget()
        seconds: dict[str, float] = {}
        _timed(seconds, "truth", out / "truth/tables.npz", lambda path: _write_truth(world, path))
        _timed(seconds, "requests", out / "logs/requests.parquet", lambda path: write_table(request_log(world), path))
        _timed(seconds, "system", out / "logs/system.parquet", lambda path: write_table(system_log(world), path))
        _timed(seconds, "loadtest", out / "logs/loadtest.csv", lambda path: write_table(loadtest_log(world), path))
        _timed(seconds, "calendar", out / "calendar.csv", lambda path: write_table(_calendar(config), path))
        _timed(seconds, "references", out / "truth/references.parquet", lambda path: _write_references(world, out))
        summary = _summary(world, out, seconds, time.perf_counter() - started)
        folder.write_summary(summary)
    return Generated(world, folder.out, summary)


def world_hash(config: WorldConfig) -> str:
    """Hash of everything that shapes the world and its logs; where and how it is computed does not count.

    Nor do parts that the world lacks: older hashes hold when a new kind of part is added.
    """
    plain = {name: part for name, part in to_dict(config).items() if part is not None}
    del plain["workers"], plain["truth"]["cache"]
    return content_hash(plain)


def _timed(seconds: dict[str, float], name: str, path: Path, write: Any) -> None:
    started = time.perf_counter()
    if not path.exists():
        write(path)
    seconds[name] = round(time.perf_counter() - started, 2)


def _write_truth(world: World, path: Path) -> None:
    save_tables(world.tables, path, truth_key(world.config))


def _calendar(config: WorldConfig) -> pd.DataFrame:
    return make_traffic(config, config.seed, 1 / 1440).calendar


def _write_references(world: World, out: Path) -> None:
    """Reference scores on a sample of logged states, and the latent class and scale of every logged state."""
    log = pd.read_parquet(out / "logs/requests.parquet", columns=list(world.spec.state))
    states, _, counts = world.spec.distinct_states(log)
    truth = Truth(world)
    write_table(
        pd.concat([states, truth.latent(states), pd.DataFrame({"count": counts})], axis=1), out / "truth/states.parquet"
    )
    rng = numpy_generator(world.config.seed, "reference_states")
    size = min(world.config.truth.reference_states, len(states))
    rows = np.sort(rng.choice(len(states), size=size, replace=False))
    sample = states.iloc[rows].reset_index(drop=True)
    scores = {"truth": truth.values(sample), **truth.reference_scores(sample)}
    write_scores(ScoreMatrix(sample, scores), out / "truth/references.parquet")


def _summary(world: World, out: Path, seconds: dict[str, float], wall: float) -> dict[str, Any]:
    log = pd.read_parquet(out / "logs/requests.parquet", columns=["revenue", *world.spec.state])
    revenue = log["revenue"].to_numpy()
    return {
        "world": world.config.name,
        "world_hash": world_hash(world.config),
        "requests": len(log),
        "distinct_states": len(log[list(world.spec.state)].drop_duplicates()),
        "rewarded_share": float((revenue > 0).mean()),
        "revenue_mean": float(revenue.mean()),
        "revenue_cv": float(revenue.std() / revenue.mean()),
        "truth_se_median": float(np.median(world.tables.q_se / world.tables.q)),
        "truth_seconds": world.tables.seconds,
        "seconds": seconds,
        "wall_s": wall,
    }


if __name__ == "__main__":
    run_cli(
        generate, WorldConfig, default_config="configs/cascade_world/base.yaml", default_out="runs/cascade_world/base"
    )
