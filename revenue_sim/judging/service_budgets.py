"""Every service under a budget of its own: prices, bound, and what the truth's and the models' decisions earn there."""

from __future__ import annotations

import logging
from typing import Any

import numpy as np

from marca_common.errors import UserError
from marca_measures.static_mixture import static_mixture
from revenue_sim.allocation.several_budgets import allocate_several
from revenue_sim.config import RunConfig
from revenue_sim.judging.budget_curves import capture
from revenue_sim.judging.inputs import Inputs

log = logging.getLogger(__name__)
ROOM = 1.0 + 1e-9  # on budgets that the truth's own choice has set, so that rounding does not shut it out


def at_service_budgets(config: RunConfig, inputs: Inputs, choice: np.ndarray) -> dict[str, Any] | None:
    """The summary's ``service_budgets``: all numbers per request, counted in true values at true costs.

    ``choice`` (S,) is the truth's under the reference budget; what it spends on each service is the default budget. None where
    no budgets are given and services are not several, or decisions know others. A model that can't meet the budgets has nulls.
    """
    names = list(inputs.service_costs)
    if config.service_budgets is None and (len(names) < 2 or set(names) != set(inputs.decision_costs)):
        return None
    weight, rows = inputs.demand.states / inputs.demand.states.sum(), np.arange(len(inputs.truth))
    costs = np.stack(list(inputs.service_costs.values()), axis=2)  # (S, A, D)
    decided = np.stack([inputs.decision_costs[name] for name in names], axis=2)
    own = ROOM * (weight @ costs[rows, choice].astype(np.float64))
    budgets = own if config.service_budgets is None else np.array(config.service_budgets)
    best = allocate_several(inputs.truth, costs, budgets, weight, threads=config.threads)
    static = _static_value(weight @ inputs.truth.astype(np.float64), np.tensordot(weight, costs, 1), budgets)
    value, spend = {"clairvoyant": best.value, "static": static}, {"clairvoyant": best.cost}
    for name, seeds in inputs.models.items():
        try:
            choices = [allocate_several(q, decided, budgets, weight, threads=config.threads).choice for q in seeds]
        except UserError as error:
            log.warning("%s: no value at the budgets of the services: %s", name, error)
            value[name], spend[name] = float("nan"), np.full(len(names), np.nan)
            continue
        value[name] = float(np.mean([weight @ inputs.truth[rows, one] for one in choices]))
        spend[name] = np.mean([weight @ costs[rows, one] for one in choices], axis=0)
    return {
        "budget": dict(zip(names, budgets.tolist())),
        "lambda": dict(zip(names, best.lambda_.tolist())),
        "bound": best.bound,
        "gap": best.gap / best.bound if best.bound > 0 else 0.0,
        "value": value,
        "capture_at_service_budgets": {name: capture(value[name], static, best.bound) for name in inputs.models},
        "spend": {name: dict(zip(names, spent.tolist())) for name, spent in spend.items()},
    }


def _static_value(values: np.ndarray, costs: np.ndarray, budgets: np.ndarray) -> float:
    """Value per request of the best mixture of fixed actions; NaN where none fits."""
    try:
        return static_mixture(values, costs, budgets).value
    except UserError:
        return float("nan")
