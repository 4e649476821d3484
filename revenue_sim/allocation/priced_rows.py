"""Rows with several costs each, read under any prices: what the search for prices and the repair both stand on."""

from __future__ import annotations

import numpy as np
from numba import njit

from marca_common.arrays import require_shape
from revenue_sim.allocation.budget_curve import run_chunks


class PricedRows:
    """Checked values (S, A), costs (S, A, D) and counts (S,), and the passes over them."""

    def __init__(self, values: np.ndarray, costs: np.ndarray, counts: np.ndarray, threads: int | None) -> None:
        require_shape("costs", costs, (*values.shape, None))
        require_shape("counts", counts, (len(values),))
        self.values, self.costs, self.counts, self.threads = values, costs, counts, threads
        self.choice, self.second = np.zeros(len(values), np.int64), np.zeros(len(values))
        self.passes = 0

    def price(self, prices: np.ndarray, weight: float = 1.0) -> tuple[float, np.ndarray]:
        """Σ count·(weight·Q − λ·C) and Σ count·C (D,) of the best actions; leaves them in ``choice``, runners-up's loss in ``second``."""
        require_shape("prices", prices, self.costs.shape[2:])

        def block(start: int, stop: int) -> np.ndarray:
            arrays = (self.values, self.costs, self.counts)
            return _price_rows(*arrays, start, stop, prices, weight, self.choice, self.second)

        sums = np.sum(run_chunks(block, len(self.values), self.threads), axis=0)
        self.passes += 1
        return float(sums[0]), sums[1:]

    def totals(self, choice: np.ndarray) -> tuple[float, np.ndarray]:
        """Value and costs of any choice."""
        rows = np.arange(len(choice))
        value = float(self.counts @ self.values[rows, choice].astype(np.float64))
        return value, self.counts @ self.costs[rows, choice].astype(np.float64)


@njit(nogil=True, cache=True)
def _price_rows(
    values: np.ndarray, costs: np.ndarray, counts: np.ndarray, start: int, stop: int, prices: np.ndarray, weight: float,
    choice: np.ndarray, second: np.ndarray,
) -> np.ndarray:  # fmt: skip
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
