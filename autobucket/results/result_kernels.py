"""Loops of joint scoring, compiled: float32, CPU, no gradient. Torch's own inner loops are too short here to be fast."""

from __future__ import annotations

import numpy as np
from numba import njit

_ZERO = np.float32(0)


@njit(cache=True, nogil=True, fastmath=True)
def relu_pairs(state: np.ndarray, action: np.ndarray, out: np.ndarray) -> None:
    """``out[u, s, a] = max(state[s, u] + action[u, a], 0)``: (S, U), (U, A) → (U, S, A)."""
    for u in range(len(action)):
        for s in range(len(state)):
            row, added, shift = out[u, s], action[u], state[s, u]
            for a in range(len(row)):
                row[a] = max(added[a] + shift, _ZERO)


@njit(cache=True, nogil=True, fastmath=True)
def relu_rows(x: np.ndarray, bias: np.ndarray) -> None:
    """``x[u, i] = max(x[u, i] + bias[u], 0)`` in place: (U, N), (U,)."""
    for u in range(len(x)):
        row, shift = x[u], bias[u]
        for i in range(len(row)):
            row[i] = max(row[i] + shift, _ZERO)


@njit(cache=True, nogil=True, fastmath=True)
def first_cross(
    state: np.ndarray, action: np.ndarray, by_state: np.ndarray, by_action: np.ndarray, outer: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Inputs x0 = [state_s, action_p] of every pair and ``x0 ⊙ (1 + by_state_s + by_action_p) + outer``, each (S, P, d)."""
    size, many, start = len(state), len(action), state.shape[1]
    x0 = np.empty((size, many, len(outer)), np.float32)
    x = np.empty_like(x0)
    for s in range(size):
        for p in range(many):
            row0, row, factor, added = x0[s, p], x[s, p], by_state[s], by_action[p]
            row0[:start], row0[start:] = state[s], action[p]
            for d in range(len(row)):
                row[d] = row0[d] + row0[d] * (factor[d] + added[d]) + outer[d]
    return x0, x


@njit(cache=True, nogil=True, fastmath=True)
def next_cross(x: np.ndarray, x0: np.ndarray, product: np.ndarray, inner: np.ndarray, outer: np.ndarray) -> None:
    """``x += x0 ⊙ (product + inner) + outer`` in place: three of (N, d), two of (d,)."""
    for i in range(len(x)):
        row, row0, one = x[i], x0[i], product[i]
        for d in range(len(row)):
            row[d] += row0[d] * (one[d] + inner[d]) + outer[d]


@njit(cache=True, nogil=True, fastmath=True)
def spread(
    known: np.ndarray, steps: np.ndarray, sums: np.ndarray, ends: np.ndarray, fixed: np.ndarray, out: np.ndarray
) -> None:
    """``out[s, a] = fixed[a] + f_s(a)``, (S, A, W), from some values ``known`` (S, P, W) of functions f_s of joint actions.

    ``joint_scoring.interactions`` makes the others: ``steps`` (N, 2) turn values into differences, ``sums`` (M, 2) of two
    rows each make the rows after them, and the rows at ``ends`` (A, 2) add up to f_s. The last row of all is zero.
    """
    many, width = known.shape[1:]
    rows = np.zeros((many + len(sums) + 1, width), np.float32)
    for s in range(len(known)):
        rows[:many] = known[s]
        for n in range(len(steps)):
            to, row = rows[steps[n, 0]], rows[steps[n, 1]]
            for w in range(width):
                to[w] -= row[w]
        for n in range(len(sums)):
            to, one, other = rows[many + n], rows[sums[n, 0]], rows[sums[n, 1]]
            for w in range(width):
                to[w] = one[w] + other[w]
        for a in range(len(ends)):
            to, base, one, other = out[s, a], fixed[a], rows[ends[a, 0]], rows[ends[a, 1]]
            for w in range(width):
                to[w] = base[w] + one[w] + other[w]


@njit(cache=True, nogil=True, fastmath=True)
def mix(experts: np.ndarray, weights: np.ndarray, out: np.ndarray) -> None:
    """Σ_e weights_e · max(experts_e, 0): (N, E, U) → (N, U); ``weights`` (M, E) repeat where M < N, a multiple of it."""
    size, many, width = experts.shape
    for i in range(size):
        total, share = out[i], weights[i % len(weights)]
        for u in range(width):
            total[u] = share[0] * max(experts[i, 0, u], _ZERO)
        for e in range(1, many):
            for u in range(width):
                total[u] += share[e] * max(experts[i, e, u], _ZERO)
