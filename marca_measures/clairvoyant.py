"""What could be earned: the clairvoyant allocation at budgets per service.

A small, exact linear programme for evaluation and for checking the world; serving-size allocation is not done here.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numba import njit
from scipy.optimize import linprog

from marca_common.arrays import require_shape
from marca_common.errors import UserError


@dataclass(frozen=True)
class Optimum:
    """The best that a budget allows."""

    value: float  # money per request; the linear programme's optimum, which a mixture at the margin reaches
    lambda_: np.ndarray  # dual prices, money per core-ms (services,)


def clairvoyant(
    values: np.ndarray,
    costs: np.ndarray,
    budget: np.ndarray,
    weights: np.ndarray | None = None,
    tolerance: float = 1e-5,
) -> Optimum:
    """LP value of Eqs. 2–5 per request, by cutting planes on the dual ``g(λ) = mean max_a(Q − λC) + λ·budget``.

    ``values`` (S, A), ``costs`` (S, A, services), ``budget`` (services,) core-ms per request, ``weights`` (S,) of
    states. A budget below every state's cheapest action is a UserError.
    """
    require_shape("values", values, (None, None))
    require_shape("costs", costs, (*values.shape, len(np.atleast_1d(budget))))
    if weights is not None:
        require_shape("weights", weights, (len(values),))
    weights = np.full(len(values), 1.0 / len(values)) if weights is None else weights / weights.sum()
    budget = np.asarray(budget, dtype=float)
    _require_feasible(costs, budget, weights)
    values, costs = np.ascontiguousarray(values, np.float32), np.ascontiguousarray(costs, np.float32)
    n = len(budget)
    lambda_, best = np.zeros(n), np.inf
    best_lambda, slopes, offsets = lambda_, [], []
    top = 100.0 * float(np.abs(values).max()) / np.maximum(costs.min(axis=(0, 1)), 1e-6)
    for _ in range(200):
        value, spent = _dual_point(values, costs, weights, lambda_)
        upper = value + lambda_ @ (budget - spent)
        if upper < best:
            best, best_lambda = upper, lambda_
        slopes.append(budget - spent)
        offsets.append(value)
        cut = linprog(
            [1.0, *np.zeros(n)],
            A_ub=np.column_stack([-np.ones(len(slopes)), np.array(slopes)]),
            b_ub=-np.array(offsets),
            bounds=[(None, None), *((0, high) for high in top)],
        )
        if best - cut.x[0] <= tolerance * abs(best):
            break
        centre = cut.x[1:]
        lambda_ = 0.7 * centre + 0.3 * best_lambda if len(slopes) > 3 else centre
    return Optimum(float(best), best_lambda)


@njit(cache=True, nogil=True)
def _dual_point(
    values: np.ndarray, costs: np.ndarray, weights: np.ndarray, lambda_: np.ndarray
) -> tuple[float, np.ndarray]:
    """Mean value of every state's best action under the prices, and its mean cost (services,)."""
    total, spent = 0.0, np.zeros(len(lambda_))
    for s in range(values.shape[0]):
        best, arg = -np.inf, 0
        for a in range(values.shape[1]):
            gain = float(values[s, a])
            for j in range(len(lambda_)):
                gain -= lambda_[j] * costs[s, a, j]
            if gain > best:
                best, arg = gain, a
        total += weights[s] * values[s, arg]
        for j in range(len(lambda_)):
            spent[j] += weights[s] * costs[s, arg, j]
    return total, spent


def _require_feasible(costs: np.ndarray, budget: np.ndarray, weights: np.ndarray) -> None:
    least = (costs.min(axis=1) * weights[:, None] / weights.sum()).sum(axis=0)
    if (least > budget).any():
        raise UserError(
            f"budget: got {np.round(budget, 4)} core-ms per request; the cheapest actions need {np.round(least, 4)}"
        )
