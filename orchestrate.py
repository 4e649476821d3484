"""The whole loop: logs in; Q, C and λ learned; an offline revenue simulation; days in closed loop; a report out.

``python orchestrate.py --config configs/demo.yaml --out runs/demo``.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from pydantic import Field, model_validator

import autobucket.config
import autobucket.cost_config
import autobucket.fit_costs
import autobucket.train
import awrq_mixer.config
import awrq_mixer.evaluate
import awrq_mixer.train
import mpc_balancer.config
import mpc_balancer.train
import revenue_sim.config
import revenue_sim.run
import revenue_sim.train
from autobucket.cost_model import CostModel
from awrq_mixer.predictor import Predictor
from cascade_world.config import WorldConfig
from cascade_world.generate import generate
from cascade_world.world import load_truth
from closed_loop import DayConfig, Parts, commission, simulate, static_levels, summarise
from common.cli import run_cli
from common.config import Config, replaced, to_dict
from common.files import read_json
from common.memory import PeakMemory
from common.run_folder import RunFolder
from common.scores import ScoreMatrix, read_scores, write_scores
from common.seeding import numpy_generator
from common.stages import Stage, Stages
from report.run_page import write_run_page
from revenue_sim.static import StaticMixture


class Orchestration(Config):
    """One run of the whole loop. The parts are the configs of the programs named; paths are filled in here."""

    seed: int = Field(default=0, ge=0, description="seed of the state sample; the parts have seeds of their own")
    world: WorldConfig = Field(description="cascade_world.generate")
    learners: dict[str, awrq_mixer.config.TrainConfig] = Field(min_length=1, description="awrq_mixer.train, each")
    judge: awrq_mixer.config.EvaluateConfig = Field(description="awrq_mixer.evaluate, of every learner")
    results: autobucket.config.TrainConfig = Field(description="autobucket.train")
    costs: autobucket.cost_config.FitCostsConfig = Field(description="autobucket.fit_costs")
    ground_truth: revenue_sim.train.TrainConfig = Field(description="revenue_sim.train")
    offline: revenue_sim.config.RunConfig = Field(description="revenue_sim.run")
    balancer: mpc_balancer.config.TrainConfig = Field(description="mpc_balancer.train")
    day: DayConfig = Field(description="the simulated days")
    workers: int = Field(default=2, ge=1, description="processes that learn or judge side by side, one thread each")
    sample_states: int = Field(default=2000, ge=10, description="states of the log's last part, scored for comparison")

    @model_validator(mode="after")
    def _policy_is_trained(self) -> Orchestration:
        if self.day.policy not in self.learners:
            raise ValueError(f"day.policy: got {self.day.policy!r}; expected one of {list(self.learners)}")
        return self


@dataclass
class OrchestrationResult:
    """What a run found; ``summary`` is also in summary.json."""

    out: Path
    summary: dict[str, Any]


def orchestrate(config: Orchestration, out: str | Path) -> OrchestrationResult:
    """Run the whole loop into ``out``: one folder per stage, report.html, summary.json. Finished stages are reused."""
    started, out = time.perf_counter(), Path(out)
    with RunFolder(out, config) as run, PeakMemory() as memory:
        stages = Stages(out, config.workers)
        stages.run(Stage("world", partial(generate, config.world), to_dict(config.world)))
        parts = _learn(config, stages)
        _compare(config, stages, parts)
        _simulate(config, stages, parts)
        summary = _summary(config, out) | {
            "seed": config.seed,
            "wall_s": time.perf_counter() - started,
            "stage_s": stages.seconds,
            "peak_rss_mb": memory.mb,
        }
        artifacts = write_run_page(out, summary)
        summary["artifacts"] = [str(path.relative_to(out)) for path in artifacts]
        run.write_summary(summary)
    return OrchestrationResult(out, summary)


def _learn(config: Orchestration, stages: Stages) -> Parts:
    """Q of every learner, C, and the ground-truth ensemble: whatever needs the logs only, side by side."""
    world, spec = stages.folder("world"), config.world.request_spec
    log = str(world / "logs/requests.parquet")
    learners = {name: replaced(one, {"requests": log, "spec": spec}) for name, one in config.learners.items()}
    results = replaced(config.results, {"data.requests": log, "data.spec": spec})
    maps = replaced(config.costs, {"loadtest": str(world / "logs/loadtest.csv")})
    ensemble = replaced(config.ground_truth, {"logs": [log], "requests": spec})
    stages.run(
        *(_stage(f"values/{name}", awrq_mixer.train.train, one, "world") for name, one in learners.items()),
        _stage("costs/results", autobucket.train.train, results, "world"),
        _stage("costs/maps", autobucket.fit_costs.fit_costs, maps, "world"),
        _stage("ground_truth", revenue_sim.train.train, ensemble, "world"),
    )
    return Parts(
        world=world,
        values=stages.folder(f"values/{config.day.policy}") / "best.pt",
        results=stages.folder("costs/results") / "estimator.pt",
        cost_maps=stages.folder("costs/maps") / "cost_maps.json",
        system_model=stages.folder("balancer") / "system_model.pt",
    )


def _compare(config: Orchestration, stages: Stages, parts: Parts) -> None:
    """Every learner on the same sample of states: against the log, against the truth, and by Return%."""
    log, spec, scores = str(parts.world / "logs/requests.parquet"), config.world.request_spec, stages.folder("scores")
    learned = [f"values/{name}" for name in config.learners]
    sample = [config.seed, config.sample_states]
    stages.run(Stage("scores", partial(_score, config, parts), sample, (*learned, "costs/results", "costs/maps")))
    judged = {
        name: replaced(
            config.judge,
            {"checkpoint": str(stages.folder(f"values/{name}") / "best.pt"), "requests": log}
            | {"truth": str(scores / "truth.parquet")},
        )
        for name in config.learners
    }
    offline = replaced(
        config.offline,
        {
            "log": log,
            "requests": spec,
            "truth": {"files": [str(scores / "truth.parquet")], "column": "value"},
            "models": {name: {"files": [str(scores / f"{name}.parquet")]} for name in config.learners},
            "costs": str(scores / "costs.parquet"),
            "model_costs": str(scores / "predicted_costs.parquet"),
        },
    )
    stages.run(
        *(_stage(f"judged/{name}", awrq_mixer.evaluate.evaluate, one, "scores") for name, one in judged.items()),
        _stage("offline", revenue_sim.run.run, offline, "scores"),
    )


def _simulate(config: Orchestration, stages: Stages, parts: Parts) -> None:
    """Commissioning, the system model, and the evaluation days of all strategies."""
    learned = (f"values/{config.day.policy}", "costs/results", "costs/maps")
    dithered = {"seed": config.day.commission_seed, "days": config.day.commission_days, "start": config.day.start_day}
    stages.run(Stage("commission", partial(commission, config.day, parts), dithered, learned))
    table = str(stages.folder("commission") / "system.parquet")
    balancer = replaced(config.balancer, {"table": table, "services": list(config.world.services)})
    stages.run(_stage("balancer", mpc_balancer.train.train, balancer, "commission"))
    days = partial(simulate, config.day, parts, _levels(config, stages, parts))
    stages.run(Stage("day", days, to_dict(config.day), ("balancer", "scores")))


def _stage(name: str, work: Callable[[Any, Path], Any], config: Config, *after: str) -> Stage:
    """A stage that is one program on its own config; paths to earlier stages' files are part of that config."""
    return Stage(name, partial(work, config), to_dict(config), after)


