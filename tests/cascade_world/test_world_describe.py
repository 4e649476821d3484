"""``describe`` reports what it promises and draws it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from cascade_world.config import WorldConfig
from cascade_world.describe import describe
from cascade_world.generate import world_hash
from marca_common.config import load_config
from marca_common.errors import UserError

MIXED_SHARES = ("stage_interaction", "state_action", "segment_noise", "state_noise")


def test_describe_a_small_world(make_config: Any, tmp_path: Path) -> None:
    config = make_config("logs.system_days=0.1", "logs.requests=3000")
    found = describe(config, tmp_path)
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary["oracle_uplift_pct"] == pytest.approx(found.summary["oracle_uplift_pct"])
    assert summary["oracle_uplift_pct"] > 0
    assert set(summary["variance_share"]) == {"a1", "a2", "a3", "a4", "a5", *MIXED_SHARES}
    assert summary["shared_uplift_pct"] == summary["oracle_uplift_pct"]
    assert sum(summary["variance_share"][f"a{j}"] for j in range(1, 6)) < 1
    assert 0 < summary["truth_se_median"] < 0.1
    assert summary["truth_seconds"] > 0
    assert summary["outcomes_per_s"] > 0
    assert 100 < summary["distinct_states"] <= 3000
    assert 0 < summary["snr"] < 1
    assert summary["degradation_price"]["revenue_pct"][0] == 0
    assert summary["degradation_price"]["f_ranking"][1] < 0
    for name in ("clouds", "budget_curve", "week", "degradation"):
        assert (tmp_path / f"{name}.png").stat().st_size > 10_000


def test_describe_refuses_a_budget_that_nothing_meets(make_config: Any, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cheapest actions need"):
        describe(make_config("traffic.peak_qps=3000000"), tmp_path)


def test_world_hash_ignores_where_and_how_it_is_computed(make_config: Any) -> None:
    config = make_config()
    assert world_hash(config) == world_hash(make_config("workers=7", "truth.cache=null"))
    assert world_hash(config) != world_hash(make_config("seed=1"))


def test_the_frozen_world_keeps_the_hash_that_results_quote() -> None:
    assert world_hash(load_config(WorldConfig, "configs/cascade_world/base.yaml")) == "bd02513e3083771f"
