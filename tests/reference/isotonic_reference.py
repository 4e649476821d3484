"""Isotonic regression by its definition: the max-min formula over all blocks, O(n³)."""

from __future__ import annotations

import numpy as np


def isotonic_by_max_min(y: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """Value at i = max over starts a ≤ i of min over ends b ≥ i of the weighted mean of y[a..b]."""
    n = len(y)

    def mean(a: int, b: int) -> float:
        return float((weight[a : b + 1] * y[a : b + 1]).sum() / weight[a : b + 1].sum())

    return np.array([max(min(mean(a, b) for b in range(i, n)) for a in range(i + 1)) for i in range(n)])
