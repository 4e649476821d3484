"""Budget-revenue curves: what each model's decisions would really earn and cost, against the clairvoyant's."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from marca_common.errors import UserError
from marca_measures.static_mixture import static_mixture
from revenue_sim.allocation.budget_curve import budget_curve
from revenue_sim.allocation.one_budget import allocate
from revenue_sim.allocation.result import Allocation
from revenue_sim.allocation.whole_rows import best_whole_rows
from revenue_sim.config import RunConfig
from revenue_sim.judging.inputs import Inputs, reference_budget


@dataclass(frozen=True)
class Curves:
    """Value per request at each budget, and the numbers at the reference budget."""

    table: pd.DataFrame  # budget, strategy, value, lambda
    reference: float  # core-ms per request
    choice: np.ndarray  # int64 (S,): the truth's choice at that budget
    summary: dict[str, Any]


def budget_curves(config: RunConfig, inputs: Inputs) -> Curves | None:
    """Curves over budgets in core-ms per request; None without true costs.

    ``clairvoyant`` decides with the truth; ``static`` is the best mixture of fixed actions known in truth; a model decides
    with its own scores and the decision costs, counted in true values at true costs, mean over its seeds.
    """
    if inputs.costs is None or inputs.model_costs is None:
        return None
    counts = inputs.demand.states.astype(np.float64)
    requests = counts.sum()
    reference = reference_budget(config, inputs)
    best = budget_curve(inputs.truth, inputs.costs, counts, threads=config.threads)
    if reference * requests < best.cost[0]:
        raise UserError(f"budget: got {reference:.6g}; the least possible cost is {best.cost[0] / requests:.6g}")
    low, high = best.cost[0] / requests, max(best.cost[-1] / requests, reference)
    budgets = np.unique(np.concatenate([np.linspace(low, high, config.curve_budgets), [reference]]))
    value, price = best.at(budgets * requests)
    rows = {"clairvoyant": (value / requests, price), "static": _static(inputs, counts, budgets)}
    for name, seeds in inputs.models.items():
        rows[name] = _model_curve(config, inputs, counts, seeds, budgets * requests)
    parts = [
        pd.DataFrame({"budget": budgets, "strategy": name, "value": value, "lambda": price})
        for name, (value, price) in rows.items()
    ]
    table = pd.concat(parts, ignore_index=True)
    solved = allocate(inputs.truth, inputs.costs, reference * requests, counts, threads=config.threads)
    summary = _at_reference(inputs, table, reference, solved)
    if config.integral:
        limit = config.integral_time_limit_s
        whole = best_whole_rows(inputs.truth, inputs.costs, counts, reference * requests, solved, limit)
        summary["whole_rows"] = {
            "value": whole.value / requests,
            "gap": 1.0 - whole.value / whole.bound,
            "status": whole.status,
        }
    return Curves(table, reference, solved.choice, summary)


def _model_curve(
    config: RunConfig, inputs: Inputs, counts: np.ndarray, seeds: list[np.ndarray], totals: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Mean over seeds of true value per request and of the price at each total true cost."""
    assert inputs.model_costs is not None
    true: dict[str, Any] = {"true_values": inputs.truth, "true_costs": inputs.costs, "threads": config.threads}
    points = [budget_curve(scores, inputs.model_costs, counts, **true).at(totals) for scores in seeds]
    value, price = (np.mean(one, axis=0) for one in zip(*points))
    return value / counts.sum(), price


def _static(inputs: Inputs, counts: np.ndarray, budgets: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Value and price of the best mixture of fixed actions at each budget per request; NaN where none fits."""
    assert inputs.costs is not None
    weight = counts / counts.sum()
    values, costs = weight @ inputs.truth.astype(np.float64), weight @ inputs.costs.astype(np.float64)
    value, price = np.full(len(budgets), np.nan), np.full(len(budgets), np.nan)
    for i, budget in enumerate(budgets):
        if budget >= costs.min():
            mixture = static_mixture(values, costs, budget)
            value[i], price[i] = mixture.value, mixture.lambda_[0]
    return value, price


def _at_reference(inputs: Inputs, table: pd.DataFrame, reference: float, solved: Allocation) -> dict[str, Any]:
    """λ, the gap of the whole-row choice to the LP bound, and each model's share of the clairvoyant's uplift over static."""
    at = table[table["budget"] == reference].set_index("strategy")["value"]
    uplift = float(at["clairvoyant"] - at["static"])
    return {
        "budget": reference,
        "lambda": solved.lambda_,
        "lp_gap": solved.gap / solved.bound if solved.bound > 0 else 0.0,
        "clairvoyant_uplift_pct": 100.0 * uplift / float(at["static"]) if at["static"] > 0 else float("nan"),
        "capture_at_budget": {name: capture(at[name], at["static"], at["clairvoyant"]) for name in inputs.models},
        "value_at_budget": {str(name): float(value) for name, value in at.items()},
    }


def capture(value: float, static: float, best: float) -> float | None:
    """Share of the best's uplift over the static mixture that ``value`` gets; None where either is not known or nothing."""
    uplift = best - static
    return float((value - static) / uplift) if uplift > 1e-9 * abs(best) and not np.isnan(value) else None
