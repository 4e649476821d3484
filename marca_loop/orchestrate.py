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
import autobucket.costs.cost_config
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
from autobucket.costs.cost_model import CostModel
from awrq_mixer.serving.policy import HullPolicy
from awrq_mixer.serving.predictor import Predictor
from cascade_world.config import WorldConfig
from cascade_world.generate import generate
from cascade_world.world import load_truth
from marca_common.cli import run_cli
from marca_common.compute import set_threads
from marca_common.config import Config, replaced, to_dict
from marca_common.files import file_hash, read_json, write_json
from marca_common.memory import PeakMemory
from marca_common.requests import RequestSpec
from marca_common.run_folder import RunFolder
from marca_common.scores import ScoreMatrix, read_scores, write_scores
from marca_common.seeding import numpy_generator
from marca_common.stages import Stage, Stages
from marca_loop.closed_loop import DayConfig, Parts, commission, simulate, static_levels, summarise
from marca_measures.static_mixture import StaticMixture
from marca_report.run_page import write_run_page
from revenue_sim.train import GroundTruth


class OwnLogs(Config):
    """A platform's own tables (columns in data/README.md), in place of the open world."""

    requests: str = Field(description="request log")
    loadtest: str = Field(description="load-test rows")
    system: str = Field(description="minute table")
    spec: RequestSpec = Field(default=RequestSpec(), description="columns of the request log")
    services: list[str] = Field(default=["retrieval", "ranking"], min_length=1, description="CPU services")
    policy_states: int = Field(default=20000, ge=1, description="most frequent states that policy.npz is prepared for")


class Orchestration(Config):
    """One run of the whole loop. The parts are the configs of the programs named; paths are filled in here."""

    seed: int = Field(default=0, ge=0, description="seed of the state sample; the parts have seeds of their own")
    world: WorldConfig | None = Field(default=None, description="cascade_world.generate; null: own logs are given")
    logs: OwnLogs | None = Field(default=None, description="own logs; null: those of the world")
    learners: dict[str, awrq_mixer.config.TrainConfig] = Field(min_length=1, description="awrq_mixer.train, each")
    judge: awrq_mixer.config.EvaluateConfig = Field(description="awrq_mixer.evaluate, of every learner")
    results: autobucket.config.TrainConfig = Field(description="autobucket.train")
    costs: autobucket.costs.cost_config.FitCostsConfig = Field(description="autobucket.fit_costs")
    ground_truth: revenue_sim.train.TrainConfig = Field(description="revenue_sim.train")
    offline: revenue_sim.config.RunConfig = Field(description="revenue_sim.run")
    balancer: mpc_balancer.config.TrainConfig = Field(description="mpc_balancer.train")
    day: DayConfig = Field(description="the simulated days")
    workers: int = Field(default=2, ge=1, description="processes that learn or judge side by side, one thread each")
    sample_states: int = Field(default=2000, ge=10, description="states of the log's last part, scored for comparison")

    @model_validator(mode="after")
    def _parts_fit(self) -> Orchestration:
        if (self.world is None) == (self.logs is None):
            raise ValueError("give either world or logs: the open world's logs or your own")
        if self.day.policy not in self.learners:
            raise ValueError(f"day.policy: got {self.day.policy!r}; expected one of {list(self.learners)}")
        return self


@dataclass
class OrchestrationResult:
    """What a run found; ``summary`` is also in summary.json."""

    out: Path
    summary: dict[str, Any]


@dataclass(frozen=True)
class Source:
    """Where the logs lie, whoever wrote them."""

    requests: str
    loadtest: str
    system: str
    spec: RequestSpec
    services: list[str]
    world: Path | None  # folder of the open world, None with own logs


def orchestrate(config: Orchestration, out: str | Path) -> OrchestrationResult:
    """Run the whole loop into ``out``: one folder per stage, report.html, summary.json. Finished stages are reused.

    With own logs in place of the open world there is no truth and no plant: the run ends with the values, costs, system
    model and policy learned from them, and the offline comparison.
    """
    started, out = time.perf_counter(), Path(out)
    set_threads(1)  # workers use the other cores; two threads on a busy core are far slower than one
    with RunFolder(out, config) as run, PeakMemory() as memory:
        stages = Stages(out, config.workers, program="marca_loop.orchestrate")
        source = _read(config, stages)
        parts = _learn(config, stages, source)
        _compare(config, stages, source, parts)
        if source.world is not None:
            _simulate(config, stages, source, parts, source.world)
        else:
            _deliver(config, stages, source, parts)
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


