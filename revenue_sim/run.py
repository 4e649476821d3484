"""Offline revenue simulation: Return% of every model, budget-revenue curves, who gets what (§4.1.1 and Eqs. 2–6)."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from marca_common.cli import run_cli
from marca_common.errors import UserError
from marca_common.progress import progress
from marca_common.requests import RequestSpec
from marca_common.run_folder import RunFolder
from marca_common.seeding import numpy_generator
from marca_common.tables import write_table
from marca_measures.calibration import bucket_spearman
from marca_measures.rank_correlation import TruthRanks, pearson
from revenue_sim.allocation.one_budget import allocate, check_budget
from revenue_sim.config import RunConfig
from revenue_sim.judging import offline_figures as figures
from revenue_sim.judging.action_mix import action_mix
from revenue_sim.judging.budget_curves import Curves, budget_curves
from revenue_sim.judging.return_pct import return_interval, return_pct
from revenue_sim.judging.score_files import (
    Demand,
    demand_of_log,
    load_costs,
    load_scores,
    load_source,
    mean_scores,
    read_demand,
    total,
)
from revenue_sim.quotas import quota


@dataclass
class Inputs:
    """Everything a simulation looks at, in the order of ``states``."""

    spec: RequestSpec
    states: pd.DataFrame
    demand: Demand
    truth: np.ndarray  # float32 (S, A)
    models: dict[str, list[np.ndarray]]  # name → (S, A) per training seed
    costs: np.ndarray | None  # (S, A) true core-ms per request, all services together
    model_costs: np.ndarray | None  # (S, A) the costs that decisions are made with
    logged: pd.DataFrame | None  # requests of these states: row, joint action, reward

    @cached_property
    def ranks(self) -> TruthRanks:
        """The truth's ranks, made once for all models."""
        return TruthRanks(self.truth, self.demand.states)


@dataclass
class Judged:
    """One model under quotas: what its allocations earn in truth."""

    greedy_pct: list[float] = field(default_factory=list)  # per training seed
    optimal_pct: list[float] = field(default_factory=list)
    greedy_by_state: list[np.ndarray] = field(default_factory=list)  # (S,) per training seed
    optimal_by_state: list[np.ndarray] = field(default_factory=list)
    spearman: list[float] = field(default_factory=list)
    spearman_within: list[float] = field(default_factory=list)
    first: quota.QuotaAllocation | None = None  # the first seed's greedy allocation, for the action mix


@dataclass
class RunResult:
    """What ``run`` found; ``summary`` is also in summary.json."""

    out: Path
    summary: dict[str, Any]
    returns: pd.DataFrame
    curves: Curves | None
    mix: pd.DataFrame


def run(config: RunConfig, out: str | Path) -> RunResult:
    """Judge score files by the truth's: Return% (greedy and optimal quotas), rank correlations, budget-revenue curves.

    Writes summary.json, returns.csv, allocation.csv, action_mix.csv, curve.csv and PNG figures to the run folder.
    """
    with RunFolder(out, config) as folder:
        inputs = load_inputs(config)
        generator = numpy_generator(config.seed, "revenue_sim", "bootstrap")
        truth, judged = _judge_all(inputs)
        table = _returns_table(config, inputs, truth, judged, generator)
        curves = budget_curves(config, inputs)
        summary = _summary(config, inputs, truth, judged, table, curves)
        mix = _mix(config, inputs, truth, judged)
        write_table(table, folder.path / "returns.csv")
        write_table(mix, folder.path / "action_mix.csv")
        if curves is not None:
            write_table(curves.table, folder.path / "curve.csv")
        figures.write_all(folder.path, table, curves, mix, inputs.spec)
        folder.write_summary(summary)
        return RunResult(folder.path, summary, table, curves, mix)


