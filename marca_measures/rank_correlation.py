"""r_s, Spearman's rank correlation: over all pairs of state and action, and within states."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.stats import rankdata

from marca_common.spread import is_flat


def spearman(first: np.ndarray, second: np.ndarray) -> float:
    """Rank correlation over all entries (ties share their mean rank); 0 where one side is constant."""
    return _pearson(rankdata(first.ravel()), rankdata(second.ravel()))


def spearman_within(scores: np.ndarray, truth: np.ndarray, weight: np.ndarray) -> float:
    """Mean over states of the rank correlation across a state's joint actions; two (S, A) and requests per state (S,).

    Each state counts with its requests. A state whose truth is flat says nothing and is left out; flat scores count as 0.
    """
    return TruthRanks(truth, weight).spearman_within(scores)


class TruthRanks:
    """Ranks of one truth (S, A), kept so that many scores can be correlated with it."""

    def __init__(self, truth: np.ndarray, weight: np.ndarray) -> None:
        """``weight`` (S,): requests of each state."""
        self._overall = rankdata(truth.ravel())
        within = rankdata(truth, axis=1)
        self._within = within - within.mean(axis=1, keepdims=True)
        self._size = np.sqrt((self._within**2).sum(axis=1))
        self._weight = np.where(self._size > 0, weight, 0.0)

    def spearman(self, scores: np.ndarray) -> float:
        """As the function of this name."""
        return _pearson(rankdata(scores.ravel()), self._overall)

    def by_state(self, scores: np.ndarray) -> np.ndarray:
        """Rank correlation of each state (S,); 0 where its scores or its truth are flat."""
        ranks = rankdata(scores, axis=1)
        ranks -= ranks.mean(axis=1, keepdims=True)
        size = np.sqrt((ranks**2).sum(axis=1)) * self._size
        return np.where(size > 0, (ranks * self._within).sum(axis=1) / np.where(size > 0, size, 1.0), 0.0)

    def spearman_within(self, scores: np.ndarray) -> float:
        """As the function of this name; 0 where no state with requests has a truth that varies."""
        total = self._weight.sum()
        return float(self._weight @ self.by_state(scores) / total) if total > 0 else 0.0


def reference_scores(truth: np.ndarray, weight: np.ndarray) -> dict[str, np.ndarray]:
    """Two references for r_s over all pairs, (S, A) each: ``state_value``, the true state mean without actions, and
    ``state_times_profile``, that mean times one global profile of actions."""
    mean = truth.mean(1, keepdims=True)
    profile = np.average(truth / np.where(mean > 0, mean, 1), axis=0, weights=weight)
    return {"state_value": np.repeat(mean, truth.shape[1], 1), "state_times_profile": mean * profile}


def pearson(first: Sequence[float], second: Sequence[float]) -> float:
    """Linear correlation of two short lists; NaN with fewer than three entries or without spread (up to rounding)."""
    if len(first) < 3 or is_flat(np.asarray(first)) or is_flat(np.asarray(second)):
        return float("nan")
    return _pearson(np.asarray(first, dtype=np.float64), np.asarray(second, dtype=np.float64))


def _pearson(a: np.ndarray, b: np.ndarray) -> float:
    a, b = a - a.mean(), b - b.mean()
    scale = float(np.sqrt((a @ a) * (b @ b)))
    return float(a @ b) / scale if scale > 0 else 0.0
