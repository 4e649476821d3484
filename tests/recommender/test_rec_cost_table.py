"""The table of real_costs, by hand."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest

from autobucket.bench.bench_config import TestbenchConfig
from benchmarks._real_service import bench_config, first_joint, requests_of
from benchmarks.real_costs import summary, table_of
from marca_common.config import load_config
from recommender.build_parts import Parts


def finished() -> Any:
    """What a bench of two buckets left."""
    buckets = pd.DataFrame({
        "channels": ["als", "cached"], "model": "light", "ranker": ["small", "none"], "retrieved": [50.0, 0], "preranked": [30.0, 0],
        "asked_qps": 320.0, "requests": 100, "lost": [0, 1], "errors": [0, 2], "cost_ms": [0.9, 0.4], "cost_http_ms": 0.3,
        "cost_cascade_ms": [0.6, 0.1], "cv_pct": [2.0, 4.0], "valid": True,
    })  # fmt: skip
    known = {"cv_median": 3.0, "fit_error_pct": 1.0, "replay_error_pct": 2.0, "lost": 3, "noop_ms": 0.2}
    maps = {
        "bench": {
            name: SimpleNamespace(quality={"left_out_error_pct": e}) for name, e in (("http", 5.0), ("cascade", 6.0))
        }
    }
    config = load_config(TestbenchConfig, "configs/recommender/testbench.yaml")
    result = SimpleNamespace(buckets=buckets, summary=known)
    return SimpleNamespace(config=config, result=result, maps=SimpleNamespace(maps=maps))


def test_totals_are_of_cpu_not_of_mixes() -> None:
    rows = pd.DataFrame({
        "mix": ["a", "a", "b", "b"], "round": [0, 1, 0, 1], "asked_qps": 320.0, "served_qps": 320.0, "requests": [100, 100, 300, 300],
        "lost": [0, 0, 0, 1], "predicted_ms": [1.1, 1.1, 2.0, 2.0], "measured_ms": [1.0, 1.0, 2.0, 2.2], "p99_ms": 5.0,
    })  # fmt: skip
    table = table_of(finished(), rows)
    mixed = table[table["part"] == "mix"].set_index("name")
    assert mixed.loc["a", "error_pct"] == pytest.approx(10)
    assert mixed.loc["b", "error_pct"] == pytest.approx(100 * (4.0 / 4.2 - 1))
    assert mixed.loc["all mixes", "error_pct"] == pytest.approx(100 * (1420 / 1460 - 1))  # core-ms predicted, measured
    assert mixed.loc["all mixes", "cv_pct"] == pytest.approx(100 * np.std([1.5, 1.6], ddof=1) / 1.55)
    told = summary(finished(), table)
    assert told["left_out_error_pct"] == 6  # the worse service
    assert told["worst_mix_error_pct"] == pytest.approx(10)
    assert told["lost"] == 4
    assert table[table["part"] == "bucket"]["lost"].tolist() == [0, 3]


def test_requests_ask_for_the_actions_they_name(parts: Parts) -> None:
    setting = np.arange(len(parts.space.settings))
    asked = requests_of(parts, np.zeros(len(setting), int), setting)
    joint = np.ravel_multi_index([asked[name] for name in parts.config.spec.sub_actions], parts.config.spec.shape)
    assert (parts.space.distinct[joint] == setting).all()
    assert (joint == first_joint(parts)).all()
    assert asked["ranker"].tolist() == [one.ranker for one in parts.space.settings]


def test_the_bench_is_pointed_at_a_build(tmp_path: Path) -> None:
    config = bench_config(tmp_path, quick=True)
    assert f"build={tmp_path}" in config.target.command
    assert config.traffic.table == tmp_path / "load/requests.parquet"
