"""Upper hulls of all rows, and the budget-revenue curve they make (Eqs. 2–6).

Each row's actions are points (cost, value). Only vertices of the row's upper hull are ever optimal under a price, and
its edges are upgrades with falling worth: slope = extra value per extra cost. Taking all rows' edges in order of slope
is the linear relaxation of the multiple-choice knapsack for every budget at once.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from marca_common.arrays import require_range, require_shape, whole_numbers
from marca_common.errors import UserError
from revenue_sim.allocation import hull_kernels as kernels
from revenue_sim.checks import check_counts, check_finite, check_matrix

T = TypeVar("T")
CHUNK = 1024  # rows a thread takes at a time
INFINITE = (0.0, 1.0)  # weights (wq, wc) of an infinite price: the cheapest action, the best of several
FREE = (1.0, 0.0)  # weights of price 0: the best action, the cheapest of several
_UNIT = {np.dtype(np.float32): 6e-7, np.dtype(np.float64): 2e-15}  # rounding of one weighted difference, with room


@dataclass(frozen=True)
class Edges:
    """Upgrades of rows between two prices, and where the rows stand at the higher one."""

    base: np.ndarray  # int64 (S,): each row's action at the higher price
    base_cost: float
    base_value: float
    row: np.ndarray  # int32 (E,)
    before: np.ndarray  # int32 (E,): action left
    after: np.ndarray  # int32 (E,): action taken up
    slope: np.ndarray  # float64 (E,): value per cost
    cost: np.ndarray  # float64 (E,): extra cost, times the row's count
    value: np.ndarray  # float64 (E,): extra value, times the row's count

    def order(self) -> np.ndarray:
        """Falling slope; equal slopes by larger cost step, so that the order of rows does not matter."""
        order = np.argsort(-self.slope)
        slope = self.slope[order]
        if (slope[1:] == slope[:-1]).any():
            return np.lexsort((-self.value, -self.cost, -self.slope))
        return order


def check_pair(values: np.ndarray, costs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Both as C-ordered arrays of one float type, costs (S, A), or (1, A) when all rows share them."""
    values, costs = check_matrix("values", values), np.asarray(costs)
    if costs.ndim == 1:
        costs = costs[None, :]
    if costs.shape not in (values.shape, (1, values.shape[1])):
        raise UserError(f"costs: got shape {costs.shape}; expected {values.shape} or ({values.shape[1]},)")
    single = values.dtype == np.float32 and costs.dtype == np.float32
    dtype = np.float32 if single else np.float64
    return np.ascontiguousarray(values, dtype), np.ascontiguousarray(costs, dtype)


def run_chunks(work: Callable[[int, int], T], rows: int, threads: int | None, size: int = CHUNK) -> list[T]:
    """``work(start, stop)`` over blocks of rows, in order; compiled work that releases the lock runs in parallel.

    ``threads`` None: as many as the processors that this process may use.
    """
    starts = range(0, rows, size)
    threads = threads or available_processors()
    if threads == 1 or len(starts) == 1:
        return [work(start, min(rows, start + size)) for start in starts]
    with ThreadPoolExecutor(threads) as pool:
        return list(pool.map(lambda start: work(start, min(rows, start + size)), starts))


