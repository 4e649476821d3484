"""Offline revenue simulation: Return% of every model, budget-revenue curves, who gets what (§4.1.1 and Eqs. 2–6)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from marca_common.cli import run_cli
from marca_common.progress import progress
from marca_common.run_folder import RunFolder
from marca_common.seeding import numpy_generator
from marca_common.tables import write_table
from marca_measures.calibration import bucket_spearman
from marca_measures.rank_correlation import pearson
from revenue_sim.allocation.one_budget import allocate
from revenue_sim.config import RunConfig
from revenue_sim.judging import offline_figures as figures
from revenue_sim.judging.action_mix import action_mix
from revenue_sim.judging.budget_curves import Curves, budget_curves
from revenue_sim.judging.inputs import Inputs, load_inputs, reference_budget
from revenue_sim.judging.return_pct import return_interval, return_pct
from revenue_sim.judging.service_budgets import at_service_budgets
from revenue_sim.quotas import quota

KINDS = {"greedy": quota.greedy, "optimal": quota.optimal}  # allocations under quotas


@dataclass
class Judged:
    """One model under quotas: what its allocations earn in truth, per training seed."""

    numbers: dict[str, list[float]]  # Return% of each kind of allocation, spearman, spearman_within
    by_state: dict[str, list[np.ndarray]]  # kind of allocation → true revenue of each state (S,)
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
        if any(source.missing is not None for source in (config.truth, *config.models.values())):
            folder.warn(
                "pairs that a score file lacks count as what `missing` says; so they do in the rank correlations"
            )
        generator = numpy_generator(config.seed, "revenue_sim", "bootstrap")
        truth = judge([inputs.truth], inputs)
        models = progress(inputs.models.items(), what="quotas", unit="model")
        judged = {name: judge(seeds, inputs, truth) for name, seeds in models}
        table = _returns_table(config, truth, judged, generator)
        curves = budget_curves(config, inputs)
        summary = _summary(config, inputs, truth, table, curves)
        mix = _mix(config, inputs, truth, judged)
        write_table(table, folder.path / "returns.csv")
        write_table(mix, folder.path / "action_mix.csv")
        if curves is not None:
            write_table(curves.table, folder.path / "curve.csv")
        figures.write_all(folder.path, table, curves)
        folder.write_summary(summary)
        return RunResult(folder.out, summary, table, curves, mix)


def judge(seeds: list[np.ndarray], inputs: Inputs, truth: Judged | None = None) -> Judged:
    """Greedy and optimal allocation by each seed's scores (S, A), counted in the truth's numbers."""
    judged = Judged({name: [] for name in (*KINDS, "spearman", "spearman_within")}, {kind: [] for kind in KINDS})
    for scores in seeds:
        for kind, allocation in KINDS.items():
            flow = allocation(scores, inputs.demand.states, inputs.demand.actions)
            judged.first = judged.first or flow
            judged.by_state[kind].append(flow.by_state(inputs.truth))
            judged.numbers[kind].append(return_pct(judged.by_state[kind][-1], (truth or judged).by_state[kind][0]))
        judged.numbers["spearman"].append(inputs.ranks.spearman(scores))
        judged.numbers["spearman_within"].append(inputs.ranks.spearman_within(scores))
    return judged


def _returns_table(
    config: RunConfig, truth: Judged, judged: dict[str, Judged], generator: np.random.Generator
) -> pd.DataFrame:
    """One row per model and training seed, and one row ``mean`` per model with intervals."""
    rows: list[dict[str, Any]] = []
    options: dict[str, Any] = {"draws": config.bootstrap_draws, "confidence": config.confidence}
    for name, one in judged.items():
        for seed, file in enumerate(config.models[name].files):
            numbers = {key: values[seed] for key, values in one.numbers.items()}
            rows.append({"model": name, "seed": str(seed), "file": file} | numbers)
        mean: dict[str, Any] = {"model": name, "seed": "mean", "file": ""}
        mean |= {key: float(np.mean(values)) for key, values in one.numbers.items()}
        for kind, prefix in (("greedy", ""), ("optimal", "optimal_")):
            low, high = return_interval(one.by_state[kind], truth.by_state[kind][0], generator, **options)
            mean |= {f"{prefix}ci_low": low, f"{prefix}ci_high": high}
        rows.append(mean)
    return pd.DataFrame(rows)


def _summary(
    config: RunConfig, inputs: Inputs, truth: Judged, table: pd.DataFrame, curves: Curves | None
) -> dict[str, Any]:
    means = table[table["seed"] == "mean"].set_index("model")
    numbers = ["greedy", "optimal", "ci_low", "ci_high", "optimal_ci_low", "optimal_ci_high"]
    summary: dict[str, Any] = {
        "return_pct": {name: {key: float(means.loc[name, key]) for key in numbers} for name in inputs.models},
        "spearman": {name: float(means.loc[name, "spearman"]) for name in inputs.models},
        "spearman_within": {name: float(means.loc[name, "spearman_within"]) for name in inputs.models},
        "greedy_gap_pct": 100.0 * (1.0 - truth.by_state["greedy"][0].sum() / truth.by_state["optimal"][0].sum()),
        "return_vs_spearman": {"models": len(means)}
        | {
            f"{kind}_{over}": pearson(means[kind].to_list(), means[column].to_list())
            for kind in KINDS
            for over, column in (("overall", "spearman"), ("within", "spearman_within"))
        },
        "states": len(inputs.states),
        "requests": int(inputs.demand.states.sum()),
        "truth_bucket_spearman": _truth_bucket_spearman(config, inputs),
        "seed": config.seed,
    }
    if curves is not None:
        services = at_service_budgets(config, inputs, curves.choice)
        summary |= curves.summary | ({"service_budgets": services} if services is not None else {})
    return summary


def _truth_bucket_spearman(config: RunConfig, inputs: Inputs) -> float | None:
    """Rank correlation of the truth with the log's observed revenue, over buckets of requests."""
    if (logged := inputs.logged) is None:
        return None
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


if __name__ == "__main__":
    run_cli(run, RunConfig, default_config="configs/revenue_sim/run.yaml", default_out="runs/revenue_sim")