def load_inputs(config: RunConfig) -> Inputs:
    """Read all files and bring them to the sampled states; quotas are those of the log, or of the two tables."""
    spec = config.requests
    states, _ = load_scores(config.truth.files[0], spec, config.truth.column)
    if config.states and config.quotas:
        demand, kept = read_demand(config.states, config.quotas, spec, states)
        states = states.iloc[kept].reset_index(drop=True)
        demand = Demand(demand.states[kept], demand.actions)
        logged = None
    elif config.log:
        states, demand, logged = _sampled_log(config, spec, states)
    else:
        raise UserError("config: neither 'log' nor both 'states' and 'quotas' are given; expected one of the two")
    truth = mean_scores(config.truth, spec, states)
    models = {
        name: load_source(source, spec, states)
        for name, source in progress(config.models.items(), what="score files", unit="model")
    }
    costs = total(load_costs(config.costs, spec, states)) if config.costs else None
    model_costs = total(load_costs(config.model_costs, spec, states)) if config.model_costs else costs
    return Inputs(spec, states, demand, truth, models, costs, model_costs, logged)


def _sampled_log(
    config: RunConfig, spec: RequestSpec, states: pd.DataFrame
) -> tuple[pd.DataFrame, Demand, pd.DataFrame]:
    """A seeded sample of the truth's states that the log visits, with the log's requests in them."""
    assert config.log is not None
    frame = spec.read(config.log)
    demand, at = demand_of_log(frame, spec, states)
    visited = np.nonzero(demand.states)[0]
    if config.sample_states is not None and config.sample_states < len(visited):
        generator = numpy_generator(config.seed, "revenue_sim", "states")
        visited = np.sort(generator.choice(visited, config.sample_states, replace=False))
    position = np.full(len(states) + 1, -1)  # the last slot is for requests in no state of the scores
    position[visited] = np.arange(len(visited))
    row = position[at]
    inside = row >= 0
    joint = spec.joint_index(frame[inside])
    logged = pd.DataFrame({"row": row[inside], "joint": joint, "reward": frame[spec.reward].to_numpy()[inside]})
    uses = np.bincount(joint, minlength=spec.n_joint)
    return states.iloc[visited].reset_index(drop=True), Demand(demand.states[visited], uses), logged


def _judge_all(inputs: Inputs) -> tuple[Judged, dict[str, Judged]]:
    """The truth's own allocations, then every model's."""
    truth = judge([inputs.truth], inputs)
    judged = {}
    for name, seeds in progress(inputs.models.items(), what="quotas", unit="model"):
        judged[name] = judge(seeds, inputs, truth)
    return truth, judged


def judge(seeds: list[np.ndarray], inputs: Inputs, truth: Judged | None = None) -> Judged:
    """Greedy and optimal allocation by each seed's scores (S, A), counted in the truth's numbers."""
    judged = Judged()
    for scores in seeds:
        greedy = quota.greedy(scores, inputs.demand.states, inputs.demand.actions)
        best = quota.optimal(scores, inputs.demand.states, inputs.demand.actions)
        judged.first = judged.first or greedy
        judged.greedy_by_state.append(greedy.by_state(inputs.truth))
        judged.optimal_by_state.append(best.by_state(inputs.truth))
        base = truth or judged
        judged.greedy_pct.append(return_pct(judged.greedy_by_state[-1], base.greedy_by_state[0]))
        judged.optimal_pct.append(return_pct(judged.optimal_by_state[-1], base.optimal_by_state[0]))
        judged.spearman.append(inputs.ranks.spearman(scores))
        judged.spearman_within.append(inputs.ranks.spearman_within(scores))
    return judged


def _returns_table(
    config: RunConfig, inputs: Inputs, truth: Judged, judged: dict[str, Judged], generator: np.random.Generator
) -> pd.DataFrame:
    """One row per model and training seed, and one row ``mean`` per model with intervals."""
    rows: list[dict[str, Any]] = []
    for name, one in judged.items():
        per_seed = {
            "greedy": one.greedy_pct,
            "optimal": one.optimal_pct,
            "spearman": one.spearman,
            "spearman_within": one.spearman_within,
        }
        for seed, file in enumerate(config.models[name].files):
            rows.append({"model": name, "seed": str(seed), "file": file} | {k: v[seed] for k, v in per_seed.items()})
        greedy, best = (
            return_interval(
                of_model, of_truth[0], generator, draws=config.bootstrap_draws, confidence=config.confidence
            )
            for of_model, of_truth in (
                (one.greedy_by_state, truth.greedy_by_state),
                (one.optimal_by_state, truth.optimal_by_state),
            )
        )
        rows.append(
            {"model": name, "seed": "mean", "file": ""}
            | {key: float(np.mean(values)) for key, values in per_seed.items()}
            | {"ci_low": greedy[0], "ci_high": greedy[1], "optimal_ci_low": best[0], "optimal_ci_high": best[1]}
        )
    return pd.DataFrame(rows)