def available_processors() -> int:
    """Processors that this process may use; where the system does not say, those of the machine."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def hull_edges(
    values: np.ndarray,
    costs: np.ndarray,
    counts: np.ndarray,
    high: tuple[float, float] = INFINITE,
    low: tuple[float, float] = FREE,
    threads: int | None = None,
    rows: np.ndarray | None = None,
) -> Edges:
    """Edges between the prices ``high`` and ``low`` (weight pairs) of ``check_pair``'s arrays, in one pass over them.

    ``rows`` restricts the work to these rows; ``base`` and ``row`` of the result then count places in it.

    Raises UserError naming the first row with a value or cost that is not finite.
    """
    require_shape("costs", costs, (len(values) if len(costs) > 1 else 1, values.shape[1]))
    require_shape("counts", counts, (len(values),))
    index = np.arange(len(values)) if rows is None else whole_numbers("rows", rows)
    require_range("rows", index, len(values))
    base = np.empty(len(index), dtype=np.int64)
    weights, unit = np.array([high, low]), _UNIT[values.dtype]

    def block(start: int, stop: int) -> tuple[np.ndarray, np.ndarray, float, float, int]:
        return kernels.hull_rows(values, costs, counts, index, start, stop, weights, unit, base)

    parts = run_chunks(block, len(index), threads)
    for *_, row in parts:
        if row >= 0:
            check_finite("values", values[row : row + 1], row)
            check_finite("costs", costs[row : row + 1] if len(costs) > 1 else costs, row)
            raise UserError(f"values: row {row + 1}: numbers too large to add; expected them below 1e30")
    ends = np.concatenate([part[0] for part in parts], axis=1)
    steps = np.concatenate([part[1] for part in parts], axis=1)
    return Edges(base, sum(p[2] for p in parts), sum(p[3] for p in parts), *ends, *steps)


@dataclass(frozen=True)
class BudgetCurve:
    """Cost and value along falling prices: point 0 is every row's cheapest action, then one upgrade per point.

    ``cost`` and ``value`` are in the accounts given as true ones, where they were given.
    """

    lambda_: np.ndarray  # float64 (E + 1,): price at which the point is reached; point 0 has infinity
    cost: np.ndarray  # float64 (E + 1,)
    value: np.ndarray  # float64 (E + 1,)

    def at(self, budgets: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Value and price at each budget (mixing the two points around it); NaN below the least cost.

        Where true costs differ from the model's, the last price on the way down that still meets the budget counts.
        """
        budgets = np.atleast_1d(np.asarray(budgets, dtype=np.float64))
        highest = np.maximum.accumulate(self.cost)
        left = np.searchsorted(highest, budgets, side="right") - 1
        right = np.minimum(left + 1, len(self.cost) - 1)
        step = self.cost[right] - self.cost[left]
        part = np.where(step > 0, (budgets - self.cost[left]) / np.where(step > 0, step, 1), 0).clip(0, 1)
        value = self.value[left] + part * (self.value[right] - self.value[left])
        price = np.where(left == len(self.cost) - 1, 0.0, self.lambda_[right])
        feasible = left >= 0
        return np.where(feasible, value, np.nan), np.where(feasible, price, np.nan)


def budget_curve(
    values: np.ndarray,
    costs: np.ndarray,
    counts: np.ndarray | None = None,
    *,
    true_values: np.ndarray | None = None,
    true_costs: np.ndarray | None = None,
    threads: int | None = None,
) -> BudgetCurve:
    """The whole budget-revenue curve of Eq. 6 for λ from infinity to 0, from one pass over the rows' hulls.

    Decisions follow ``values`` (S, A) and ``costs`` (S, A) or (A,); the curve is counted in ``true_values`` and
    ``true_costs`` where given, so that a model's curve shows what its decisions earn. With its own values it is
    the exact optimum of the linear relaxation for every budget.
    """
    values, costs = check_pair(values, costs)
    counts = check_counts(counts, len(values))
    edges = hull_edges(values, costs, counts, threads=threads)
    order = edges.order()
    cost = _account(true_costs, edges, counts, order, edges.base_cost, edges.cost)
    value = _account(true_values, edges, counts, order, edges.base_value, edges.value)
    return BudgetCurve(np.concatenate([[np.inf], edges.slope[order]]), cost, value)


def _account(
    true: np.ndarray | None, edges: Edges, counts: np.ndarray, order: np.ndarray, base: float, steps: np.ndarray
) -> np.ndarray:
    """Running total along the path, in the model's own numbers or in the true ones."""
    if true is not None:
        true = np.broadcast_to(np.asarray(true), (len(counts), np.asarray(true).shape[-1]))
        rows = np.arange(len(counts))
        base = float(counts @ true[rows, edges.base].astype(np.float64))
        steps = true[edges.row, edges.after].astype(np.float64) - true[edges.row, edges.before]
        steps = steps * counts[edges.row]
    return base + np.concatenate([[0.0], np.cumsum(steps[order])])
