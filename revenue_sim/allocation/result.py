"""The answer of an allocation under one budget."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np


@dataclass(frozen=True)
class Allocation:
    """One action per row, the price behind it and how far it can be from the best possible."""

    choice: np.ndarray  # int64 (S,): joint action of each row (of all its requests)
    lambda_: float  # price where the linear relaxation meets the budget, value per cost; 0: the budget does not bind
    value: float  # Σ count·Q of the choice
    cost: float  # Σ count·C of the choice, never over the budget
    bound: float  # no choice earns more: the relaxation's optimum, or what the search for whole rows proved
    fractional_row: int | None  # the one row that the relaxation splits; None: it splits none
    fractional_action: int | None  # the dearer action of its two
    fraction: float  # share of that row's requests that the relaxation moves to it
    status: Literal["relaxation", "optimal", "limit"] = "relaxation"  # whole rows: proven best, or not

    @property
    def gap(self) -> float:
        """How much the best choice could earn more, at most; never above what one row's upgrade earns."""
        return max(0.0, self.bound - self.value)


def total_cost(costs: np.ndarray, counts: np.ndarray, choice: np.ndarray) -> float:
    """Σ count·C of a choice (S,), row by row; ``costs`` (S, A), or (1, A) for all rows."""
    rows = np.arange(len(choice)) if len(costs) > 1 else 0
    return float(counts @ costs[rows, choice].astype(np.float64))
