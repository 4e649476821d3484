"""Allocations under one budget, with a certificate (Eqs. 2–6, App. A).

Choose one joint action per row, maximising Σ Q with Σ C ≤ C_m: a multiple-choice knapsack. Its Lagrangian gives
``argmax Q − λ·C`` per row (Eq. 6); λ, the optimum of the linear relaxation (an upper bound on any choice) and the single
row where the relaxation splits a request come out exactly, not by bisection to a tolerance.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass

import numpy as np

from common.errors import UserError
from common.seeding import numpy_generator
from revenue_sim import kernels
from revenue_sim.hulls import (
    FREE,
    INFINITE,
    BudgetCurve,
    Edges,
    budget_curve,
    check_counts,
    check_pair,
    hull_edges,
)
from revenue_sim.static import StaticMixture, static_mixture

__all__ = ["Allocation", "BudgetCurve", "StaticMixture", "allocate", "budget_curve", "check_budget", "static_mixture"]

log = logging.getLogger(__name__)

SAMPLE_FROM = 4_000_000  # pairs; below, all hulls are cheaper than a sample and a second pass
SAMPLE_ROWS = 2_000  # rows sampled to bracket the price
SPREADS = 4.0  # half-width of the bracket in standard errors of the sampled cost
ATTEMPTS = 3  # brackets tried before all hulls are taken


@dataclass(frozen=True)
class Allocation:
    """One action per row, the price behind it and how far it can be from the best possible."""

    choice: np.ndarray  # int64 (S,): joint action of each row (of all its requests)
    lambda_: float  # price where the linear relaxation meets the budget, value per cost; 0: the budget does not bind
    value: float  # Σ count·Q of the choice
    cost: float  # Σ count·C of the choice, never over the budget
    bound: float  # optimum of the linear relaxation: no choice earns more
    fractional_row: int | None  # the one row that the relaxation splits; None: it splits none
    fractional_action: int | None  # the dearer action of its two
    fraction: float  # share of that row's requests that the relaxation moves to it

    @property
    def gap(self) -> float:
        """How much the best choice could earn more, at most; never above what one row's upgrade earns."""
        return max(0.0, self.bound - self.value)


def check_budget(budget: float) -> float:
    """A budget as a float; anything but a positive number is a UserError."""
    number = float(budget) if isinstance(budget, (int, float, np.number)) and not isinstance(budget, bool) else np.nan
    if not (np.isfinite(number) and number > 0):
        raise UserError(f"budget: got {budget!r}; expected a positive number")
    return number


def allocate(
    values: np.ndarray,
    costs: np.ndarray,
    budget: float,
    counts: np.ndarray | None = None,
    *,
    integral: bool = False,
    threads: int | None = None,
    seed: int = 0,
) -> Allocation:
    """Solve Eqs. 2–5 for one budget.

    ``values`` (S, A) money per request; ``costs`` (S, A), or (A,) for all rows, in the budget's unit per request;
    ``counts`` (S,) requests per row (one each by default); ``budget`` total cost of all requests. float32 pairs are
    searched as such with float64 results; everything else is turned into float64.

    A sample of rows brackets λ; one pass over all rows then finds every upgrade inside the bracket, and sorting these
    few gives λ, the bound and the choice exactly (``seed`` moves only the sample). ``integral`` goes on to the proven best
    choice of whole rows by searching the few actions that reduced costs cannot rule out.

    Raises UserError for shapes that differ, numbers that are not finite, a budget that is not a positive number, and
    for a budget below the least possible cost, which it names.
    """
    budget = check_budget(budget)
    values, costs = check_pair(values, costs)
    counts = check_counts(counts, len(values))
    high, low = _bracket(values, costs, counts, budget, seed, threads)
    for attempt in range(ATTEMPTS + 1):
        edges = hull_edges(values, costs, counts, high, low, threads)
        over = edges.base_cost > budget
        under = edges.base_cost + edges.cost.sum() < budget and low != FREE
        if over and high == INFINITE:
            raise UserError(f"budget: got {budget:.10g}; the least possible cost is {edges.base_cost:.10g}")
        if not over and not under:
            break
        log.debug("bracket %s–%s missed, attempt %d", high, low, attempt)
        high, low = _widened(high, low, over, attempt)
    result = _settle(values, costs, counts, budget, edges)
    if integral:
        from revenue_sim.integral import best_whole_rows

        result = best_whole_rows(values, costs, counts, budget, result)
    return result