def _read(config: Orchestration, stages: Stages) -> Source:
    """The stage ``logs``: generate the open world, or take the fingerprint of the own files."""
    if config.world is not None:
        stages.run(Stage("logs", partial(generate, config.world), to_dict(config.world)))
        folder = stages.folder("logs")
        requests, loadtest, system = (
            f"{folder}/logs/{name}" for name in ("requests.parquet", "loadtest.csv", "system.parquet")
        )
        return Source(requests, loadtest, system, config.world.request_spec, list(config.world.services), folder)
    own = config.logs
    assert own is not None
    prints = {name: file_hash(name) for name in (own.requests, own.loadtest, own.system)}
    stages.run(Stage("logs", lambda folder: write_json(folder / "files.json", prints), prints))
    return Source(own.requests, own.loadtest, own.system, own.spec, own.services, None)


def _learn(config: Orchestration, stages: Stages, source: Source) -> Parts:
    """Q of every learner, C, and the ground-truth ensemble: whatever needs the logs only, side by side."""
    given = {"requests": source.requests, "spec": source.spec}
    learners = {name: replaced(one, given) for name, one in config.learners.items()}
    results = replaced(config.results, {"data.requests": source.requests, "data.spec": source.spec})
    maps = replaced(config.costs, {"loadtest": source.loadtest})
    ensemble = replaced(config.ground_truth, {"requests": [source.requests], "spec": source.spec})
    stages.run(
        *(_stage(f"values/{name}", awrq_mixer.train.train, one, "logs") for name, one in learners.items()),
        _stage("costs/results", autobucket.train.train, results, "logs"),
        _stage("costs/maps", autobucket.fit_costs.fit_costs, maps, "logs"),
        _stage("ground_truth", revenue_sim.train.train, ensemble, "logs"),
    )
    return Parts(
        world=source.world,
        values=stages.folder(f"values/{config.day.policy}") / "best.pt",
        results=stages.folder("costs/results") / "estimator.pt",
        cost_maps=stages.folder("costs/maps") / "cost_maps.json",
        system_model=stages.folder("balancer") / "system_model.pt",
    )


def _compare(config: Orchestration, stages: Stages, source: Source, parts: Parts) -> None:
    """Every learner on the same sample of states: against the log, against the truth, and by Return%."""
    scores = stages.folder("scores")
    learned = [f"values/{name}" for name in config.learners]
    after = (*learned, "costs/results", "costs/maps", "ground_truth")
    stages.run(Stage("scores", partial(_score, config, source, parts), [config.seed, config.sample_states], after))
    truth = str(scores / "truth.parquet")
    known = {"requests": source.requests} | ({"truth": truth} if source.world is not None else {})
    judged = {
        name: replaced(config.judge, known | {"checkpoint": str(stages.folder(f"values/{name}") / "best.pt")})
        for name in config.learners
    }
    settings = {
        "requests": source.requests,
        "spec": source.spec,
        "truth": {"files": [truth], "column": "value"},
        "models": {name: {"files": [str(scores / f"{name}.parquet")]} for name in config.learners},
        "costs": str(scores / ("costs.parquet" if source.world is not None else "predicted_costs.parquet")),
        "model_costs": str(scores / "predicted_costs.parquet"),
    }
    stages.run(
        _stage("offline", revenue_sim.run.run, replaced(config.offline, settings), "scores"),
        *(_stage(f"judged/{name}", awrq_mixer.evaluate.evaluate, one, "scores") for name, one in judged.items()),
    )


def _simulate(config: Orchestration, stages: Stages, source: Source, parts: Parts, world: Path) -> None:
    """Commissioning, the system model, and the evaluation days of all strategies."""
    learned = (f"values/{config.day.policy}", "costs/results", "costs/maps")
    dithered = {"seed": config.day.commission_seed, "days": config.day.commission_days, "start": config.day.start_day}
    stages.run(Stage("commission", partial(commission, config.day, parts), dithered, learned))
    table = str(stages.folder("commission") / "system.parquet")
    stages.run(_balancer(config, source, table, "commission"))
    days = partial(simulate, config.day, parts, _levels(config, stages, source, world))
    stages.run(Stage("day", days, to_dict(config.day), ("balancer", "scores")))


def _deliver(config: Orchestration, stages: Stages, source: Source, parts: Parts) -> None:
    """With own logs: the system model of the own minute table, and the policy of the log's most frequent states."""
    assert config.logs is not None
    learned = (f"values/{config.day.policy}", "costs/results", "costs/maps")
    export = partial(_export_policy, source, parts, config.logs.policy_states)
    stages.run(
        _balancer(config, source, source.system, "logs"), Stage("policy", export, config.logs.policy_states, learned)
    )


