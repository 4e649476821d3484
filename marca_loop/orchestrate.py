"""The whole loop: logs in; Q, C and λ learned; an offline revenue simulation; days in closed loop; a report out.

``python orchestrate.py --config configs/demo.yaml --out runs/demo``.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd

import autobucket.fit_costs
import autobucket.train
import awrq_mixer.anchor
import awrq_mixer.evaluate
import awrq_mixer.profile
import awrq_mixer.train
import mpc_balancer.train
import revenue_sim.run
import revenue_sim.train
from cascade_world.generate import generate
from marca_common.cli import run_cli
from marca_common.compute import set_threads
from marca_common.config import Config, replaced, to_dict
from marca_common.files import file_hash, read_json, write_json
from marca_common.memory import PeakMemory
from marca_common.run_folder import RunFolder
from marca_common.stages import Stage, Stages
from marca_common.tables import write_table
from marca_loop.day import Period, commission, prepare_policies, simulate
from marca_loop.measures import Rivals, attribution, compare, measure
from marca_loop.scene import Parts
from marca_loop.scoring import export_policy, peak_budgets, score_sample
from marca_loop.settings import Orchestration
from marca_loop.signed_uplift import signed_uplift_of_log
from marca_report.run_page import write_run_page


@dataclass
class OrchestrationResult:
    """What a run found; ``summary`` is also in summary.json."""

    out: Path
    summary: dict[str, Any]


@dataclass(frozen=True)
class Run:
    """A run on its way: its settings, its stages, the tables it reads and where learned parts lie."""

    config: Orchestration
    stages: Stages
    requests: str
    loadtest: str
    services: list[str]
    parts: Parts


def orchestrate(config: Orchestration, out: str | Path) -> OrchestrationResult:
    """Run the whole loop into ``out``: one folder per stage, report.html, summary.json. Finished stages are reused.

    With own logs in place of the open world there is no truth and no plant: the run ends with the values, costs, system
    model and policy learned from them, the offline comparison, and the uplift that the log itself tells.
    """
    started, out = time.perf_counter(), Path(out)
    set_threads(1)  # workers use the other cores; two threads on a busy core are far slower than one
    with RunFolder(out, config) as folder, PeakMemory() as memory:
        run = _read(config, Stages(out, config.workers, "marca_loop.orchestrate", memory))
        _learn(run)
        _compare(run)
        if run.parts.world is not None:
            _simulate(run)
        else:
            _deliver(run)
        summary = _summary(config, out) | {
            "seed": config.seed,
            "wall_s": time.perf_counter() - started,
            "stage_s": run.stages.seconds,
            "peak_rss_mb": max(memory.mb, run.stages.peak_mb),
        }
        for reason in summary.get("failed", {}).values():
            folder.warn(reason)
        summary["artifacts"] = write_run_page(out, summary, folder.path)
        folder.write_summary(summary)
    return OrchestrationResult(out, summary)


def _read(config: Orchestration, stages: Stages) -> Run:
    """The stage ``logs``: generate the open world, or take the fingerprint of the own files."""
    if config.world is not None:
        stages.run(Stage("logs", partial(generate, config.world), to_dict(config.world)))
        world, spec, services = stages.folder("logs"), config.world.request_spec, list(config.world.services)
        names = ("requests.parquet", "loadtest.csv", "system.parquet")
        requests, loadtest, system = (str(world / "logs" / name) for name in names)
    else:
        assert config.logs is not None
        own, world = config.logs, None
        requests, loadtest, system, spec, services = own.requests, own.loadtest, own.system, own.spec, own.services
        prints = {name: file_hash(name) for name in (requests, loadtest, system)}
        stages.run(Stage("logs", lambda folder: write_json(folder / "files.json", prints), prints))
    parts = Parts(stages.root, config.day.policy, world, Path(system), spec)
    return Run(config, stages, requests, loadtest, services, parts)


def _learn(run: Run) -> None:
    """Q of every learner, C, and the ground-truth ensemble: whatever needs the logs only, side by side."""
    config, spec = run.config, run.parts.spec
    learners = {name: replaced(one, {"requests": run.requests, "spec": spec}) for name, one in config.learners.items()}
    results = replaced(config.results, {"data.requests": run.requests, "data.spec": spec})
    maps = replaced(config.costs, {"loadtest": run.loadtest})
    ensemble = replaced(config.ground_truth, {"requests": [run.requests], "spec": spec})
    profile = replaced(config.profile, {"requests": run.requests, "spec": spec})
    run.stages.run(
        *(_stage(f"values/{name}", awrq_mixer.train.train, one, "logs") for name, one in learners.items()),
        _stage("profile", awrq_mixer.profile.profile, profile, "logs"),
        _stage("costs/results", autobucket.train.train, results, "logs"),
        _stage("costs/maps", autobucket.fit_costs.fit_costs, maps, "logs"),
        _stage("ground_truth", revenue_sim.train.train, ensemble, "logs"),
    )
    known = {"requests": run.requests, "profile": str(run.stages.folder("profile") / "profile.csv")}
    anchors = {
        name: replaced(config.anchor, known | {"checkpoint": str(run.parts.learned(name))})
        for name in config.day.learners
    }
    run.stages.run(
        *(
            _stage(f"anchored/{name}", awrq_mixer.anchor.anchor, one, f"values/{name}", "profile")
            for name, one in anchors.items()
        )
    )


def _compare(run: Run) -> None:
    """Every learner on the same sample of states: against the log, against the truth, and by Return%."""
    config, parts, scores = run.config, run.parts, run.stages.folder("scores")
    learned = [f"values/{name}" for name in config.learners]
    work = partial(
        score_sample, run.requests, config.sample_states, config.seed, list(config.learners),
        config.ground_truth.tree_weight, parts,
    )  # fmt: skip
    after = (*learned, "costs/results", "costs/maps", "ground_truth")
    run.stages.run(Stage("scores", work, [config.seed, config.sample_states], after))
    profile = str(run.stages.folder("profile") / "profile.csv")
    known = {"requests": run.requests, "profile": profile, "costs": str(parts.scores("predicted_costs"))}
    known |= {"truth": str(parts.scores("truth"))} if parts.world is not None else {}
    judged = {
        name: replaced(config.judge, known | {"checkpoint": str(parts.learned(name))}) for name in config.learners
    }
    settings = {
        "requests": run.requests,
        "spec": parts.spec,
        "truth": {"files": [str(parts.scores("truth"))], "column": "value"},
        "models": {name: {"files": [str(parts.scores(name))]} for name in config.learners},
        "costs": str(scores / ("costs.parquet" if parts.world is not None else "predicted_costs.parquet")),
        "model_costs": str(parts.scores("predicted_costs")),
        "service_budgets": peak_budgets(parts),
    }
    run.stages.run(
        _stage("offline", revenue_sim.run.run, replaced(config.offline, settings), "scores"),
        *(
            _stage(f"judged/{name}", awrq_mixer.evaluate.evaluate, one, "scores", "profile")
            for name, one in judged.items()
        ),
    )


def _simulate(run: Run) -> None:
    """Policies for every state that may arrive; a system model under every decider; then the days of all strategies."""
    day, parts, learners = run.config.day, run.parts, run.config.day.learners
    commissioning = Period(day.commission_seed, day.start_day - day.commission_days, day.commission_days)
    periods = {one: Period(one, day.start_day, day.days) for one in day.seeds} | {day.commission_seed: commissioning}
    keys = [one.key for one in day.deciders]
    after = (*(f"anchored/{name}" for name in learners), "costs/results", "costs/maps", "scores", "profile")
    for seed, period in periods.items():
        deciders = day.steered if period is commissioning else day.deciders
        work = partial(prepare_policies, period, deciders, learners, parts, run.config.workers)
        run.stages.run(Stage(f"policies/{seed}", work, [asdict(period), keys], after))
    tables = {one.key: partial(commission, commissioning, one, parts) for one in day.steered}
    before = f"policies/{day.commission_seed}"
    run.stages.run(
        *(Stage(f"commission/{key}", work, asdict(commissioning), (before,)) for key, work in tables.items())
    )
    run.stages.run(
        *(
            _balancer(run, key, str(run.stages.folder(f"commission/{key}") / "system.parquet"), f"commission/{key}")
            for key in tables
        )
    )
    assert run.config.world is not None
    after = (*(f"balancer/{key}" for key in tables), *(f"policies/{seed}" for seed in day.seeds))
    run.stages.run(Stage("day", partial(simulate, day, parts, run.config.world.groups), to_dict(day), after))


def _deliver(run: Run) -> None:
    """With own logs: the system model of the own minute table, the policy of the log's most frequent states, and what it would earn."""
    config, name, costs = run.config, run.config.day.policy, ("costs/results", "costs/maps")
    assert config.logs is not None
    most = config.logs.policy_states
    export = partial(export_policy, run.requests, most, run.parts)
    stages = [
        _balancer(run, name, config.logs.system, "logs"),
        Stage("policy", export, most, (f"anchored/{name}", *costs)),
    ]
    if config.uplift is not None:
        learned = {
            "estimator": run.stages.folder(costs[0]) / "estimator.pt",
            "maps": run.stages.folder(costs[1]) / "cost_maps.json",
        }
        known = {
            "requests": run.requests,
            "spec": run.parts.spec,
            "costs": {key: str(path) for key, path in learned.items()},
        }
        stages.append(_stage("uplift", signed_uplift_of_log, replaced(config.uplift, known), *costs))
    run.stages.run(*stages)


