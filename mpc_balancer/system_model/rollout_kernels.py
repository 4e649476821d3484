"""Compiled inner loops of the system model: one core, no temporary arrays, small batches.

BLAS packs its operands, which costs more than the product itself where a batch has few rows; these loops keep a row of
the output in cache and read the weights once per two rows. They may assume finite numbers: the caller sees to it.
"""

from __future__ import annotations

import math

import numba
import numpy as np

from marca_common.fast_tanh import fast_tanh


@numba.njit(fastmath=True, cache=True, error_model="numpy")
def _affine(h: np.ndarray, weight: np.ndarray, bias: np.ndarray, out: np.ndarray) -> None:
    """out (B, H) = h (B, F) @ weight (F, H) + bias; two rows and four inputs at a time keep the products in registers."""
    rows, inputs = h.shape
    width = weight.shape[1]
    for r in range(rows):
        for j in range(width):
            out[r, j] = bias[j]
    whole = inputs // 4 * 4
    for k in range(0, whole, 4):
        w, x, y, z = weight[k], weight[k + 1], weight[k + 2], weight[k + 3]
        for r in range(0, rows - 1, 2):
            a, b, c, d = h[r, k], h[r, k + 1], h[r, k + 2], h[r, k + 3]
            e, f, g, i = h[r + 1, k], h[r + 1, k + 1], h[r + 1, k + 2], h[r + 1, k + 3]
            one, two = out[r], out[r + 1]
            for j in range(width):
                one[j] += a * w[j] + b * x[j] + c * y[j] + d * z[j]
                two[j] += e * w[j] + f * x[j] + g * y[j] + i * z[j]
        if rows % 2:
            a, b, c, d = h[rows - 1, k], h[rows - 1, k + 1], h[rows - 1, k + 2], h[rows - 1, k + 3]
            one = out[rows - 1]
            for j in range(width):
                one[j] += a * w[j] + b * x[j] + c * y[j] + d * z[j]
    for k in range(whole, inputs):
        for r in range(rows):
            a = h[r, k]
            for j in range(width):
                out[r, j] += a * weight[k, j]


@numba.njit(fastmath=True, cache=True, error_model="numpy")
def _dense(h: np.ndarray, weight: np.ndarray, bias: np.ndarray, out: np.ndarray) -> None:
    """As _affine; large batches go to BLAS."""
    if h.shape[0] > 8 and h.shape[1] > 8:
        np.dot(h, weight, out)
        for r in range(out.shape[0]):
            for j in range(out.shape[1]):
                out[r, j] += bias[j]
    else:
        _affine(h, weight, bias, out)


@numba.njit(fastmath=True, cache=True, error_model="numpy")
def rollout(
    start: np.ndarray,
    drive: np.ndarray,
    into: np.ndarray,
    weights: tuple[np.ndarray, ...],
    biases: tuple[np.ndarray, ...],
    law: bool,
    carry: np.ndarray,
    idle: np.ndarray,
    level: np.ndarray,
    spread: np.float32,
    traffic: np.ndarray,
    tape: tuple[np.ndarray, ...],
    loads: np.ndarray,
    path: np.ndarray,
) -> None:
    """CPU paths (B, N, D) of B plans: fills ``path``, and ``tape`` (one (N, B, H) per hidden layer) and ``loads`` (N, B, D).

    ``drive`` (N, B, H) is what prices and exogenous inputs add to the first layer, ``into`` (D, H) the weights of CPU.
    ``weights`` are those after the first layer; ``law`` says which head.
    """
    steps, batch, width = drive.shape
    size = into.shape[0]
    c = start.copy()
    out = np.empty((batch, size), np.float32)
    last = len(weights) - 1
    for i in range(steps):
        h = tape[0][i]
        for r in range(batch):
            for j in range(width):
                h[r, j] = drive[i, r, j]
            for s in range(size):
                a = c[r, s]
                for j in range(width):
                    h[r, j] += a * into[s, j]
            for j in range(width):
                h[r, j] = fast_tanh(h[r, j])
        for k in range(last):
            g = tape[k + 1][i]
            _dense(h, weights[k], biases[k], g)
            for r in range(batch):
                for j in range(g.shape[1]):
                    g[r, j] = fast_tanh(g[r, j])
            h = g
        for r in range(batch):
            for s in range(size):
                out[r, s] = biases[last][s]
            for k in range(h.shape[1]):
                for s in range(size):
                    out[r, s] += h[r, k] * weights[last][k, s]
            for s in range(size):
                if law:
                    load = math.exp(min(out[r, s] + level[s], 8.0)) * traffic[i]
                    loads[i, r, s] = load
                    c[r, s] = carry[s] * c[r, s] + (1 - carry[s]) * (idle[s] + load)
                else:
                    c[r, s] = level[s] + spread * out[r, s]
                path[r, i, s] = c[r, s]


@numba.njit(cache=True, error_model="numpy")
def chain_rule(by_cpu: np.ndarray, by_price: np.ndarray, out: np.ndarray) -> None:
    """∂C_i/∂u_j (B, N, D, N, L) from the Jacobians of single steps (B, N, D, D) and (B, N, D, L): fills ``out``."""
    batch, steps, size, prices = by_price.shape
    for b in range(batch):
        for i in range(steps):
            for s in range(size):
                for p in range(prices):
                    out[b, i, s, i, p] = by_price[b, i, s, p]
                    for j in range(i):
                        total = 0.0
                        for q in range(size):
                            total += by_cpu[b, i, s, q] * out[b, i - 1, q, j, p]
                        out[b, i, s, j, p] = total
