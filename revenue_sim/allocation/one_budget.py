"""Allocations under one budget, with a certificate (Eqs. 2–6, App. A).

Choose one joint action per row, maximising Σ Q with Σ C ≤ C_m: a multiple-choice knapsack. Its Lagrangian gives
``argmax Q − λ·C`` per row (Eq. 6); λ, the optimum of the linear relaxation (an upper bound on any choice) and the single
row where the relaxation splits a request come out exactly, not by bisection to a tolerance.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

import numpy as np

from marca_common.errors import UserError
from marca_common.seeding import numpy_generator
from revenue_sim.allocation import hull_kernels as kernels
from revenue_sim.allocation.budget_curve import FREE, INFINITE, Edges, check_pair, hull_edges
from revenue_sim.allocation.result import Allocation, total_cost
from revenue_sim.allocation.whole_rows import best_whole_rows
from revenue_sim.checks import check_budget, check_counts

log = logging.getLogger(__name__)
Bracket = tuple[tuple[float, float], tuple[float, float]]  # weights (wq, wc) of a higher and a lower price

SAMPLE_FROM = 4_000_000  # pairs; below, all hulls are cheaper than a sample and a second pass
SAMPLE_ROWS = (256, 2048)  # rows sampled to bracket the price, in two steps
SPREADS = 3.0  # half-width of the bracket in standard errors of the sampled cost


def allocate(
    values: np.ndarray,
    costs: np.ndarray,
    budget: float,
    counts: np.ndarray | None = None,
    *,
    integral: bool = False,
    time_limit_s: float | None = None,
    threads: int | None = None,
    seed: int = 0,
) -> Allocation:
    """Solve Eqs. 2–5 for one budget.

    ``values`` (S, A) money per request; ``costs`` (S, A), or (A,) for all rows, in the budget's unit per request;
    ``counts`` (S,) requests per row (one each by default); ``budget`` total cost of all requests. float32 pairs are
    searched as such with float64 results; everything else is turned into float64.

    A sample of rows brackets λ; one pass over all rows then finds every upgrade inside the bracket, and sorting these
    few gives λ and the bound exactly. ``seed`` moves only the sample, and with it which upgrades may fill what is left of the
    budget. ``integral`` goes on to the proven best choice of whole rows by searching the few actions that reduced costs cannot
    rule out, for at most ``time_limit_s`` (None: until it is proven); ``status`` and ``bound`` say how far it came.

    Raises UserError for shapes that differ, numbers that are not finite, a budget that is not a positive number, and
    for a budget below the least possible cost, which it names.
    """
    budget = check_budget(budget)
    values, costs = check_pair(values, costs)
    counts = check_counts(counts, len(values))
    high, low = _bracket(values, costs, counts, budget, seed, threads)
    edges = hull_edges(values, costs, counts, high, low, threads)
    if edges.base_cost > budget or edges.base_cost + edges.cost.sum() < budget:
        log.debug("bracket %s–%s missed: all prices are looked at", high, low)
        edges = hull_edges(values, costs, counts, threads=threads)
    if edges.base_cost > budget:
        raise UserError(f"budget: got {budget:.10g}; the least possible cost is {edges.base_cost:.10g}")
    result = settle(edges, budget, lambda choice: total_cost(costs, counts, choice))
    return best_whole_rows(values, costs, counts, budget, result, time_limit_s) if integral else result


def _bracket(
    values: np.ndarray, costs: np.ndarray, counts: np.ndarray, budget: float, seed: int, threads: int | None
) -> Bracket:
    """Weights of two prices between which λ lies, almost surely: a small sample finds the region, a larger one narrows it."""
    rows, bracket = len(values), (INFINITE, FREE)
    if values.size < SAMPLE_FROM or rows < 4 * SAMPLE_ROWS[-1] or counts.sum() <= 0:
        return bracket
    shuffled = numpy_generator(seed, "allocate", "sample").choice(rows, sum(SAMPLE_ROWS), replace=False)
    for sample in np.split(shuffled, np.cumsum(SAMPLE_ROWS)[:-1]):
        sample.sort()
        edges = hull_edges(values, costs, counts, *bracket, threads, sample)
        base_cost = counts[sample] * costs[sample if len(costs) > 1 else 0, edges.base].astype(np.float64)
        bracket = _narrowed(bracket, edges, base_cost, counts[sample], budget / counts.sum())
    return bracket


def _narrowed(bracket: Bracket, edges: Edges, base_cost: np.ndarray, counts: np.ndarray, per_request: float) -> Bracket:
    """The bracket that a sample's edges support, inside the one given; an end that they cannot judge stays."""
    high, low = bracket
    order = edges.order()
    reached = edges.base_cost + np.cumsum(edges.cost[order])
    target = per_request * counts.sum()
    error = SPREADS * _standard_error(edges, order[: np.searchsorted(reached, target)], base_cost, counts)
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


def settle(edges: Edges, budget: float, cost_of: Callable[[np.ndarray], float]) -> Allocation:
    """Take the edges in order of worth; the first that does not fit is the one that the relaxation splits.

    ``cost_of`` a choice (S,): its cost, which is never over the budget in the end.
    """
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
        cost = cost_of(choice)
        for edge in order[::-1][taken[order[::-1]]]:
            if cost <= budget:
                break
            choice[edges.row[edge]], taken[edge] = edges.before[edge], False
            cost = cost_of(choice)
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
