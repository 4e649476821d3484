"""The best mixture of fixed joint actions: what a system without per-request decisions can reach.

A single fixed action is a staircase in the budget, and a poor rival. Mixing two fixed actions at random is the upper
hull of (mean cost, mean value); with several budgets it is a small linear programme with as many actions as budgets plus
one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import linprog

from marca_common.errors import UserError


@dataclass(frozen=True)
class StaticMixture:
    """Joint actions and the share of requests that get each, whoever asks."""

    actions: np.ndarray  # int64 (m,)
    weights: np.ndarray  # float64 (m,), sum 1
    value: float  # mean value per request
    cost: np.ndarray  # mean cost per request and budget (D,)
    lambda_: np.ndarray  # worth of one more unit of each budget (D,)

    def mean(self, by_action: np.ndarray) -> np.ndarray:
        """Mean per request of numbers per joint action, (A,) or (A, D)."""
        return np.asarray(self.weights @ by_action[self.actions])

    def draw(self, uniforms: np.ndarray) -> np.ndarray:
        """Joint action of each request from its uniform number in [0, 1), int64 (M,)."""
        edges = np.cumsum(self.weights)
        return self.actions[np.minimum(np.searchsorted(edges, uniforms, side="right"), len(self.actions) - 1)]


def static_mixture(
    values_by_action: np.ndarray, costs_by_action: np.ndarray, budget: float | Sequence[float] | np.ndarray
) -> StaticMixture:
    """Best mixture of fixed joint actions with mean cost within ``budget`` per request.

    ``values_by_action`` (A,) mean value per request; ``costs_by_action`` (A,) or (A, D) for D budgets; ``budget`` a number or (D,).
    Raises UserError when no mixture fits, naming the least possible cost.
    """
    values = np.asarray(values_by_action, dtype=np.float64)
    costs = np.asarray(costs_by_action, dtype=np.float64).reshape(len(values), -1)  # (A, D)
    budgets = np.atleast_1d(np.asarray(budget, dtype=np.float64))
    _check(values, costs, budgets)
    scale_v, scale_c = max(np.abs(values).max(), 1e-300), np.maximum(np.abs(costs).max(axis=0), 1e-300)
    solved = linprog(
        -values / scale_v,
        A_ub=(costs / scale_c).T,
        b_ub=budgets / scale_c,
        A_eq=np.ones((1, len(values))),
        b_eq=[1.0],
        bounds=(0, None),
        method="highs-ds",
    )
    if solved.status == 2:
        least = ", ".join(f"{number:.6g}" for number in costs.min(axis=0))
        raise UserError(f"budget: got {budgets.tolist()}; no mixture fits, the least possible costs are {least}")
    if solved.status != 0:
        raise UserError(f"budget: the mixture could not be solved: {solved.message}")
    actions = np.nonzero(solved.x > 1e-12)[0]
    weights = solved.x[actions] / solved.x[actions].sum()
    return StaticMixture(
        actions=actions.astype(np.int64),
        weights=weights,
        value=float(weights @ values[actions]),
        cost=weights @ costs[actions],
        lambda_=np.maximum(0.0, -solved.ineqlin.marginals) * scale_v / scale_c,
    )


def _check(values: np.ndarray, costs: np.ndarray, budgets: np.ndarray) -> None:
    if values.ndim != 1 or len(values) == 0:
        raise UserError(f"values: got shape {values.shape}; expected one mean value per joint action")
    if budgets.shape != (costs.shape[1],):
        raise UserError(f"budget: got {budgets.shape[0]} numbers; expected {costs.shape[1]}")
    if not (np.isfinite(budgets).all() and (budgets > 0).all()):
        raise UserError(f"budget: got {budgets.tolist()}; expected positive numbers")
    if not (np.isfinite(values).all() and np.isfinite(costs).all()):
        raise UserError("values or costs by action: expected finite numbers")
