"""The last layer of mixing over all joint actions, compiled: serving only, no gradient."""

from __future__ import annotations

import numba
import numpy as np

EXP_RANGE = 40.0  # inside it exp(x + y) = exp(x) exp(y) loses nothing in float32; outside, the plain layer is used


@numba.njit(cache=True, nogil=True, fastmath=True)
def mix_elu(
    left: np.ndarray, right: np.ndarray, exp_left: np.ndarray, exp_right: np.ndarray, w2: np.ndarray, b2: np.ndarray
) -> np.ndarray:
    """Σ_e elu(left + right) w2 + b2 for every pair: ``left`` (S, N, E), ``right`` (S, n, E) → (S, N · n).

    exp(left) and exp(right) are given, so that no exponential is taken per joint action.
    """
    size, many, width = left.shape
    few = right.shape[1]
    out = np.empty((size, many * few), np.float32)
    for s in range(size):
        for i in range(many):
            for j in range(few):
                total = b2[s]
                for e in range(width):
                    x = left[s, i, e] + right[s, j, e]
                    negative = exp_left[s, i, e] * exp_right[s, j, e] - np.float32(1)
                    total += w2[s, e] * (x if x > 0 else negative)
                out[s, i * few + j] = total
    return out


@numba.njit(cache=True, nogil=True, fastmath=True)
def mix_relu(left: np.ndarray, right: np.ndarray, w2: np.ndarray, b2: np.ndarray) -> np.ndarray:
    """Σ_e relu(left + right) w2 + b2 for every pair, shapes as in ``mix_elu``."""
    size, many, width = left.shape
    few = right.shape[1]
    out = np.empty((size, many * few), np.float32)
    for s in range(size):
        for i in range(many):
            for j in range(few):
                total = b2[s]
                for e in range(width):
                    total += w2[s, e] * max(left[s, i, e] + right[s, j, e], np.float32(0))
                out[s, i * few + j] = total
    return out
