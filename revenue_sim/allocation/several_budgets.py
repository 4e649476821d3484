"""Allocations under several budgets at once: a price per service.

The dual of Eqs. 2–5 with D budgets, ``g(λ) = λ·B + Σ max_a (Q − λ·C)``, is convex in D prices and bounds every choice from
above. A level bundle method finds its minimum in a dozen passes over the rows. Near it only rows whose second-best
action is almost as good can matter: a linear programme over these core rows meets the budgets, and what is left
fractional, at most D rows, is rounded by trying the combinations.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy.sparse as sparse
from scipy.optimize import linprog

from marca_common.errors import UserError
from revenue_sim.allocation.level_bundle import minimise
from revenue_sim.allocation.priced_rows import PricedRows
from revenue_sim.allocation.repair import repair
from revenue_sim.checks import check_counts, check_finite, check_matrix

CORE_ROWS = 1000  # rows of the linear programme at first; doubled while it cannot meet the budgets
CORE_ROUNDS = 4  # times prices and core are renewed from the linear programme's duals
PASSES = 40  # passes over the rows at most
CANDIDATES = 12  # actions kept of a core row


@dataclass(frozen=True)
class SeveralAllocation:
    """One action per row within all budgets, and a bound on what any choice could earn."""

    choice: np.ndarray  # int64 (S,)
    lambda_: np.ndarray  # price of each budget (D,)
    value: float  # Σ count·Q
    cost: np.ndarray  # Σ count·C per budget (D,), never over it
    bound: float  # dual bound: no choice earns more
    passes: int  # passes over the rows

    @property
    def gap(self) -> float:
        """How much the best choice could earn more, at most."""
        return max(0.0, self.bound - self.value)


def allocate_several(
    values: np.ndarray,
    costs: np.ndarray,
    budgets: np.ndarray,
    counts: np.ndarray | None = None,
    *,
    tolerance: float = 1e-6,
    threads: int | None = None,
) -> SeveralAllocation:
    """Solve Eqs. 2–5 with D budgets.

    ``values`` (S, A); ``costs`` (S, A, D); ``budgets`` (D,) total cost per service; ``counts`` (S,) requests per row (one each
    by default). ``tolerance``: relative gap at which the search for prices stops.

    Raises UserError as ``allocate`` does; budgets that cannot be met together are named with the prices that prove it.
    """
    values, costs, counts = _checked(values, costs, counts)
    budgets = np.asarray(budgets, dtype=np.float64)
    if budgets.shape != (costs.shape[2],):
        raise UserError(f"budget: got shape {budgets.shape}; expected ({costs.shape[2]},), one per cost")
    if not (np.isfinite(budgets).all() and (budgets > 0).all()):
        raise UserError(f"budget: got {budgets.tolist()}; expected positive numbers")
    rows = PricedRows(values, costs, counts, threads)
    _refuse_impossible(rows, budgets)
    prices, bound = minimise(lambda point: _dual(rows, budgets, point), np.zeros(len(budgets)), tolerance, PASSES)
    return _primal(rows, budgets, prices / budgets, bound, tolerance)


def _dual(rows: PricedRows, budgets: np.ndarray, scaled: np.ndarray) -> tuple[float, np.ndarray]:
    """Dual value and subgradient at prices given as λ·B per budget, in money."""
    worth, cost = rows.price(scaled / budgets)
    return float(scaled.sum()) + worth, 1.0 - cost / budgets


def _refuse_impossible(rows: PricedRows, budgets: np.ndarray) -> None:
    least = rows.counts @ rows.costs.min(axis=1).astype(np.float64)
    if (least > budgets).any():
        raise UserError(f"budget: got {budgets.tolist()}; the least possible costs are {least.tolist()}")
    # Together: phase 1 is the same dual with all values 0; below zero it proves that no choice meets all budgets.
    prices, worst = np.ones(len(budgets)) / len(budgets), 0.0
    for _ in range(30):
        worth, cost = rows.price(prices / budgets, weight=0.0)
        worst = min(worst, prices.sum() + worth)
        if (cost <= budgets).all():
            return
        if worst < -1e-9:
            shown = ", ".join(f"{price:.3g}" for price in prices / budgets)
            raise UserError(
                f"budget: got {budgets.tolist()}; each can be met, not all together (prices {shown} prove it)"
            )
        prices = np.maximum(prices * np.exp(np.clip(cost / budgets - 1.0, -1, 1)), 1e-9)
        prices /= prices.sum()


def _primal(
    rows: PricedRows, budgets: np.ndarray, prices: np.ndarray, bound: float, tolerance: float
) -> SeveralAllocation:
    """A choice within the budgets, from linear programmes over core rows; their duals also sharpen the bound."""
    best_choice, best_value, size, best_prices = None, -np.inf, CORE_ROWS, prices
    for _ in range(CORE_ROUNDS):
        worth, _ = rows.price(prices)
        if worth + float(prices @ budgets) <= bound:
            bound, best_prices = worth + float(prices @ budgets), prices
        choice, duals, tried = _core_choice(rows, budgets, prices, size)
        size = max(size, tried)
        choice = repair(rows, budgets, prices, rows.choice.copy() if choice is None else choice)
        if choice is not None:
            value, _ = rows.totals(choice)
            if value > best_value:
                best_choice, best_value = choice, value
        if duals is None or bound - best_value <= tolerance * abs(bound) or np.allclose(duals, prices, rtol=1e-9):
            break
        prices = duals
    if best_choice is None:
        raise UserError(f"budget: got {budgets.tolist()}; no choice of whole rows was found that meets all of them")
    value, cost = rows.totals(best_choice)
    return SeveralAllocation(best_choice, best_prices, value, cost, max(bound, value), rows.passes)


def _core_choice(
    rows: PricedRows, budgets: np.ndarray, prices: np.ndarray, size: int
) -> tuple[np.ndarray | None, np.ndarray | None, int]:
    """Choice that the linear programme over the core rows makes (rounded, perhaps over a budget) and its prices."""
    total = len(rows.values)
    while True:
        core = np.argsort(rows.second, kind="stable")[: min(size, total)]
        outside = np.ones(total, dtype=bool)
        outside[core] = False
        _, all_cost = rows.totals(rows.choice)
        at = np.arange(total)[core]
        core_cost = rows.counts[core] @ rows.costs[at, rows.choice[core]].astype(np.float64)
        solved = _core_programme(rows, budgets - (all_cost - core_cost), prices, core)
        if solved is not None:
            picked, duals = solved
            choice = rows.choice.copy()
            choice[core] = picked
            return choice, duals, size
        if size >= total:
            return None, None, size
        size *= 4


def _core_programme(
    rows: PricedRows, room: np.ndarray, prices: np.ndarray, core: np.ndarray
) -> tuple[np.ndarray, np.ndarray] | None:
    """Best mixture per core row within ``room``; each row's largest part is picked. None: no mixture fits."""
    values = rows.values[core].astype(np.float64) * rows.counts[core, None]  # (R, A)
    costs = rows.costs[core].astype(np.float64) * rows.counts[core, None, None]  # (R, A, D)
    keep = min(CANDIDATES, values.shape[1])
    actions = np.argpartition(-(values - costs @ prices), keep - 1, axis=1)[:, :keep]
    cheapest = (costs @ np.maximum(prices, 1e-12 * max(prices.max(), 1.0))).argmin(axis=1)
    actions = np.concatenate([actions, cheapest[:, None]], axis=1)  # (R, keep + 1)
    at = np.arange(len(core))[:, None]
    value, cost = values[at, actions], costs[at, actions]
    scale, unit = max(np.abs(value).max(), 1e-300), np.maximum(np.abs(cost).max(axis=(0, 1)), 1e-300)
    size = actions.size
    one_each = sparse.csr_matrix((np.ones(size), (np.repeat(np.arange(len(core)), actions.shape[1]), np.arange(size))))
    solved = linprog(
        -value.ravel() / scale,
        A_ub=sparse.csr_matrix((cost / unit).reshape(size, -1).T),
        b_ub=room / unit,
        A_eq=one_each,
        b_eq=np.ones(len(core)),
        bounds=(0, 1),
        method="highs-ds",
    )
    if solved.status != 0:
        return None
    share = solved.x.reshape(actions.shape)
    duals = np.maximum(0.0, -solved.ineqlin.marginals) * scale / unit
    return actions[np.arange(len(core)), share.argmax(axis=1)], duals


def _checked(
    values: np.ndarray, costs: np.ndarray, counts: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    values, costs = check_matrix("values", values), np.asarray(costs)
    if costs.ndim != 3 or costs.shape[:2] != values.shape or costs.shape[2] == 0:
        raise UserError(f"costs: got shape {costs.shape}; expected {(*values.shape, 'budgets')}")
    dtype = np.float32 if values.dtype == np.float32 and costs.dtype == np.float32 else np.float64
    values, costs = np.ascontiguousarray(values, dtype), np.ascontiguousarray(costs, dtype)
    check_finite("values", values)
    check_finite("costs", costs)
    return values, costs, check_counts(counts, len(values))
