"""The proven best choice of whole rows, where the linear relaxation leaves a gap.

An action whose loss under the price, ``max(Q − λC) − (Q − λC)``, exceeds the gap between the bound and a known choice
cannot be part of a better choice. On real data this leaves a handful of rows with two or three actions each: a small
integer programme for HiGHS.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import scipy.sparse as sparse
from scipy.optimize import Bounds, LinearConstraint, milp

from marca_common.errors import UserError
from revenue_sim.allocation.result import Allocation, total_cost

LARGEST = 2_000_000  # remaining (row, action) pairs beyond which the integer programme is refused
SHARP = 1e6  # HiGHS stops within 1e-6 of the optimum: the largest value is given to it as this number
BLOCK = 4096  # rows whose losses are computed at a time


def best_whole_rows(
    values: np.ndarray, costs: np.ndarray, counts: np.ndarray, budget: float, start: Allocation
) -> Allocation:
    """The best choice of one action per row within the budget, starting from ``start`` and its λ and bound.

    The result's ``bound`` is what HiGHS proves. UserError if reduced costs leave too many candidates.
    """
    if start.gap <= 1e-12 * max(1.0, abs(start.bound)):
        return start
    row, action, value, cost = _candidates(values, costs, counts, budget, start)
    free = np.unique(row)
    if len(free) == 0:
        return replace(start, bound=start.value)
    if len(row) > LARGEST:
        raise UserError(f"integral: {len(row)} candidates are left; expected at most {LARGEST}")
    fixed = counts.copy()
    fixed[free] = 0.0
    room = budget - total_cost(costs, fixed, start.choice)
    choice = start.choice.copy()
    for _ in range(20):
        picked = _solve(np.searchsorted(free, row), value, cost, room)
        if picked is None:
            return replace(start, bound=start.value)
        choice[row[picked]] = action[picked]
        total = total_cost(costs, counts, choice)
        if total <= budget:
            worth = float(counts @ values[np.arange(len(values)), choice].astype(np.float64))
            if worth < start.value:
                break
            return replace(start, choice=choice, value=worth, cost=total, bound=worth)
        room -= 2 * (total - budget)  # the solver's tolerance let it over; ask for a little less
    return replace(start, bound=start.value)


def _candidates(
    values: np.ndarray, costs: np.ndarray, counts: np.ndarray, budget: float, start: Allocation
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """(row, action, count·Q, count·C) of every pair that a better choice could hold, in rows where it is not alone."""
    tolerance = 1e-9 * max(1.0, abs(start.bound))
    rows, actions = [], []
    for begin in range(0, len(values), BLOCK):
        part = slice(begin, begin + BLOCK)
        part_costs = costs[part] if len(costs) > 1 else costs
        worth = (values[part].astype(np.float64) - start.lambda_ * part_costs) * counts[part, None]
        loss = worth.max(axis=1, keepdims=True) - worth
        possible = loss <= start.gap + tolerance
        possible &= (possible.sum(axis=1) > 1)[:, None] & (counts[part] > 0)[:, None]
        at, which = np.nonzero(possible)
        rows.append(at + begin)
        actions.append(which)
    row, action = np.concatenate(rows), np.concatenate(actions)
    value = counts[row] * values[row, action].astype(np.float64)
    cost = counts[row] * costs[row if len(costs) > 1 else 0, action].astype(np.float64)
    return row, action, value, cost


def _solve(group: np.ndarray, value: np.ndarray, cost: np.ndarray, room: float) -> np.ndarray | None:
    """Indices of one pick per group with the most value and cost within ``room``; None: no such pick."""
    size = len(group)
    one_each = sparse.csr_matrix((np.ones(size), (group, np.arange(size))))
    scale = max(abs(room), float(np.abs(cost).max()), 1e-300)
    worth = max(float(np.abs(value).max()), 1e-300)
    solved = milp(
        -value * (SHARP / worth),
        constraints=[
            LinearConstraint(one_each, 1, 1),
            LinearConstraint(sparse.csr_matrix(cost / scale), -np.inf, room / scale),
        ],
        integrality=np.ones(size),
        bounds=Bounds(0, 1),
        options={"mip_rel_gap": 0.0},
    )
    return None if solved.x is None else np.nonzero(solved.x > 0.5)[0]
