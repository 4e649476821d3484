"""Return% and rank correlations: how good a model's scores are, judged by the truth's numbers (Eq. 20 and §4.1.1)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.stats import rankdata


def return_pct(model_by_state: np.ndarray, truth_by_state: np.ndarray) -> float:
    """Eq. 20, read as: true revenue of the model's allocation in percent of that of the truth's own, both (S,)."""
    return 100.0 * float(model_by_state.sum()) / float(truth_by_state.sum())


def return_interval(
    models_by_state: Sequence[np.ndarray],
    truth_by_state: np.ndarray,
    generator: np.random.Generator,
    *,
    draws: int,
    confidence: float,
) -> tuple[float, float]:
    """Percentile interval of the mean Return% over training seeds, from draws of seeds and of states with replacement.

    ``models_by_state``: one (S,) array per training seed, the true revenue of that seed's allocation in each state. The
    allocations stay as they are; a draw says what other states, and other seeds, would have shown.
    """
    stacked = np.stack(models_by_state)  # (K, S)
    seeds, states = stacked.shape
    ratios = np.empty(draws)
    for draw in range(draws):
        weight = np.bincount(generator.integers(0, states, states), minlength=states)
        chosen = generator.integers(0, seeds, seeds)
        total = float(truth_by_state @ weight)
        ratios[draw] = 100.0 * float((stacked[chosen] @ weight).mean()) / total if total > 0 else np.nan
    tail = 50.0 * (1.0 - confidence)
    low, high = np.nanpercentile(ratios, [tail, 100.0 - tail])
    return float(low), float(high)


def spearman(first: np.ndarray, second: np.ndarray) -> float:
    """Rank correlation over all entries (ties share their mean rank); 0 where one side is constant."""
    return _pearson(rankdata(first.ravel()), rankdata(second.ravel()))


def spearman_within(first: np.ndarray, second: np.ndarray) -> float:
    """Mean over states of the rank correlation across that state's actions, for (S, A) arrays.

    States whose second array (the truth) is constant say nothing and are left out; a constant first array counts as 0.
    """
    return TruthRanks(second).spearman_within(first)


class TruthRanks:
    """Ranks of one truth (S, A), kept so that many models can be correlated with it; as the two functions above."""

    def __init__(self, truth: np.ndarray) -> None:
        self._overall = rankdata(truth.ravel())
        within = rankdata(truth, axis=1)
        self._within = within - within.mean(axis=1, keepdims=True)
        self._spread = np.sqrt((self._within**2).sum(axis=1))

    def spearman(self, scores: np.ndarray) -> float:
        """Rank correlation over all entries."""
        return _pearson(rankdata(scores.ravel()), self._overall)

    def spearman_within(self, scores: np.ndarray) -> float:
        """Mean rank correlation across a state's actions."""
        ranks = rankdata(scores, axis=1)
        ranks -= ranks.mean(axis=1, keepdims=True)
        informative = self._spread > 0
        if not informative.any():
            return 0.0
        product = (ranks * self._within).sum(axis=1)[informative]
        scale = (np.sqrt((ranks**2).sum(axis=1)) * self._spread)[informative]
        return float(np.mean(np.where(scale > 0, product / np.where(scale > 0, scale, 1.0), 0.0)))


def pearson(first: Sequence[float], second: Sequence[float]) -> float:
    """Linear correlation of two short lists; NaN with fewer than three entries or without spread."""
    if len(first) < 3 or np.ptp(first) == 0 or np.ptp(second) == 0:
        return float("nan")
    return _pearson(np.asarray(first, dtype=np.float64), np.asarray(second, dtype=np.float64))


def bucketed_spearman(predicted: np.ndarray, observed: np.ndarray, buckets: int) -> float:
    """Rank correlation between bucket means when rows are grouped by falling prediction into equal buckets.

    One request's revenue is mostly zero; means over buckets show whether the order is right. Both (M,).
    """
    means = bucket_means(predicted, observed, buckets)
    return spearman(means[:, 0], means[:, 1])


def bucket_means(predicted: np.ndarray, observed: np.ndarray, buckets: int) -> np.ndarray:
    """Mean prediction and mean observation per bucket of equal size, in order of prediction, (buckets, 2)."""
    order = np.argsort(predicted, kind="stable")
    parts = np.array_split(order, min(buckets, len(order)))
    return np.array([[predicted[part].mean(), observed[part].mean()] for part in parts])


def _pearson(a: np.ndarray, b: np.ndarray) -> float:
    a, b = a - a.mean(), b - b.mean()
    scale = float(np.sqrt((a @ a) * (b @ b)))
    return float(a @ b) / scale if scale > 0 else 0.0
