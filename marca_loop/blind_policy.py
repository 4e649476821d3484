"""argmax Q − λC with one profile of mean Q and mean C for all states: what feedback brings without looking at anybody."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.special import ndtri

from marca_common.errors import UserError
from marca_measures.hull import candidates

_GOLDEN = 0.6180339887498949  # fractions of its multiples fill [0, 1) evenly, whatever the number of requests


class BlindPolicy:
    """Every request meets the price times a factor of its own, spread evenly on a log scale.

    With one price for equal requests all would change their action at once, and CPUs would swing from one to the next.
    The spread makes the answer to a price smooth, as mixing two actions does.
    """

    def __init__(
        self, values: np.ndarray, costs: np.ndarray, spread: float, groups: Sequence[int] | np.ndarray
    ) -> None:
        """``values`` (A,) mean money per request, ``costs`` (G, A, D) mean core-ms by data centre, ``groups`` (S,) that
        of each state id, ``spread``: sd of the logarithm of the factor."""
        self.groups, self.spread = np.asarray(groups), spread
        self.values, self.costs = np.asarray(values, np.float64), np.asarray(costs, np.float64)
        self.kept = [candidates(self.values[None], one[None])[1] for one in self.costs]

    def decide(self, states: np.ndarray, lambda_: np.ndarray) -> np.ndarray:
        """Joint action per state id, int64 (M,), under prices (D,)."""
        price = np.asarray(lambda_, np.float64)
        if price.shape != self.costs.shape[2:] or not (np.isfinite(price) & (price >= 0)).all():
            raise UserError(f"lambda_: got {lambda_}; expected {self.costs.shape[2]} finite prices of at least 0")
        factor = np.exp(self.spread * ndtri(((np.arange(len(states)) + 0.5) * _GOLDEN) % 1.0))
        joint, of = np.empty(len(states), np.int64), self.groups[states]
        for group in np.unique(of):
            mine, kept = np.flatnonzero(of == group), self.kept[group]
            paid = self.costs[group, kept] @ price  # (V,)
            joint[mine] = kept[np.argmax(self.values[kept] - factor[mine, None] * paid, axis=1)]
        return joint

    def expected(self, states: np.ndarray, joint: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Value (M,) and cost (M, D) by the profile."""
        return self.values[joint], self.costs[self.groups[states], joint]
