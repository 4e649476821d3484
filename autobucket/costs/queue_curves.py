"""Queue curves that never fall, as sums of ramps: where their knots lie, and the columns of their regression."""

from __future__ import annotations

import numpy as np


def choose_knots(x: np.ndarray, most: int, merge_pct: float) -> np.ndarray:
    """At most ``most`` rising points that cover ``x``; lengths within ``merge_pct`` percent of each other share one."""
    levels = np.unique(np.asarray(x, np.float64))
    merged = [levels[0]]
    for level in levels[1:]:
        if level - merged[-1] > merge_pct / 100 * max(abs(level), 1.0):
            merged.append(level)
    merged[-1] = levels[-1] if len(merged) > 1 else merged[-1]
    if len(merged) <= most:
        return np.array(merged)
    return np.unique(np.quantile(np.array(merged), np.linspace(0, 1, most)))


def ramp_basis(x: np.ndarray, knots: np.ndarray) -> np.ndarray:
    """(n, knots − 1): column k rises from 0 to 1 over segment k; end segments continue beyond the ends.

    A curve that is 0 at the first knot is this matrix times its steps; it never falls when the steps are ≥ 0.
    """
    if len(knots) < 2:
        return np.zeros((len(x), 0))
    ramps = (np.asarray(x, np.float64)[:, None] - knots[:-1]) / np.diff(knots)
    low = np.zeros(len(knots) - 1)
    high = np.ones(len(knots) - 1)
    low[0], high[-1] = -np.inf, np.inf
    return np.asarray(np.clip(ramps, low, high))