def _bracket(
    values: np.ndarray, costs: np.ndarray, counts: np.ndarray, budget: float, seed: int, threads: int | None
) -> tuple[tuple[float, float], tuple[float, float]]:
    """Weights of two prices between which λ lies, almost surely, judged by a sample of rows."""
    rows = len(values)
    if values.size < SAMPLE_FROM or rows < 4 * SAMPLE_ROWS or counts.sum() <= 0:
        return INFINITE, FREE
    sample = np.sort(numpy_generator(seed, "allocate", "sample").choice(rows, SAMPLE_ROWS, replace=False))
    part_counts = counts[sample]
    part_costs = costs if len(costs) == 1 else costs[sample]
    edges = hull_edges(values[sample], part_costs, part_counts, threads=threads)
    scale = counts.sum() / max(part_counts.sum(), 1e-300)
    order = edges.order()
    reached = edges.base_cost + np.cumsum(edges.cost[order])
    error = _standard_error(edges, order, reached, part_costs, part_counts, budget / scale)
    targets = budget / scale + SPREADS * error * np.array([-1.0, 1.0])
    first, last = np.searchsorted(reached, targets)
    slopes = edges.slope[order]
    high = INFINITE if targets[0] <= edges.base_cost or first >= len(slopes) else (1.0, float(slopes[first]))
    low = FREE if last >= len(slopes) else (1.0, float(slopes[last]))
    return (INFINITE, low) if high == low else (high, low)


def _standard_error(
    edges: Edges,
    order: np.ndarray,
    reached: np.ndarray,
    costs: np.ndarray,
    counts: np.ndarray,
    target: float,
) -> float:
    """Standard error of the sample's total cost at the price that meets ``target`` (rows as a random sample)."""
    taken = order[: np.searchsorted(reached, target)]
    rows = np.arange(len(counts))
    cost = counts * costs[rows if len(costs) > 1 else 0, edges.base].astype(np.float64)
    np.add.at(cost, edges.row[taken], edges.cost[taken])
    mean = cost.sum() / max(counts.sum(), 1e-300)
    return float(np.std(cost - mean * counts) * np.sqrt(len(cost)))  # of a ratio estimate: counts are known


def _widened(
    high: tuple[float, float], low: tuple[float, float], over: bool, attempt: int
) -> tuple[tuple[float, float], tuple[float, float]]:
    """A bracket opened on the side where the price was missed; all prices after some attempts."""
    if attempt + 1 >= ATTEMPTS:
        return INFINITE, FREE
    top = high[1] if high != INFINITE else np.inf
    bottom = low[1] if low != FREE else 0.0
    width = 4 * (top - bottom) if np.isfinite(top) else np.inf
    if over:
        return ((1.0, top + width) if np.isfinite(width) else INFINITE), low
    return high, ((1.0, bottom - width) if np.isfinite(width) and bottom > width else FREE)


def _settle(values: np.ndarray, costs: np.ndarray, counts: np.ndarray, budget: float, edges: Edges) -> Allocation:
    """Take the edges in order of worth; the first that does not fit is the one that the relaxation splits."""
    order, choice = edges.order(), edges.base.copy()
    climbed = kernels.climb(edges.row, edges.before, edges.after, edges.cost, order, budget - edges.base_cost, choice)
    room, split, taken = climbed
    position = len(order) if split < 0 else int(np.nonzero(order == split)[0][0])
    prefix = order[:position][taken[order[:position]]]
    bound = edges.base_value + float(edges.value[prefix].sum())
    fraction, lambda_ = 0.0, 0.0
    if split >= 0:
        fraction = room / edges.cost[split]
        lambda_ = float(edges.slope[split])
        bound += fraction * float(edges.value[split])
    rows = np.arange(len(choice))
    value = float(counts @ values[rows, choice].astype(np.float64))
    cost = float(counts @ costs[rows if len(costs) > 1 else 0, choice].astype(np.float64))
    return Allocation(
        choice=choice,
        lambda_=lambda_,
        value=value,
        cost=cost,
        bound=max(bound, value),
        fractional_row=int(edges.row[split]) if fraction > 0 else None,
        fractional_action=int(edges.after[split]) if fraction > 0 else None,
        fraction=float(fraction),
    )
