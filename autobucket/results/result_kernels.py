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
    """Inputs x0 = [state_s, action_p] of every pair and ``x0 ⊙ (1 + by_state_s + by_action_p) + outer``, each (S · P, d)."""
    size, many, start = len(state), len(action), state.shape[1]
    x0 = np.empty((size * many, len(outer)), np.float32)
    x = np.empty_like(x0)
    for s in range(size):
        for p in range(many):
            row0, row, factor, added = x0[s * many + p], x[s * many + p], by_state[s], by_action[p]
            one, other = state[s], action[p]
            for d in range(start):
                row0[d] = one[d]
            for d in range(len(other)):
                row0[start + d] = other[d]
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
def spread(known: np.ndarray, steps: np.ndarray, sums: np.ndarray, rows: np.ndarray) -> None:
    """Rows (P + M + 1, W) whose sums of two are a function of all joint actions, from some values ``known`` (P, W) of it.

    ``steps`` (N, 2) turn the values into differences, and ``sums`` (M, 2) of two rows each make the rows after them
    (``joint_scoring.interactions``). The last row stays as it is, zero.
    """
    many, width = known.shape
    for p in range(many):
        for w in range(width):
            rows[p, w] = known[p, w]
    for n in range(len(steps)):
        to, row = rows[steps[n, 0]], rows[steps[n, 1]]
        for w in range(width):
            to[w] -= row[w]
    for n in range(len(sums)):
        to, one, other = rows[many + n], rows[sums[n, 0]], rows[sums[n, 1]]
        for w in range(width):
            to[w] = one[w] + other[w]


@njit(cache=True, nogil=True, fastmath=True)
def mix(
    deep: np.ndarray,
    fixed: np.ndarray,
    known: np.ndarray,
    steps: np.ndarray,
    sums: np.ndarray,
    ends: np.ndarray,
    gates: np.ndarray,
    out: np.ndarray,
) -> None:
    """Experts mixed for every task, Σ_e gate_e · max(expert_e, 0), from the parts that make up the experts.

    Parts: ``deep`` (S, A, E · U) + ``fixed`` (A, E · U) + what ``known`` (S, P, E · U) spreads to, two rows at ``ends``
    (A, 2). ``gates`` (T, S or 1, A, E); ``out`` (T, S, A, U).
    """
    size, actions, width = deep.shape
    tasks, _, _, experts = gates.shape
    units = width // experts
    rows = np.zeros((known.shape[1] + len(sums) + 1, width), np.float32)
    expert = np.empty(width, np.float32)
    for s in range(size):
        spread(known[s], steps, sums, rows)
        for a in range(actions):
            part, base, one, other = deep[s, a], fixed[a], rows[ends[a, 0]], rows[ends[a, 1]]
            for w in range(width):
                expert[w] = max(part[w] + base[w] + one[w] + other[w], _ZERO)
            for t in range(tasks):
                total, share = out[t, s, a], gates[t, s % gates.shape[1], a]
                for u in range(units):
                    total[u] = share[0] * expert[u]
                for e in range(1, experts):
                    for u in range(units):
                        total[u] += share[e] * expert[e * units + u]
