"""Item-based neighbours: films that the same people like."""

from __future__ import annotations

import numpy as np
from scipy import sparse

_BLOCK = 1000


def fit_neighbours(likes: sparse.csr_matrix, keep: int, shrink: float) -> tuple[np.ndarray, np.ndarray]:
    """The ``keep`` nearest films of each, int64 (I, K), and their likeness, float64 (I, K).

    Likeness is the cosine of the films' columns of likes (U, I), times n / (n + shrink) for n likes in common.
    """
    count = np.asarray(likes.sum(axis=0)).ravel()
    columns = likes.tocsc()
    keep = min(keep, likes.shape[1] - 1)
    found, weight = [], []
    for first in range(0, likes.shape[1], _BLOCK):
        common = (columns[:, first : first + _BLOCK].T @ columns).toarray()
        own = np.arange(len(common))
        common[own, first + own] = 0
        length = np.sqrt(np.outer(np.maximum(count[first : first + _BLOCK], 1), np.maximum(count, 1)))
        likeness = common / length * common / np.maximum(common + shrink, 1e-12)
        best = np.argpartition(-likeness, keep - 1, axis=1)[:, :keep]
        found.append(best)
        weight.append(np.take_along_axis(likeness, best, axis=1))
    return np.concatenate(found).astype(np.int64), np.concatenate(weight)


def neighbour_scores(liked: np.ndarray, neighbours: np.ndarray, likeness: np.ndarray) -> np.ndarray:
    """Σ over ``liked`` of the likeness of their neighbours, for all films (I,)."""
    return np.bincount(neighbours[liked].ravel(), likeness[liked].ravel(), minlength=len(neighbours))
