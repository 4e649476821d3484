"""The whole loop: logs in; Q, C and λ learned; an offline revenue simulation; days in closed loop; a report out.

``python orchestrate.py --config configs/demo.yaml --out runs/demo``.
"""

from __future__ import annotations

import resource
import time
from dataclasses import dataclass
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
from common.run_folder import RunFolder
from common.scores import ScoreMatrix, read_scores, write_scores
from common.seeding import numpy_generator
from common.stages import Stages
from common.tables import write_table
from report.run_page import write_run_page


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
    with RunFolder(out, config) as run:
        stages = Stages(out)
        parts = _learn(config, stages)
        _compare(config, stages, parts)
        _simulate(config, stages, parts)
        summary = _summary(config, out) | {
            "wall_s": time.perf_counter() - started,
            "stage_s": stages.seconds,
            "peak_rss_mb": _peak_rss_mb(),
            "seed": config.seed,
        }
        summary["artifacts"] = [str(path.relative_to(out)) for path in write_run_page(out, summary)]
        run.write_summary(summary)
    return OrchestrationResult(out, summary)


def _learn(config: Orchestration, stages: Stages) -> Parts:
    """Logs, Q of every learner, C: the stages before any simulation."""
    world = stages.run("world", lambda folder: generate(config.world, folder), inputs=to_dict(config.world))
    log, spec = str(world / "logs/requests.parquet"), config.world.request_spec
    for name, learner in config.learners.items():
        settings = replaced(learner, {"requests": log, "spec": spec})
        stages.run(
            f"values/{name}",
            lambda f, s=settings: awrq_mixer.train.train(s, f),
            inputs=to_dict(learner),
            after=("world",),
        )
    results = replaced(config.results, {"data.requests": log, "data.spec": spec})
    stages.run(
        "costs/results", lambda f: autobucket.train.train(results, f), inputs=to_dict(config.results), after=("world",)
    )
    maps = replaced(config.costs, {"loadtest": str(world / "logs/loadtest.csv")})
    stages.run(
        "costs/maps", lambda f: autobucket.fit_costs.fit_costs(maps, f), inputs=to_dict(config.costs), after=("world",)
    )
    return Parts(
        world=world,
        values=stages.root / "values" / config.day.policy / "best.pt",
        results=stages.root / "costs/results/estimator.pt",
        cost_maps=stages.root / "costs/maps/cost_maps.json",
    )


def _compare(config: Orchestration, stages: Stages, parts: Parts) -> None:
    """Every learner on the same sample of states: against the log, against the truth, and by Return%."""
    log, spec = str(parts.world / "logs/requests.parquet"), config.world.request_spec
    learned = tuple(f"values/{name}" for name in config.learners)
    scores = stages.run(
        "scores",
        lambda f: _score(config, parts, f),
        inputs=[config.seed, config.sample_states],
        after=(*learned, "costs/results", "costs/maps"),
    )
    for name in config.learners:
        settings = replaced(
            config.judge,
            {
                "checkpoint": str(stages.root / f"values/{name}/best.pt"),
                "requests": log,
                "truth": str(scores / "truth.parquet"),
            },
        )
        stages.run(
            f"judged/{name}",
            lambda f, s=settings: awrq_mixer.evaluate.evaluate(s, f),
            inputs=to_dict(config.judge),
            after=("scores",),
        )
    ground = replaced(config.ground_truth, {"logs": [log], "requests": spec})
    stages.run(
        "ground_truth",
        lambda f: revenue_sim.train.train(ground, f),
        inputs=to_dict(config.ground_truth),
        after=("world",),
    )
    settings = {
        "log": log,
        "requests": spec,
        "truth": {"files": [str(scores / "truth.parquet")], "column": "value"},
        "models": {name: {"files": [str(scores / f"{name}.parquet")]} for name in config.learners},
        "costs": str(scores / "costs.parquet"),
        "model_costs": str(scores / "predicted_costs.parquet"),
    }
    offline = replaced(config.offline, settings)
    stages.run("offline", lambda f: revenue_sim.run.run(offline, f), inputs=to_dict(config.offline), after=("scores",))


