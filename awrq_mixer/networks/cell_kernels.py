"""The GRU cell in compiled passes, float32, CPU only: over a tree of sub-actions (serving), and along logged ones (training)."""

from __future__ import annotations

import numba
import numpy as np

from marca_common.fast_tanh import fast_tanh

_HALF = np.float32(0.5)


@numba.njit(cache=True, nogil=True, fastmath=True, error_model="numpy")
def grow(
    x: np.ndarray, table: np.ndarray, gates: np.ndarray, parents: np.ndarray, bias: np.ndarray, out: np.ndarray
) -> None:
    """Hidden states after each choice: fills ``out`` (S, M, n, H).

    ``x`` (S, 3H) is the input product of the prefix, ``table`` (n, 3H) what each choice adds to it. ``gates`` (S, M, 3H)
    is the recurrent product of the ``parents`` (S, M, H), ``bias`` (H,) the candidate's. Gates in the order r, z, n.
    """
    size, many, width = parents.shape
    choices = len(table)
    inputs = np.empty((choices, 3 * width), np.float32)
    for s in range(size):
        for c in range(choices):
            for j in range(3 * width):
                inputs[c, j] = x[s, j] + table[c, j]
        for m in range(many):
            g, h = gates[s, m], parents[s, m]
            for c in range(choices):
                i, o = inputs[c], out[s, m, c]
                for j in range(width):
                    r = _HALF + _HALF * fast_tanh(_HALF * (i[j] + g[j]))
                    z = _HALF + _HALF * fast_tanh(_HALF * (i[width + j] + g[width + j]))
                    n = fast_tanh(i[2 * width + j] + r * (g[2 * width + j] + bias[j]))
                    o[j] = n + z * (h[j] - n)


@numba.njit(cache=True, nogil=True, fastmath=True, error_model="numpy")
def step_on(
    start: int,
    stop: int,
    x: np.ndarray,
    table: np.ndarray,
    action: np.ndarray,
    g: np.ndarray,
    h: np.ndarray,
    bias: np.ndarray,
    gates: np.ndarray,
    out: np.ndarray,
) -> None:
    """Rows ``start`` to ``stop`` of one step along logged sub-actions: fills ``out`` (B, H) and ``gates`` (B, 3H), which are r, z, n.

    Inputs as in TrainingCell. ``g`` and ``h`` of a single row serve all rows; ``gates`` without rows are not kept.
    """
    width = len(bias)
    kept, scratch = len(gates) > 0, np.empty(3 * width, np.float32)
    for b in range(start, stop):
        i, add, p, h0, o = x[b], table[action[b]], g[b % len(g)], h[b % len(h)], out[b]
        s = gates[b] if kept else scratch
        for j in range(2 * width):  # r and z; short loops, or the compiler can't tell that nothing overlaps
            s[j] = _HALF + _HALF * fast_tanh(_HALF * (i[j] + add[j] + p[j]))
        r, z, n = s[:width], s[width : 2 * width], s[2 * width :]
        i, add, p = i[2 * width :], add[2 * width :], p[2 * width :]
        for j in range(width):
            n[j] = fast_tanh(i[j] + add[j] + r[j] * (p[j] + bias[j]))
        for j in range(width):
            o[j] = n[j] + z[j] * (h0[j] - n[j])


@numba.njit(cache=True, nogil=True, fastmath=True, error_model="numpy")
def step_back(
    start: int,
    stop: int,
    d_out: np.ndarray,
    action: np.ndarray,
    g: np.ndarray,
    h: np.ndarray,
    bias: np.ndarray,
    gates: np.ndarray,
    d_x: np.ndarray,
    d_g: np.ndarray,
    d_h: np.ndarray,
    d_table: np.ndarray,
    d_bias: np.ndarray,
) -> None:
    """Gradients of ``step_on`` for rows ``start`` to ``stop``: fills ``d_x``, ``d_g``, ``d_h``; adds to ``d_table`` and ``d_bias``."""
    width = len(bias)
    one = np.float32(1)
    for b in range(start, stop):
        d, s, p, h0 = d_out[b], gates[b], g[b % len(g)], h[b % len(h)]
        r, z, n = s[:width], s[width : 2 * width], s[2 * width :]
        dx, dg, dh, dt = d_x[b], d_g[b % len(d_g)], d_h[b % len(d_h)], d_table[action[b]]
        d_r, d_z, d_n, d_p = dx[:width], dx[width : 2 * width], dx[2 * width :], dg[2 * width :]
        candidate = p[2 * width :]
        for j in range(width):
            d_n[j] = d[j] * (one - z[j]) * (one - n[j] * n[j])
        for j in range(width):
            d_z[j] = d[j] * (h0[j] - n[j]) * z[j] * (one - z[j])
        for j in range(width):
            d_r[j] = d_n[j] * (candidate[j] + bias[j]) * r[j] * (one - r[j])
        for j in range(width):
            dh[j] = d[j] * z[j]
            d_p[j] = d_n[j] * r[j]
        for j in range(2 * width):
            dg[j] = dx[j]
        for j in range(3 * width):
            dt[j] += dx[j]
        for j in range(width):
            d_bias[j] += d_n[j] * r[j]  # not d_p, which threads may share
