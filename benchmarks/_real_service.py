"""The real cascade's service in benchmarks: its bench, the cost maps from it, and what they say of each action."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from autobucket.bench.bench_config import TestbenchConfig
from autobucket.bench.findings.analysis import predicted_costs
from autobucket.testbench import TestbenchResult, testbench
from benchmarks.movielens import Real
from marca_common.config import load_config
from marca_common.cost_maps import CostMaps
from marca_common.errors import UserError
from marca_common.files import read_json
from marca_common.tables import write_table
from recommender.build_parts import Parts, load_people
from recommender.config import RecommenderConfig
from recommender.records.load_requests import requests_for

ROOT = Path("runs/benchmarks/real_service")
FEW_VISITS = ["split.most_visits=2500", "cost.rounds=2", "cost.visits=3"]  # a build of a minute
SHORT = [
    "traffic.requests=800", "buckets.most=20", "load.rates=[150]", "load.window_s=0.5", "load.warmup_s=0.5", "load.idle_s=0.4",
    "load.noop_s=0.3", "load.min_rounds=2", "load.max_rounds=2", "load.replay_s=2", "validity.slow_pct=100", "buckets.min_count=2",
]  # fmt: skip


@dataclass(frozen=True)
class ServiceCosts:
    """A finished bench of the service: D distinct actions."""

    config: TestbenchConfig
    result: TestbenchResult
    maps: CostMaps
    scouted: pd.DataFrame
    actions: pd.DataFrame  # fields of each distinct action, one row per history tier and action (H · D)

    @classmethod
    def of(cls, real: Real, quick: bool) -> ServiceCosts:
        """Measure the service of a build, or take the finished bench."""
        parts, out = parts_of(real), ROOT / f"bench_{real.folder.name}{'_quick' if quick else ''}"
        config = bench_config(real.folder, quick)
        table = config.traffic.table
        assert table is not None
        if not table.exists():
            write_table(parts.load_requests(), table)
        result = testbench(config, out)
        if result.maps is None:
            raise UserError(
                f"{out}: no cost maps; the machine was too busy: see buckets.csv, remove the folder and try again"
            )
        scouted = pd.DataFrame(read_json(out / "scouted.json"))
        return cls(config, result, result.maps, scouted, _actions(parts))

    def of_requests(self, requests: pd.DataFrame, qps: float, cores: int) -> np.ndarray:
        """Core-ms of requests (M,), whose columns are those of the load requests, arriving at ``qps``."""
        return predicted_costs(self.config, self.scouted, self.maps, requests, qps, cores)

    def of_actions(self, qps: float, cores: int) -> np.ndarray:
        """Core-ms of each distinct action (D,), mean over history tiers, while a uniform mix of them arrives at ``qps``."""
        costs = self.of_requests(self.actions, qps, cores)
        return np.asarray(costs.reshape(self.actions["history"].nunique(), -1).mean(axis=0))


def parts_of(real: Real) -> Parts:
    """The parts of its build."""
    config = load_config(RecommenderConfig, real.folder / "config.yaml")
    return Parts(config, real.folder, load_people(config))


def bench_config(build: Path, quick: bool) -> TestbenchConfig:
    """The shipped bench of the service, pointed at a build."""
    command = [sys.executable, "-m", "recommender.serve", "--out", str(ROOT / "service"), "--set", f"build={build}"]
    command += ["--set", "port={port}", "--set", "address={address}"]
    overrides = [f"target.command={json.dumps(command)}", f"traffic.table={build / 'load/requests.parquet'}"]
    return load_config(TestbenchConfig, "configs/recommender/testbench.yaml", [*overrides, *(SHORT if quick else [])])


def requests_of(parts: Parts, visit: np.ndarray, setting: np.ndarray) -> pd.DataFrame:
    """Load requests (M rows) for visits (M,) and distinct actions (M,)."""
    return requests_for(visit, first_joint(parts)[setting], parts.states, parts.space, parts.config.spec)


def first_joint(parts: Parts) -> np.ndarray:
    """A joint action of each distinct one, int64 (D,)."""
    return np.asarray(np.unique(parts.space.distinct, return_index=True)[1])


def _actions(parts: Parts) -> pd.DataFrame:
    history = parts.states["history"].to_numpy()
    one_of = [int(np.flatnonzero(history == tier)[0]) for tier in np.unique(history)]
    size = len(parts.space.settings)
    return requests_of(parts, np.repeat(one_of, size), np.tile(np.arange(size), len(one_of)))
