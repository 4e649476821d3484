"""Allocations under several budgets at once: a price per service, and data centres each with budgets of their own.

The dual of Eqs. 2–5 with K budgets, ``g(λ) = λ·B + Σ max_a (Q − λ·C)``, is convex in K prices and bounds every choice from
above. A level bundle method finds its minimum in a dozen passes over the rows. Near it only rows whose second-best
action is almost as good can matter: a linear programme over these core rows meets the budgets, and what is left
fractional, at most K rows, is rounded by trying the combinations.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy.sparse as sparse
from numba import njit
from scipy.optimize import linprog

from marca_common.errors import UserError
from revenue_sim.allocation.budget_curve import check_counts, run_chunks
from revenue_sim.allocation.level_bundle import minimise
from revenue_sim.allocation.repair import repair

CORE_ROWS = 1000  # rows of the linear programme at first; doubled while it cannot meet the budgets
CORE_ROUNDS = 4  # times prices and core are renewed from the linear programme's duals
CANDIDATES = 12  # actions kept of a core row


@dataclass(frozen=True)
class SeveralAllocation:
    """One action per row within all budgets, and a bound on what any choice could earn."""

    choice: np.ndarray  # int64 (S,)
    lambda_: np.ndarray  # price of each budget (K,), or (G, K) with groups
    value: float  # Σ count·Q
    cost: np.ndarray  # Σ count·C per budget, (K,) or (G, K), never over it
    bound: float  # dual bound: no choice earns more
    passes: int  # passes over the rows

    @property
    def gap(self) -> float:
        """How much the best choice could earn more, at most."""
        return max(0.0, self.bound - self.value)


class Rows:
    """Checked arrays and the passes over them."""

    def __init__(self, values: np.ndarray, costs: np.ndarray, counts: np.ndarray, threads: int | None) -> None:
        self.values, self.costs, self.counts, self.threads = values, costs, counts, threads
        self.choice, self.second = np.zeros(len(values), np.int64), np.zeros(len(values))
        self.passes = 0

    def price(self, prices: np.ndarray, weight: float = 1.0) -> tuple[float, np.ndarray]:
        """Σ count·(weight·Q − λ·C) and Σ count·C (K,) of the best actions; leaves them in ``choice``, runners-up's loss in ``second``."""
        parts = run_chunks(
            lambda start, stop: _price_rows(
                self.values, self.costs, self.counts, start, stop, prices, weight, self.choice, self.second
            ),
            len(self.values),
            self.threads,
        )
        sums = np.sum(list(parts), axis=0)
        self.passes += 1
        return float(sums[0]), sums[1:]

    def totals(self, choice: np.ndarray) -> tuple[float, np.ndarray]:
        """Value and costs of any choice."""
        rows = np.arange(len(choice))
        value = float(self.counts @ self.values[rows, choice].astype(np.float64))
        return value, self.counts @ self.costs[rows, choice].astype(np.float64)


def allocate_several(
    values: np.ndarray,
    costs: np.ndarray,
    budgets: np.ndarray,
    counts: np.ndarray | None = None,
    *,
    groups: np.ndarray | None = None,
    tolerance: float = 1e-6,
    max_passes: int = 40,
    threads: int | None = None,
) -> SeveralAllocation:
    """Solve Eqs. 2–5 with K budgets.

    ``values`` (S, A); ``costs`` (S, A, K); ``budgets`` (K,) total cost per service. ``groups`` (S,) with ``budgets`` (G, K) gives every
    data centre its own budgets; they do not interact. ``tolerance``: relative gap at which the search for prices stops.

    Raises UserError as ``allocate`` does; budgets that cannot be met together are named with the prices that prove it.
    """
    values, costs, counts = _checked(values, costs, counts)
    budgets = np.asarray(budgets, dtype=np.float64)
    if groups is not None:
        return _by_group(values, costs, budgets, counts, np.asarray(groups), tolerance, max_passes, threads)
    if budgets.shape != (costs.shape[2],):
        raise UserError(f"budget: got shape {budgets.shape}; expected ({costs.shape[2]},), one per cost")
    if not (np.isfinite(budgets).all() and (budgets > 0).all()):
        raise UserError(f"budget: got {budgets.tolist()}; expected positive numbers")
    rows = Rows(values, costs, counts, threads)
    _refuse_impossible(rows, budgets)
    prices, bound = minimise(lambda point: _dual(rows, budgets, point), _start(rows, budgets), tolerance, max_passes)
    return _primal(rows, budgets, prices / budgets, bound, tolerance)


def _dual(rows: Rows, budgets: np.ndarray, scaled: np.ndarray) -> tuple[float, np.ndarray]:
    """Dual value and subgradient at prices given as λ·B per budget, in money."""
    worth, cost = rows.price(scaled / budgets)
    return float(scaled.sum()) + worth, 1.0 - cost / budgets


