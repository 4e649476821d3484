"""The three-agent world: what its load tests say is what its requests cost, ranker and all."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from autobucket.costs.cost_config import FitCostsConfig
from autobucket.costs.cost_model import CostModel
from autobucket.fit_costs import fit_costs
from cascade_world.config import WorldConfig
from cascade_world.generate import generate
from cascade_world.world import load_truth
from marca_common.config import load_config
from marca_common.cost_maps import CostMaps


def test_costs_come_back_from_load_tests(tmp_path: Path) -> None:
    small = ["logs.requests=2000", "truth.draws=20", "truth.cache=null", "logs.system_days=0.1", "workers=1"]
    generate(load_config(WorldConfig, "configs/cascade_world/three_stage.yaml", small), tmp_path / "world")
    loadtest = [f"loadtest={tmp_path / 'world/logs/loadtest.csv'}", "bootstrap=0"]
    fit_costs(load_config(FitCostsConfig, "configs/autobucket/costs_three_stage.yaml", loadtest), tmp_path / "costs")
    truth = load_truth(tmp_path / "world")
    spec, tables = truth.request_spec(), truth.world.tables
    states = spec.distinct_states(spec.read(tmp_path / "world/logs/requests.parquet"))[0].head(200)
    knows_lengths: Any = SimpleNamespace(names=["retrieved", "preranked"], spec=spec)
    model = CostModel(knows_lengths, CostMaps.load(tmp_path / "costs/cost_maps.json"))
    classes = truth.latent(states)["class"].to_numpy()
    lengths = {name: getattr(tables, name)[classes].astype(np.float32) for name in ("retrieved", "preranked")}
    costs, true = model.from_results(lengths, model.idc_codes(states)), truth.costs(states)
    assert np.median(np.abs(costs / true - 1)) < 0.03
    quick, full = (spec.joint_table()[:, -1] == k for k in (0, 1))
    assert (costs[:, full, 1] > costs[:, quick, 1]).mean() > 0.99  # the better ranker costs ranking more, …
    np.testing.assert_allclose(costs[:, full, 0], costs[:, quick, 0], rtol=0.03)  # … and retrieval nothing