def _balancer(run: Run, learner: str, table: str, after: str) -> Stage:
    known = {"table": table, "services": run.services, "columns.timezone": run.parts.spec.timezone}
    settings = replaced(run.config.balancer, known)
    return _stage(f"balancer/{learner}", mpc_balancer.train.train, settings, after)


def _stage(name: str, work: Callable[[Any, Path], Any], config: Config, *after: str) -> Stage:
    """A stage that is one program on its own config; paths to earlier stages' files are part of that config."""
    return Stage(name, partial(work, config), to_dict(config), after)


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
        minutes, budget = pd.read_parquet(out / "day/minutes.parquet"), config.world.plant.budget_percent
        measured = measure(minutes, config.world.services, budget)
        rivals = Rivals(config.day.baseline, config.day.hourly, config.day.blind, config.day.oracle)
        summary["strategies"] = compare(measured, rivals)
        summary["failed"] = read_json(out / "day/failed.json")
        write_table(measured, out / "day/measures.csv")
        steps = attribution(measured, config.day.baseline, config.day.attribution)
        if len(steps):
            write_table(steps, out / "day/attribution.csv")
    return summary


def main() -> None:
    """The command line."""
    run_cli(orchestrate, Orchestration, default_config="configs/demo.yaml", default_out="runs/demo")


if __name__ == "__main__":
    main()
