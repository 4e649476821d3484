"""Which action is best at a given price, from a cache of each state's candidates or over all joint actions; compiled."""

from __future__ import annotations

import numba
import numpy as np

from marca_common.arrays import require_shape
from marca_common.errors import UserError


@numba.njit(cache=True, nogil=True)
def decide_rows(
    ids: np.ndarray, first: np.ndarray, q: np.ndarray, c: np.ndarray, lambda_: np.ndarray
) -> tuple[np.ndarray, int]:
    """Best candidate of the states ``ids`` (M,): position in the cache (M,), and where the first id outside it stands (−1: none).

    ``first`` (S + 1,), ``q`` (V,), ``c`` (V, D) and ``lambda_`` (D,) must fit: the policy checks them once.
    """
    out, states = np.empty(len(ids), np.int64), len(first) - 1
    for i in range(len(ids)):
        s = ids[i]
        if s < 0 or s >= states:
            return out, i
        out[i] = _best(first[s], first[s + 1], q, c, lambda_)
    return out, -1


@numba.njit(cache=True, nogil=True)
def look_up(ids: np.ndarray, table: np.ndarray) -> tuple[np.ndarray, int]:
    """``table[ids]`` (M,), and where the first id outside it stands (−1: none)."""
    out = np.empty(len(ids), table.dtype)
    for i in range(len(ids)):
        if ids[i] < 0 or ids[i] >= len(table):
            return out, i
        out[i] = table[ids[i]]
    return out, -1


@numba.njit(cache=True, nogil=True)
def positions(ids: np.ndarray, joint: np.ndarray, first: np.ndarray, cached: np.ndarray) -> np.ndarray:
    """Position of each (state, joint action) in the cache of joint actions ``cached`` (V,), −1 where it is none, (M,).

    ``ids`` must lie in the cache: the policy checks them.
    """
    out = np.full(len(ids), -1, np.int64)
    for i in range(len(ids)):
        for k in range(first[ids[i]], first[ids[i] + 1]):
            if cached[k] == joint[i]:
                out[i] = k
                break
    return out


@numba.njit(inline="always", cache=True, nogil=True)
def _best(start: int, stop: int, q: np.ndarray, c: np.ndarray, lambda_: np.ndarray) -> int:
    best, where = -np.inf, start
    if len(lambda_) == 1:  # a concave chain: once the score falls it never rises again
        price = lambda_[0]
        for k in range(start, stop):
            score = q[k] - price * c[k, 0]
            if score <= best:
                break
            best, where = score, k
        return where
    for k in range(start, stop):
        score = q[k]
        for d in range(len(lambda_)):
            score -= lambda_[d] * c[k, d]
        if score > best:
            best, where = score, k
    return where


def scan(q: np.ndarray, c: np.ndarray, lambda_: np.ndarray) -> np.ndarray:
    """Uncached decision over all joint actions: ``q`` (S, A), ``c`` (S, A, D) → joint action (S,); a UserError where they don't fit."""
    require_shape("q", q, (None, None))
    require_shape("c", c, (*q.shape, len(lambda_)))
    if not q.shape[1]:
        raise UserError("q: got no joint action; expected at least one")
    return np.asarray(_scan(q, c, lambda_))


@numba.njit(cache=True, nogil=True)
def _scan(q: np.ndarray, c: np.ndarray, lambda_: np.ndarray) -> np.ndarray:
    out = np.zeros(len(q), np.int64)
    for s in range(len(q)):
        best = -np.inf
        for a in range(q.shape[1]):
            score = float(q[s, a])
            for d in range(len(lambda_)):
                score -= lambda_[d] * c[s, a, d]
            if score > best:
                best, out[s] = score, a
    return out