def _score(config: Orchestration, parts: Parts, folder: Path) -> None:
    """Learned Q and C, and the truth, of a seeded sample of the states in the last tenth of the log."""
    truth, spec = load_truth(parts.world), config.world.request_spec
    log = spec.read(parts.world / "logs/requests.parquet")
    states, _, counts = spec.distinct_states(log.iloc[int(0.9 * len(log)) :])
    size = min(config.sample_states, len(states))
    chosen = numpy_generator(config.seed, "sample").choice(len(states), size, replace=False, p=counts / counts.sum())
    states = states.iloc[np.sort(chosen)].reset_index(drop=True)
    for name in config.learners:
        values = Predictor.load(parts.values.parents[1] / name / "best.pt").values(states)
        write_scores(ScoreMatrix(states, {"q": values}), folder / f"{name}.parquet")
    for name, costs in {
        "costs": truth.costs(states),
        "predicted_costs": CostModel.load(parts.results, parts.cost_maps).costs(states),
    }.items():
        by_service = {service: costs[..., j] for j, service in enumerate(truth.services)}
        write_scores(ScoreMatrix(states, by_service), folder / f"{name}.parquet")
    true = {"value": truth.values(states)} | {
        f"cost_{s}": truth.costs(states)[..., j] for j, s in enumerate(truth.services)
    }
    write_scores(ScoreMatrix(states, true), folder / "truth.parquet")


def _simulate(config: Orchestration, stages: Stages, parts: Parts) -> None:
    """Commissioning, the system model, and the evaluation days of all strategies."""
    learned = (f"values/{config.day.policy}", "costs/results", "costs/maps")
    commissioning = {
        key: value for key, value in to_dict(config.day).items() if key.startswith(("commission", "start", "policy"))
    }
    table = stages.run(
        "commission",
        lambda f: write_table(commission(config.day, parts), f / "system.parquet"),
        inputs=commissioning,
        after=learned,
    )
    balancer = replaced(
        config.balancer, {"table": str(table / "system.parquet"), "services": list(config.world.services)}
    )
    model = stages.run(
        "balancer",
        lambda f: mpc_balancer.train.train(balancer, f),
        inputs=to_dict(config.balancer),
        after=("commission",),
    )
    parts = Parts(parts.world, parts.values, parts.results, parts.cost_maps, model / "system_model.pt")

    def days(folder: Path) -> None:
        minutes, breakdown = simulate(config.day, parts, _levels(config, stages.root, parts))
        write_table(breakdown, folder / "who_gets_what.csv")
        write_table(minutes, folder / "minutes.csv")

    stages.run("day", days, inputs=to_dict(config.day), after=("balancer", "scores"))


def _levels(config: Orchestration, root: Path, parts: Parts) -> dict:
    """The static strategy's mixtures, chosen on logs: predicted Q and C of logged states, peak traffic of the system log."""
    spec, world = config.world.request_spec, load_truth(parts.world).world
    values = read_scores(root / "scores" / f"{config.day.policy}.parquet", spec)
    costs = np.stack(list(read_scores(root / "scores/predicted_costs.parquet", spec).scores.values()), axis=-1)
    system = pd.read_parquet(parts.world / "logs/system.parquet", columns=["idc", "qps"])
    peak, mean_q, mean_c = {}, {}, {}
    for group in world.groups:
        rows = (values.states["idc"].astype(str) == group).to_numpy()
        mean_q[group], mean_c[group] = values.scores["q"][rows].mean(axis=0), costs[rows].mean(axis=0)
        peak[group] = float(system.loc[system["idc"].astype(str) == group, "qps"].rolling(15).mean().max())
    return static_levels(config.day, world, peak, mean_q, mean_c)


def _summary(config: Orchestration, out: Path) -> dict[str, Any]:
    offline = read_json(out / "offline/summary.json")
    minutes = pd.read_csv(out / "day/minutes.csv")
    return {
        "spearman": offline["spearman"],
        "spearman_within": offline["spearman_within"],
        "return_pct": {name: one["greedy"] for name, one in offline["return_pct"].items()},
        "return_pct_optimal": {name: one["optimal"] for name, one in offline["return_pct"].items()},
        "ground_truth_spearman": read_json(out / "ground_truth/summary.json")["truth_spearman"],
        "strategies": summarise(minutes, config.world.services, config.world.plant.budget_percent),
    }


def _peak_rss_mb() -> float:
    """Largest resident memory of this process and of any child it waited for, MB."""
    return max(resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)) / 1024


if __name__ == "__main__":
    run_cli(orchestrate, Orchestration, default_config="configs/demo.yaml", default_out="runs/demo")
