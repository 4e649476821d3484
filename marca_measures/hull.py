"""Which joint actions of a state can ever be best; compiled.

An action is best for some price λ ≥ 0 exactly if it is a vertex of the upper hull of (C, Q) on its rising side. For one
service that is a concave chain; for two, each action's region of prices is a polygon, found by clipping.
"""

from __future__ import annotations

import numba
import numpy as np

from marca_common.arrays import require_shape
from marca_common.errors import UserError


def chain(q: np.ndarray, c: np.ndarray) -> np.ndarray:
    """One service: actions best for some λ ≥ 0, by rising cost. ``q`` (A,), ``c`` (A,) → indices (V,)."""
    require_shape("q", q, (None,))
    require_shape("c", c, q.shape)
    return np.asarray(_chain(q, c))


def pareto(q: np.ndarray, c: np.ndarray) -> np.ndarray:
    """Actions that no other one dominates (no dearer in any service, no worse): ``q`` (A,), ``c`` (A, D) → (V,).

    Of equal actions the first is kept.
    """
    require_shape("q", q, (None,))
    require_shape("c", c, (len(q), None))
    return np.asarray(_pareto(q, c))


def candidates(q: np.ndarray, c: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Actions that some λ ≥ 0 makes best, for a block of states.

    ``q`` (S, A) and ``c`` (S, A, D), float64. Returns counts (S,) and the joint actions one state after another (V,),
    in rising cost (D = 1) or in order of total cost. For D ≥ 3 the Pareto front is kept, which holds all of them.
    """
    require_shape("q", q, (None, None))
    require_shape("c", c, (*q.shape, None))
    if not (q.shape[1] and c.shape[2]):
        raise UserError(f"c: got shape {c.shape}; expected at least one joint action and one service")
    counts, actions = _candidates(q, c)
    return counts, actions


@numba.njit(cache=True, nogil=True)
def _chain(q: np.ndarray, c: np.ndarray) -> np.ndarray:
    order = np.argsort(c, kind="mergesort")
    kept = np.empty(len(q), np.int64)
    size = 0
    for a in order:
        if size and q[a] <= q[kept[size - 1]]:
            continue  # dearer (or as dear) and no better
        if size and c[a] <= c[kept[size - 1]]:
            size -= 1  # as dear as the last one, and better
        while size > 1:
            i, j = kept[size - 2], kept[size - 1]
            if (q[j] - q[i]) * (c[a] - c[j]) > (q[a] - q[j]) * (c[j] - c[i]):
                break
            size -= 1
        kept[size] = a
        size += 1
    return kept[:size].copy()


@numba.njit(cache=True, nogil=True)
def _pareto(q: np.ndarray, c: np.ndarray) -> np.ndarray:
    order = np.argsort(c.sum(1), kind="mergesort")
    kept = np.empty(len(q), np.int64)
    size = 0
    for a in order:
        dominated = False
        for k in range(size):
            b = kept[k]
            if q[b] >= q[a]:
                cheaper = True
                for d in range(c.shape[1]):
                    if c[b, d] > c[a, d]:
                        cheaper = False
                        break
                if cheaper:
                    dominated = True
                    break
        if not dominated:
            kept[size] = a
            size += 1
    return _undominated(q, c, kept[:size])


@numba.njit(cache=True, nogil=True)
def _undominated(q: np.ndarray, c: np.ndarray, kept: np.ndarray) -> np.ndarray:
    """Second pass: equal cost sums (up to rounding) may hide a dominated action that came first."""
    out = np.empty(len(kept), np.int64)
    size = 0
    for i, a in enumerate(kept):
        dominated = False
        for j, b in enumerate(kept):
            if i == j or q[b] < q[a]:
                continue
            no_dearer, better = True, q[b] > q[a] or j < i
            for d in range(c.shape[1]):
                if c[b, d] > c[a, d]:
                    no_dearer = False
                    break
                better = better or c[b, d] < c[a, d]
            if no_dearer and better:
                dominated = True
                break
        if not dominated:
            out[size] = a
            size += 1
    return out[:size].copy()


@numba.njit(cache=True, nogil=True)
def _price_polygons(q: np.ndarray, c: np.ndarray, front: np.ndarray) -> np.ndarray:
    """Two services: of a Pareto front, the actions whose region of prices in the quadrant λ ≥ 0 is not empty.

    The quadrant is bounded where every price would settle any choice by cost alone. The test is lenient by a
    rounding error, so that nothing that could be best is lost.
    """
    bound, slack = _price_bound(q, c, front)
    keep = np.zeros(len(front), np.bool_)
    for i in range(len(front)):
        keep[i] = _region(q, c, front, i, bound, slack)
    return front[keep]


@numba.njit(cache=True, nogil=True)
def _price_bound(q: np.ndarray, c: np.ndarray, front: np.ndarray) -> tuple[float, float]:
    low, high, gap, widest = np.inf, -np.inf, np.inf, 0.0
    for i in front:
        low, high = min(low, q[i]), max(high, q[i])
        for j in front:
            for d in range(2):
                difference = abs(c[i, d] - c[j, d])
                widest = max(widest, difference)
                if difference > 1e-9 * (1 + abs(c[i, d])):
                    gap = min(gap, difference)
    if not np.isfinite(gap):
        return 1.0, 1e-12
    bound = 2 * (high - low) / gap + 1e-9
    return bound, 1e-12 * (high - low + bound * widest)


@numba.njit(cache=True, nogil=True)
def _region(q: np.ndarray, c: np.ndarray, front: np.ndarray, i: int, bound: float, slack: float) -> bool:
    """True if some price in the box makes ``front[i]`` at least as good as every other: clip the box by half-planes."""
    p = front[i]
    limit = 64
    x, y = np.empty(limit), np.empty(limit)
    u, v = np.empty(limit), np.empty(limit)
    x[0], y[0], x[1], y[1] = 0.0, 0.0, bound, 0.0
    x[2], y[2], x[3], y[3] = bound, bound, 0.0, bound
    n = 4
    for j in front:
        if j == p:
            continue
        a, b, h = c[p, 0] - c[j, 0], c[p, 1] - c[j, 1], q[p] - q[j] + slack  # a λ1 + b λ2 ≤ h
        m = 0
        for k in range(n):
            nxt = k + 1 if k + 1 < n else 0
            inside, ahead = h - a * x[k] - b * y[k], h - a * x[nxt] - b * y[nxt]
            if inside >= 0:
                u[m], v[m] = x[k], y[k]
                m += 1
            if (inside > 0 > ahead) or (inside < 0 < ahead):
                t = inside / (inside - ahead)
                u[m], v[m] = x[k] + t * (x[nxt] - x[k]), y[k] + t * (y[nxt] - y[k])
                m += 1
            if m > limit - 3:
                return True  # many corners: surely not empty
        if m == 0:
            return False
        n = m
        for k in range(n):
            x[k], y[k] = u[k], v[k]
    return True


@numba.njit(cache=True, nogil=True)
def _candidates(q: np.ndarray, c: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    size, services = len(c), c.shape[2]
    counts = np.empty(size, np.int64)
    actions = np.empty(size * 64, np.int64)
    end = 0
    for s in range(size):
        if services == 1:
            kept = _chain(q[s], c[s, :, 0])
        else:
            kept = _pareto(q[s], c[s])
            if services == 2:
                kept = _price_polygons(q[s], c[s], kept)
        if end + len(kept) > len(actions):
            grown = np.empty(2 * len(actions) + len(kept), np.int64)
            grown[:end] = actions[:end]
            actions = grown
        actions[end : end + len(kept)] = kept
        counts[s] = len(kept)
        end += len(kept)
    return counts, actions[:end].copy()