def _score(config: Orchestration, parts: Parts, folder: Path) -> None:
    """Learned Q and C, and the truth, of a seeded sample of the states in the last tenth of the log."""
    truth, spec = load_truth(parts.world), config.world.request_spec
    log = spec.read(parts.world / "logs/requests.parquet")
    states, _, counts = spec.distinct_states(log.iloc[int(0.9 * len(log)) :])
    size = min(config.sample_states, len(states))
    chosen = numpy_generator(config.seed, "sample").choice(len(states), size, replace=False, p=counts / counts.sum())
    states = states.iloc[np.sort(chosen)].reset_index(drop=True)
    true_costs = _by_service(truth.costs(states), truth.services)
    predicted_costs = CostModel.load(parts.results, parts.cost_maps).costs(states)
    files = {
        "costs": true_costs,
        "predicted_costs": _by_service(predicted_costs, truth.services),
        "truth": {"value": truth.values(states)} | {f"cost_{name}": one for name, one in true_costs.items()},
    }
    for name in config.learners:
        files[name] = {"q": Predictor.load(parts.values.parents[1] / name / "best.pt").values(states)}
    for name, scores in files.items():
        write_scores(ScoreMatrix(states, scores), folder / f"{name}.parquet")


def _by_service(costs: np.ndarray, services: tuple[str, ...]) -> dict[str, np.ndarray]:
    return {name: costs[..., j] for j, name in enumerate(services)}


def _levels(config: Orchestration, stages: Stages, parts: Parts) -> dict[str, list[StaticMixture]]:
    """The static mixtures, chosen on logs: predicted Q and C of logged states, peak traffic of the system log."""
    spec, world = config.world.request_spec, load_truth(parts.world).world
    values = read_scores(stages.folder("scores") / f"{config.day.policy}.parquet", spec)
    by_service = read_scores(stages.folder("scores") / "predicted_costs.parquet", spec).scores
    costs = np.stack([by_service[name] for name in world.services], axis=-1)  # (S, A, services)
    system = pd.read_parquet(parts.world / "logs/system.parquet", columns=["idc", "qps"])
    peak, mean_q, mean_c = {}, {}, {}
    for group in world.groups:
        rows = (values.states["idc"].astype(str) == group).to_numpy()
        mean_q[group], mean_c[group] = values.scores["q"][rows].mean(axis=0), costs[rows].mean(axis=0)
        peak[group] = float(system.loc[system["idc"].astype(str) == group, "qps"].rolling(15).mean().max())
    return static_levels(config.day, world, peak, mean_q, mean_c)


def _summary(config: Orchestration, out: Path) -> dict[str, Any]:
    offline = read_json(out / "offline/summary.json")
    minutes = pd.read_parquet(out / "day/minutes.parquet")
    return {
        "spearman": offline["spearman"],
        "spearman_within": offline["spearman_within"],
        "return_pct": {name: one["greedy"] for name, one in offline["return_pct"].items()},
        "return_pct_optimal": {name: one["optimal"] for name, one in offline["return_pct"].items()},
        "ground_truth_spearman": read_json(out / "ground_truth/summary.json")["truth_spearman"],
        "strategies": summarise(minutes, config.world.services, config.world.plant.budget_percent),
    }


if __name__ == "__main__":
    run_cli(orchestrate, Orchestration, default_config="configs/demo.yaml", default_out="runs/demo")
