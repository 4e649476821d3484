"""Slow, obvious versions of the allocations of revenue_sim."""

from __future__ import annotations

from itertools import product
from typing import Any

import numpy as np
import scipy.sparse as sparse
from scipy.optimize import linprog


def brute_force(values: Any, costs: Any, budget: Any, counts: Any = None) -> Any:
    """Best total value over all choices of one action per row within the budget; None if none fits."""
    rows, actions = values.shape
    counts = np.ones(rows) if counts is None else counts
    best = None
    for choice in product(range(actions), repeat=rows):
        cost = sum(counts[i] * costs[i, a] for i, a in enumerate(choice))
        value = sum(counts[i] * values[i, a] for i, a in enumerate(choice))
        if cost <= budget and (best is None or value > best):
            best = value
    return best


def highs_optimum(values: Any, costs: Any, budget: Any, counts: Any = None) -> Any:
    """LP relaxation of Eqs. 2–5 by HiGHS."""
    rows, actions = values.shape
    weight = (np.ones(rows) if counts is None else np.asarray(counts, float))[:, None]
    one_each = sparse.kron(sparse.eye(rows), np.ones((1, actions)), format="csr")
    solved = linprog(
        -(values.astype(float) * weight).ravel(),
        A_ub=sparse.csr_matrix((costs.astype(float) * weight).ravel()),
        b_ub=[budget],
        A_eq=one_each,
        b_eq=np.ones(rows),
        method="highs",
    )
    assert solved.status == 0, solved.message
    return -solved.fun


def numpy_bisection(values: Any, costs: Any, budget: Any, passes: int = 40, block: int = 256) -> Any:
    """Dual bisection in cache-sized blocks: (price, total value, total cost) of the cheapest price found to fit."""
    scratch = np.empty((block, values.shape[1]), dtype=values.dtype)

    def totals(price: Any) -> Any:
        value = cost = 0.0
        for start in range(0, len(values), block):
            q, c = values[start : start + block], costs[start : start + block]
            part = scratch[: len(q)]
            np.multiply(c, -price, out=part)
            part += q
            chosen = part.argmax(axis=1)[:, None]
            value += np.take_along_axis(q, chosen, axis=1).sum(dtype=np.float64)
            cost += np.take_along_axis(c, chosen, axis=1).sum(dtype=np.float64)
        return value, cost

    price = values.dtype.type
    low, high = price(0), price(1)
    while totals(high)[1] > budget:
        high *= 2
    for _ in range(passes):
        middle = (low + high) / 2
        low, high = (middle, high) if totals(middle)[1] > budget else (low, middle)
    return float(high), *totals(high)


def sort_and_fill(scores: Any, state_counts: Any, action_quotas: Any) -> Any:
    """The paper's greedy loop in plain Python: {(state, action): requests}."""
    states, actions = len(scores), len(scores[0])
    pairs = [(-scores[s][a], s, a) for s in range(states) for a in range(actions)]
    pairs.sort()
    left_state, left_action = list(state_counts), list(action_quotas)
    given = {}
    for _, s, a in pairs:
        amount = min(left_state[s], left_action[a])
        if amount > 0:
            given[s, a] = amount
            left_state[s] -= amount
            left_action[a] -= amount
    return given


def transport_optimum(scores: Any, state_counts: Any, action_quotas: Any) -> Any:
    """Best value of the transport problem by HiGHS."""
    states, actions = scores.shape
    sums = sparse.vstack(
        [
            sparse.kron(sparse.eye(states), np.ones((1, actions))),
            sparse.kron(np.ones((1, states)), sparse.eye(actions)),
        ],
        format="csr",
    )
    solved = linprog(
        -scores.astype(float).ravel(),
        A_eq=sums,
        b_eq=np.concatenate([state_counts, action_quotas]),
        method="highs",
    )
    assert solved.status == 0, solved.message
    return -solved.fun


def knapsack_table(values: Any, costs: Any, budget: int) -> int:
    """Best total of whole-number ``values`` (S, A) with whole-number ``costs`` (S, A) ≥ 0 within the budget, by the table over costs."""
    best = np.zeros(budget + 1, np.int64)
    for value, cost in zip(values, costs):
        grown = np.full(budget + 1, np.iinfo(np.int64).min // 2)
        for v, c in zip(value.tolist(), cost.tolist()):
            if c <= budget:
                np.maximum(grown[c:], best[: budget + 1 - c] + v, out=grown[c:])
        best = grown
    return int(best[budget])
