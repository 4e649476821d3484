"""Judge one allocation file: what it would have earned, and how far it is from the best under the same quotas and cost."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from marca_common.cli import run_cli
from marca_common.run_folder import RunFolder
from marca_common.tables import write_table
from revenue_sim.allocation.one_budget import allocate
from revenue_sim.config import EvaluateConfig
from revenue_sim.judging.action_mix import action_mix
from revenue_sim.judging.score_files import load_costs, load_scores, mean_scores, read_allocation
from revenue_sim.judging.score_files import total as all_services
from revenue_sim.quotas import quota


@dataclass
class EvaluateResult:
    """What ``evaluate`` found; ``summary`` is also in summary.json."""

    out: Path
    summary: dict[str, Any]
    mix: pd.DataFrame


def evaluate(config: EvaluateConfig, out: str | Path) -> EvaluateResult:
    """Judge an allocation (``state, action, count``) by the truth's scores.

    Compares its true revenue with the greedy and the optimal allocation under its own quotas and, where costs are given,
    with the best allocation of the same total cost. Writes summary.json and action_mix.csv.
    """
    with RunFolder(out, config) as folder:
        spec = config.spec
        states, _ = load_scores(config.truth.files[0], spec, config.truth)
        truth = mean_scores(config.truth, spec, states)
        state, action, count = read_allocation(config.allocation, spec, states)
        counts = np.bincount(state, weights=count, minlength=len(states)).astype(np.int64)
        uses = np.bincount(action, weights=count, minlength=spec.n_joint).astype(np.int64)

        def sum_of(matrix: np.ndarray) -> float:
            return float(count @ matrix[state, action].astype(np.float64))

        value = sum_of(truth)
        greedy, best = quota.greedy(truth, counts, uses).value(truth), quota.optimal(truth, counts, uses)
        summary: dict[str, Any] = {
            "requests": int(count.sum()),
            "value": value,
            "return_pct": {"greedy": _percent(value, greedy), "optimal": _percent(value, best.value(truth))},
            "quota_bound": best.bound,
        }
        if config.costs:
            by_service = load_costs(config.costs, spec, states)
            costs = all_services(by_service)
            solved = allocate(truth, costs, sum_of(costs), counts, threads=config.threads)
            summary["cost"] = {name: sum_of(one) for name, one in by_service.items()} | {"total": sum_of(costs)}
            summary["best_at_same_cost"] = {
                "value": solved.value,
                "bound": solved.bound,
                "lambda": solved.lambda_,
                "return_pct": _percent(value, solved.bound),
            }
        mix = action_mix(spec, states, state, action, count, "allocation", "file")
        write_table(mix, folder.path / "action_mix.csv")
        folder.write_summary(summary)
        return EvaluateResult(folder.out, summary, mix)


def _percent(value: float, best: float) -> float:
    return 100.0 * value / best if best > 0 else float("nan")


if __name__ == "__main__":
    run_cli(evaluate, EvaluateConfig, default_config="configs/revenue_sim/evaluate.yaml", default_out="runs/evaluate")
