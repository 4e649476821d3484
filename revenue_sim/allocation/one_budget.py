"""Allocations under one budget, with a certificate (Eqs. 2–6, App. A).

Choose one joint action per row, maximising Σ Q with Σ C ≤ C_m: a multiple-choice knapsack. Its Lagrangian gives
``argmax Q − λ·C`` per row (Eq. 6); λ, the optimum of the linear relaxation (an upper bound on any choice) and the single
row where the relaxation splits a request come out exactly, not by bisection to a tolerance.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass

import numpy as np

from marca_common.errors import UserError
from marca_common.seeding import numpy_generator
from revenue_sim.allocation import hull_kernels as kernels
from revenue_sim.allocation.budget_curve import (
    FREE,
    INFINITE,
    Edges,
    check_counts,
    check_pair,
    hull_edges,
)

log = logging.getLogger(__name__)

SAMPLE_FROM = 4_000_000  # pairs; below, all hulls are cheaper than a sample and a second pass
SAMPLE_ROWS = (256, 2048)  # rows sampled to bracket the price, in two steps
SPREADS = 3.0  # half-width of the bracket in standard errors of the sampled cost
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
        from revenue_sim.allocation.whole_rows import best_whole_rows

        result = best_whole_rows(values, costs, counts, budget, result)
    return result


def _bracket(
    values: np.ndarray, costs: np.ndarray, counts: np.ndarray, budget: float, seed: int, threads: int | None
) -> tuple[tuple[float, float], tuple[float, float]]:
    """Weights of two prices between which λ lies, almost surely: a small sample finds the region, a larger one narrows it."""
    rows, high, low = len(values), INFINITE, FREE
    if values.size < SAMPLE_FROM or rows < 4 * SAMPLE_ROWS[-1] or counts.sum() <= 0:
        return high, low
    shuffled = numpy_generator(seed, "allocate", "sample").choice(rows, sum(SAMPLE_ROWS), replace=False)
    for sample in np.split(shuffled, np.cumsum(SAMPLE_ROWS)[:-1]):
        high, low = _narrowed(values, costs, counts, np.sort(sample), budget / counts.sum(), high, low, threads)
    return high, low


def _narrowed(
    values: np.ndarray,
    costs: np.ndarray,
    counts: np.ndarray,
    sample: np.ndarray,
    per_request: float,
    high: tuple[float, float],
    low: tuple[float, float],
    threads: int | None,
) -> tuple[tuple[float, float], tuple[float, float]]:
    """The bracket that a sample of rows supports, inside ``high`` … ``low``; an end that it cannot judge stays."""
    edges = hull_edges(values, costs, counts, high, low, threads, sample)
    order = edges.order()
    reached = edges.base_cost + np.cumsum(edges.cost[order])
    target = per_request * counts[sample].sum()
    base_cost = counts[sample] * costs[sample if len(costs) > 1 else 0, edges.base].astype(np.float64)
    error = SPREADS * _standard_error(edges, order[: np.searchsorted(reached, target)], base_cost, counts[sample])
    first, last = np.searchsorted(reached, [target - error, target + error])
    slopes = edges.slope[order]
    if target - error > edges.base_cost and first < len(slopes):
        high = (1.0, float(slopes[first]))
    if last < len(slopes):
        low = (1.0, float(slopes[last]))
    return high, low


def _standard_error(edges: Edges, taken: np.ndarray, base_cost: np.ndarray, counts: np.ndarray) -> float:
    """Standard error of a sample's total cost at the price where the edges ``taken`` are taken, rows drawn at random."""
    cost = base_cost.copy()
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
    bound = edges.base_value + float(edges.value[order[:position]][taken[order[:position]]].sum())
    fraction, lambda_ = 0.0, 0.0
    if split >= 0:
        fraction = room / edges.cost[split]
        lambda_ = float(edges.slope[split])
        bound += fraction * float(edges.value[split])
    cost = edges.base_cost + float(edges.cost[taken].sum())
    if budget - cost < 1e-9 * budget:  # so tight that the order of summing may matter: sum row by row, undo if over
        cost = _row_by_row(costs, counts, choice)
        for edge in order[::-1][taken[order[::-1]]]:
            if cost <= budget:
                break
            choice[edges.row[edge]], taken[edge] = edges.before[edge], False
            cost = _row_by_row(costs, counts, choice)
    value = edges.base_value + float(edges.value[taken].sum())
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


def _row_by_row(costs: np.ndarray, counts: np.ndarray, choice: np.ndarray) -> float:
    rows = np.arange(len(choice)) if len(costs) > 1 else 0
    return float(counts @ costs[rows, choice].astype(np.float64))
