"""Every shipped config loads as the type of its program, and nothing in it is unknown or missing."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from marca_common.config import inner_models, load_config

CONFIGS = Path(__file__).parents[1] / "configs"
# folder or file → (module, class); a file's own entry beats its folder's
TYPES = {
    "demo.yaml": ("marca_loop.orchestrate", "Orchestration"),
    "paper.yaml": ("marca_loop.orchestrate", "Orchestration"),
    "paper_hard.yaml": ("marca_loop.orchestrate", "Orchestration"),
    "smoke.yaml": ("marca_loop.orchestrate", "Orchestration"),
    "own_loop.yaml": ("marca_loop.orchestrate", "Orchestration"),
    "own_sample.yaml": ("own_system.declaration", "OwnSystem"),
    "own_system.yaml": ("own_system.declaration", "OwnSystem"),
    "explain.yaml": ("marca_loop.explain", "Explain"),
    "live_mpc.yaml": ("marca_loop.live_mpc", "LiveMpc"),
    "score_shards.yaml": ("marca_loop.score_shards", "ScoreShardsConfig"),
    "own_uplift.yaml": ("marca_loop.signed_uplift", "SignedUplift"),
    "cascade_world": ("cascade_world.config", "WorldConfig"),
    "recommender": ("recommender.config", "RecommenderConfig"),
    "recommender/page.yaml": ("marca_report.real_data", "RealPageConfig"),
    "recommender/service.yaml": ("recommender.service.service_config", "ServiceConfig"),
    "recommender/testbench.yaml": ("autobucket.bench.bench_config", "TestbenchConfig"),
    "recommender/testbench_quick.yaml": ("autobucket.bench.bench_config", "TestbenchConfig"),
    "awrq_mixer": ("awrq_mixer.config", "TrainConfig"),
    "awrq_mixer/predict.yaml": ("awrq_mixer.config", "PredictConfig"),
    "awrq_mixer/evaluate.yaml": ("awrq_mixer.config", "EvaluateConfig"),
    "awrq_mixer/profile.yaml": ("awrq_mixer.config", "ProfileConfig"),
    "awrq_mixer/export.yaml": ("awrq_mixer.config", "ExportConfig"),
    "awrq_mixer/anchor.yaml": ("awrq_mixer.config", "AnchorConfig"),
    "autobucket": ("autobucket.config", "TrainConfig"),
    "autobucket/predict.yaml": ("autobucket.config", "PredictConfig"),
    "autobucket/export.yaml": ("autobucket.config", "ExportConfig"),
    "autobucket/evaluate.yaml": ("autobucket.config", "EvaluateConfig"),
    "autobucket/costs.yaml": ("autobucket.costs.cost_config", "FitCostsConfig"),
    "autobucket/costs_three_stage.yaml": ("autobucket.costs.cost_config", "FitCostsConfig"),
    "autobucket/testbench.yaml": ("autobucket.bench.bench_config", "TestbenchConfig"),
    "autobucket/testbench_quick.yaml": ("autobucket.bench.bench_config", "TestbenchConfig"),
    "autobucket/live.yaml": ("autobucket.bench.bench_config", "LiveConfig"),
    "mpc_balancer/train.yaml": ("mpc_balancer.config", "SystemModelConfig"),
    "mpc_balancer/commission.yaml": ("mpc_balancer.config", "CommissionConfig"),
    "mpc_balancer/evaluate.yaml": ("mpc_balancer.config", "SystemErrorsConfig"),
    "mpc_balancer/run.yaml": ("mpc_balancer.run", "ClosedLoopConfig"),
    "mpc_balancer/export.yaml": ("mpc_balancer.config", "ExportConfig"),
    "mpc_balancer/serve.yaml": ("mpc_balancer.serve", "ServeConfig"),
    "revenue_sim/train.yaml": ("revenue_sim.train", "TrainConfig"),
    "revenue_sim/run.yaml": ("revenue_sim.config", "RunConfig"),
    "revenue_sim/evaluate.yaml": ("revenue_sim.config", "EvaluateConfig"),
    "revenue_sim/ope.yaml": ("revenue_sim.ope", "OpeConfig"),
    "revenue_sim/shards.yaml": ("revenue_sim.config", "ShardsConfig"),
    "other_computation/llm_router.yaml": ("examples.llm_router.config", "RouterConfig"),
    "tracking/tensorboard.yaml": ("examples.tracking.tensorboard_events", "TensorBoardConfig"),
    "tracking/optuna_search.yaml": ("examples.tracking.optuna_search", "OptunaSearch"),
    "decision_service/serve.yaml": ("examples.decision_service.config", "DecisionServiceConfig"),
    "decision_service/join.yaml": ("examples.decision_service.config", "JoinConfig"),
    "jd_sample/awrq_mixer.yaml": ("awrq_mixer.config", "TrainConfig"),
    "jd_sample/autobucket.yaml": ("autobucket.config", "TrainConfig"),
    "jd_sample/mpc_balancer.yaml": ("mpc_balancer.config", "SystemModelConfig"),
    "jd_sample/revenue_sim_run.yaml": ("revenue_sim.config", "RunConfig"),
    "jd_sample/revenue_sim_evaluate.yaml": ("revenue_sim.config", "EvaluateConfig"),
}
# a table of scenarios, each with a type of its own; tests/mpc_balancer reads it
TABLES = {"mpc_balancer/scenarios.yaml", "mpc_balancer/faults.yaml"}
SHIPPED = sorted({str(path.relative_to(CONFIGS)) for path in CONFIGS.rglob("*.yaml")} - TABLES)


def config_class(name: str) -> Any:
    module, cls = TYPES.get(name) or TYPES[name.split("/")[0]]
    return getattr(importlib.import_module(module), cls)


@pytest.mark.parametrize("name", SHIPPED)
def test_every_shipped_config_loads(name: Any) -> None:
    load_config(config_class(name), CONFIGS / name)


@pytest.mark.parametrize("name", SHIPPED)
def test_every_key_is_described_in_its_type(name: Any) -> None:
    undescribed = [key for key in _keys(config_class(name)) if not key[1]]
    assert not undescribed


def _keys(cls: type[BaseModel], seen: tuple[type[BaseModel], ...] = ()) -> Iterator[Any]:
    """(key, description) of all fields of a config class and of the config classes inside it."""
    for key, field in cls.model_fields.items():
        models = inner_models(field.annotation)
        yield f"{cls.__name__}.{key}", field.description or (models and models[0].__doc__)
        for inner in models:
            if inner not in seen:
                yield from _keys(inner, (*seen, inner))