def _balancer(config: Orchestration, source: Source, table: str, after: str) -> Stage:
    settings = replaced(config.balancer, {"table": table, "services": source.services})
    return _stage("balancer", mpc_balancer.train.train, settings, after)


def _export_policy(source: Source, parts: Parts, most: int, folder: Path) -> None:
    states, _, counts = source.spec.distinct_states(source.spec.read(source.requests))
    states = states.iloc[np.sort(np.argsort(-counts, kind="stable")[:most])].reset_index(drop=True)
    values, costs = Predictor.load(parts.values), CostModel.load(parts.results, parts.cost_maps)
    HullPolicy.build(states, values.values, costs.costs).save(folder / "policy.npz")


def _stage(name: str, work: Callable[[Any, Path], Any], config: Config, *after: str) -> Stage:
    """A stage that is one program on its own config; paths to earlier stages' files are part of that config."""
    return Stage(name, partial(work, config), to_dict(config), after)


def _score(config: Orchestration, source: Source, parts: Parts, folder: Path) -> None:
    """Learned Q and C, and the truth (own logs: the ensemble), of a seeded sample of states in the log's last tenth."""
    log = source.spec.read(source.requests)
    states, _, counts = source.spec.distinct_states(log.iloc[int(0.9 * len(log)) :])
    size = min(config.sample_states, len(states))
    chosen = numpy_generator(config.seed, "sample").choice(len(states), size, replace=False, p=counts / counts.sum())
    states = states.iloc[np.sort(chosen)].reset_index(drop=True)
    predicted = CostModel.load(parts.results, parts.cost_maps).costs(states)
    files = {"predicted_costs": _by_service(predicted, source.services)}
    if source.world is not None:
        truth = load_truth(source.world)
        files["costs"] = _by_service(truth.costs(states), source.services)
        files["truth"] = {"value": truth.values(states)} | {f"cost_{name}": c for name, c in files["costs"].items()}
    else:
        ensemble = GroundTruth.load(folder.parent / "ground_truth", source.spec, config.ground_truth.tree_weight)
        files["truth"] = {"value": ensemble.values(states)}
    for name in config.learners:
        files[name] = {"q": Predictor.load(folder.parent / f"values/{name}/best.pt").values(states)}
    for name, scores in files.items():
        write_scores(ScoreMatrix(states, scores), folder / f"{name}.parquet")


def _by_service(costs: np.ndarray, services: list[str]) -> dict[str, np.ndarray]:
    return {name: costs[..., j] for j, name in enumerate(services)}


def _levels(config: Orchestration, stages: Stages, source: Source, folder: Path) -> dict[str, list[StaticMixture]]:
    """The static mixtures, chosen on logs: predicted Q and C of logged states, peak traffic of the system log."""
    world, scores = load_truth(folder).world, stages.folder("scores")
    values = read_scores(scores / f"{config.day.policy}.parquet", source.spec)
    by_service = read_scores(scores / "predicted_costs.parquet", source.spec).scores
    costs = np.stack([by_service[name] for name in world.services], axis=-1)  # (S, A, services)
    system = pd.read_parquet(source.system, columns=["idc", "qps"])
    peak, mean_q, mean_c = {}, {}, {}
    for group in world.groups:
        rows = (values.states["idc"].astype(str) == group).to_numpy()
        mean_q[group], mean_c[group] = values.scores["q"][rows].mean(axis=0), costs[rows].mean(axis=0)
        peak[group] = float(system.loc[system["idc"].astype(str) == group, "qps"].rolling(15).mean().max())
    return static_levels(config.day, world, peak, mean_q, mean_c)


def _summary(config: Orchestration, out: Path) -> dict[str, Any]:
    offline = read_json(out / "offline/summary.json")
    summary = {
        "spearman": offline["spearman"],
        "spearman_within": offline["spearman_within"],
        "return_pct": {name: one["greedy"] for name, one in offline["return_pct"].items()},
        "return_pct_optimal": {name: one["optimal"] for name, one in offline["return_pct"].items()},
        "ground_truth_spearman": read_json(out / "ground_truth/summary.json")["held_out"]["ensemble"][
            "bucket_spearman"
        ],
    }
    if config.world is not None:
        minutes = pd.read_parquet(out / "day/minutes.parquet")
        summary["strategies"] = summarise(minutes, config.world.services, config.world.plant.budget_percent)
    return summary


def main() -> None:
    """The command line."""
    run_cli(orchestrate, Orchestration, default_config="configs/demo.yaml", default_out="runs/demo")


if __name__ == "__main__":
    main()
