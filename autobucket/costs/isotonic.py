"""Monotone regression: pool adjacent violators for one curve, non-negative steps for several curves at once."""

from __future__ import annotations

import numpy as np
from numba import njit
from scipy.optimize import nnls

from marca_common.errors import UserError


def pava(y: np.ndarray, weight: np.ndarray | None = None) -> np.ndarray:
    """Weighted least-squares fit to ``y`` (n,) that never falls, (n,); pool adjacent violators, O(n)."""
    y = np.asarray(y, np.float64)
    w = np.ones_like(y) if weight is None else np.asarray(weight, np.float64)
    if y.ndim != 1 or w.shape != y.shape:
        raise ValueError(f"expected y and weight of one length, got {y.shape} and {w.shape}")
    if not np.isfinite(y).all() or not (w > 0).all():
        raise ValueError("expected finite values and positive weights")
    return _pava(y, w)


@njit(cache=True)
def _pava(y: np.ndarray, w: np.ndarray) -> np.ndarray:
    n = len(y)
    level, mass, size = np.empty(n), np.empty(n), np.empty(n, np.int64)
    blocks = 0
    for i in range(n):
        level[blocks], mass[blocks], size[blocks] = y[i], w[i], 1
        blocks += 1
        while blocks > 1 and level[blocks - 2] >= level[blocks - 1]:
            total = mass[blocks - 2] + mass[blocks - 1]
            merged = (level[blocks - 2] * mass[blocks - 2] + level[blocks - 1] * mass[blocks - 1]) / total
            level[blocks - 2], mass[blocks - 2] = merged, total
            size[blocks - 2] += size[blocks - 1]
            blocks -= 1
    out = np.empty(n)
    at = 0
    for b in range(blocks):
        for _ in range(size[b]):
            out[at] = level[b]
            at += 1
    return out


def isotonic_curve(x: np.ndarray, y: np.ndarray, weight: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Monotone curve through a cloud: (knots, values), both rising; equal ``x`` are averaged first.

    A pooled block becomes one point at its centre of mass, so that linear interpolation between the points has no
    steps where the data only wobbled.
    """
    order = np.argsort(x, kind="stable")
    w = np.ones(len(x)) if weight is None else np.asarray(weight, np.float64)
    knots, at = np.unique(np.asarray(x, np.float64)[order], return_inverse=True)
    mass = np.bincount(at, w[order])
    mean = np.bincount(at, w[order] * np.asarray(y, np.float64)[order]) / mass
    level = pava(mean, mass)
    block = np.concatenate([[0], np.cumsum(np.diff(level) > 0)])
    block_mass = np.bincount(block, mass)
    return np.bincount(block, mass * knots) / block_mass, np.bincount(block, mass * level) / block_mass


def interpolate(x: np.ndarray, knots: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Piecewise linear through (knots, values), linear beyond both ends with the slope of the end's segment."""
    x = np.asarray(x, np.float64)
    if len(knots) == 1:
        return np.full(x.shape, float(values[0]))
    k = np.clip(np.searchsorted(knots, x, side="right") - 1, 0, len(knots) - 2)
    slope = (values[k + 1] - values[k]) / (knots[k + 1] - knots[k])
    return values[k] + slope * (x - knots[k])


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
    return np.clip(ramps, low, high)


def nonnegative_least_squares(design: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """Coefficients ≥ 0 (p, B) of the least-squares fits of ``targets`` (n, B) on ``design`` (n, p).

    One QR factorisation shrinks every problem to p equations first.
    """
    q, r = np.linalg.qr(design)
    out = np.empty((design.shape[1], targets.shape[1]))
    try:
        for b, column in enumerate((q.T @ targets).T):
            out[:, b] = nnls(r, column, maxiter=50 * design.shape[1])[0]
        return out
    except RuntimeError as error:
        raise UserError(f"cost maps: the non-negative fit did not converge on {design.shape}: {error}") from None