def _start(rows: Rows, budgets: np.ndarray) -> np.ndarray:
    """Prices of a small sample under one budget that adds all costs up, each in shares of its own budget."""
    from revenue_sim.allocation.budget_curve import budget_curve

    part = np.linspace(0, len(rows.values) - 1, min(len(rows.values), 500)).astype(int)
    share = rows.counts[part].sum() / max(rows.counts.sum(), 1e-300)
    surrogate = (rows.costs[part] / budgets).sum(axis=2)
    curve = budget_curve(rows.values[part], surrogate, rows.counts[part])
    total = max(len(budgets) * share, float(curve.cost[0]))
    _, price = curve.at(total)
    return np.full(len(budgets), price[0] if np.isfinite(price[0]) else 0.0)


def _refuse_impossible(rows: Rows, budgets: np.ndarray) -> None:
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


def _primal(rows: Rows, budgets: np.ndarray, prices: np.ndarray, bound: float, tolerance: float) -> SeveralAllocation:
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
    rows: Rows, budgets: np.ndarray, prices: np.ndarray, size: int
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
    rows: Rows, room: np.ndarray, prices: np.ndarray, core: np.ndarray
) -> tuple[np.ndarray, np.ndarray] | None:
    """Best mixture per core row within ``room``; each row's largest part is picked. None: no mixture fits."""
    values = rows.values[core].astype(np.float64) * rows.counts[core, None]  # (R, A)
    costs = rows.costs[core].astype(np.float64) * rows.counts[core, None, None]  # (R, A, K)
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


def _by_group(values, costs, budgets, counts, groups, tolerance, max_passes, threads) -> SeveralAllocation:
    """Each group under its own budgets; bounds and values add up."""
    if budgets.ndim != 2 or budgets.shape[1] != costs.shape[2]:
        raise UserError(f"budget: got shape {budgets.shape}; expected (groups, {costs.shape[2]})")
    if groups.shape != (len(values),) or groups.min() < 0 or groups.max() >= len(budgets):
        raise UserError(f"groups: expected {len(values)} numbers from 0 to {len(budgets) - 1}")
    choice = np.zeros(len(values), dtype=np.int64)
    prices, cost = np.zeros_like(budgets), np.zeros_like(budgets)
    value, bound, passes = 0.0, 0.0, 0
    for group in range(len(budgets)):
        rows = np.nonzero(groups == group)[0]
        if len(rows) == 0:
            continue
        options = {"tolerance": tolerance, "max_passes": max_passes, "threads": threads}
        part = allocate_several(values[rows], costs[rows], budgets[group], counts[rows], **options)
        choice[rows], prices[group], cost[group] = part.choice, part.lambda_, part.cost
        value, bound, passes = value + part.value, bound + part.bound, passes + part.passes
    return SeveralAllocation(choice, prices, value, cost, bound, passes)


def _checked(values, costs, counts) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    values, costs = np.asarray(values), np.asarray(costs)
    if values.ndim != 2 or 0 in values.shape:
        raise UserError(f"values: got shape {values.shape}; expected (states, actions), at least one of each")
    if costs.ndim != 3 or costs.shape[:2] != values.shape or costs.shape[2] == 0:
        raise UserError(f"costs: got shape {costs.shape}; expected {(*values.shape, 'budgets')}")
    dtype = np.float32 if values.dtype == np.float32 and costs.dtype == np.float32 else np.float64
    values, costs = np.ascontiguousarray(values, dtype), np.ascontiguousarray(costs, dtype)
    for name, array in (("values", values), ("costs", costs)):
        if not np.isfinite(array.sum(dtype=np.float64)) and not np.isfinite(array).all():
            row, action = np.argwhere(~np.isfinite(array))[0][:2]
            raise UserError(
                f"{name}: row {row + 1}, joint action {action}: got {array[row, action]}; expected finite numbers"
            )
    return values, costs, check_counts(counts, len(values))


@njit(nogil=True, cache=True)
def _price_rows(values, costs, counts, start, stop, prices, weight, choice, second):
    """Best action of each row under the prices; returns Σ count·worth and Σ count·C, and fills choice and second."""
    budgets = costs.shape[2]
    sums = np.zeros(1 + budgets)
    for i in range(start, stop):
        best, runner, chosen = -np.inf, -np.inf, 0
        for a in range(values.shape[1]):
            worth = weight * values[i, a]
            for k in range(budgets):
                worth -= prices[k] * costs[i, a, k]
            if worth > best:
                best, runner, chosen = worth, best, a
            elif worth > runner:
                runner = worth
        choice[i], second[i] = chosen, counts[i] * (best - runner)
        sums[0] += counts[i] * best
        for k in range(budgets):
            sums[1 + k] += counts[i] * costs[i, chosen, k]
    return sums