def _summary(
    config: RunConfig,
    inputs: Inputs,
    truth: Judged,
    judged: dict[str, Judged],
    table: pd.DataFrame,
    curves: Curves | None,
) -> dict[str, Any]:
    means = table[table["seed"] == "mean"].set_index("model")
    numbers = ["greedy", "optimal", "ci_low", "ci_high", "optimal_ci_low", "optimal_ci_high"]
    summary: dict[str, Any] = {
        "return_pct": {name: {key: float(means.loc[name, key]) for key in numbers} for name in judged},
        "spearman": {name: float(means.loc[name, "spearman"]) for name in judged},
        "spearman_within": {name: float(means.loc[name, "spearman_within"]) for name in judged},
        "greedy_gap_pct": 100.0 * (1.0 - truth.greedy_by_state[0].sum() / truth.optimal_by_state[0].sum()),
        "return_vs_spearman": {
            "models": len(means),
            "greedy_overall": pearson(means["greedy"].to_list(), means["spearman"].to_list()),
            "greedy_within": pearson(means["greedy"].to_list(), means["spearman_within"].to_list()),
            "optimal_overall": pearson(means["optimal"].to_list(), means["spearman"].to_list()),
            "optimal_within": pearson(means["optimal"].to_list(), means["spearman_within"].to_list()),
        },
        "states": len(inputs.states),
        "requests": int(inputs.demand.states.sum()),
        "truth_bucket_spearman": _truth_bucket_spearman(config, inputs),
        "seed": config.seed,
    }
    return summary | (curves.summary if curves is not None else {})


def _truth_bucket_spearman(config: RunConfig, inputs: Inputs) -> float | None:
    """Rank correlation of the truth with the log's observed revenue, over buckets of requests."""
    if inputs.logged is None:
        return None
    logged = inputs.logged
    predicted = inputs.truth[logged["row"].to_numpy(), logged["joint"].to_numpy()]
    return bucket_spearman(predicted, logged["reward"].to_numpy(), config.buckets)


def _mix(config: RunConfig, inputs: Inputs, truth: Judged, judged: dict[str, Judged]) -> pd.DataFrame:
    """Action mix of every model (first seed) under quotas and, with costs, under the price that meets the budget."""
    parts = []
    scores = {"truth": inputs.truth} | {name: seeds[0] for name, seeds in inputs.models.items()}
    for name, one in ({"truth": truth} | judged).items():
        assert one.first is not None
        flow = one.first
        parts.append(action_mix(inputs.spec, inputs.states, flow.state, flow.action, flow.count, name, "quota"))
        if inputs.costs is None or inputs.model_costs is None:
            continue
        counts = inputs.demand.states
        budget = reference_budget(config, inputs) * counts.sum()
        choice = allocate(scores[name], inputs.model_costs, budget, counts, threads=config.threads).choice
        rows = np.arange(len(counts))
        parts.append(action_mix(inputs.spec, inputs.states, rows, choice, counts, name, "price"))
    return pd.concat(parts, ignore_index=True)


def reference_budget(config: RunConfig, inputs: Inputs) -> float:
    """Core-ms per request: the configured budget, or a third of the way from the least cost to where λ reaches 0."""
    if config.budget is not None:
        return check_budget(config.budget)
    assert inputs.costs is not None
    rows, weight = np.arange(len(inputs.truth)), inputs.demand.states / inputs.demand.states.sum()
    least = float(weight @ inputs.costs.min(axis=1))
    free = float(weight @ inputs.costs[rows, inputs.truth.argmax(axis=1)])
    return least + (free - least) / 3.0


if __name__ == "__main__":
    run_cli(run, RunConfig, default_config="configs/revenue_sim/run.yaml", default_out="runs/revenue_sim")
