"""Compiled walks along the hulls of a shard, between two prices.

Edges with a slope of at least ``high`` are taken, those below ``low`` are not, and those between are in question. Slopes are
the same float64 divisions as in the shard's histogram, so that each edge falls on the same side everywhere. A walk ends at the
first state i whose offsets do not fit the file, or whose edges do not fit the histogram, and returns −1 − i.
"""

from __future__ import annotations

import numpy as np
from numba import njit


@njit(nogil=True, inline="always")
def _add(total: np.ndarray, place: int, number: float) -> None:
    """Add to a sum ``total[place]`` whose rounding error is kept in ``total[place + 1]`` (Neumaier)."""
    old = total[place]
    new = old + number
    total[place + 1] += (old - new) + number if abs(old) >= abs(number) else (number - new) + old
    total[place] = new


@njit(nogil=True, cache=True)
def split_edges(
    first: np.ndarray, action: np.ndarray, c: np.ndarray, q: np.ndarray, count: np.ndarray, high: float, low: float,
    chosen: np.ndarray, place: np.ndarray, step: np.ndarray, sums: np.ndarray,
) -> int:  # fmt: skip
    """Each state's action at the price ``high`` into ``chosen`` (S,), and the edges in question.

    ``place`` (2, E) int32 receives state and vertex left, ``step`` (3, E) slope, count·Δcost and count·Δvalue, in the order of
    states; their number is returned. ``sums`` (4,) receives cost and value of the actions chosen, each with its rounding error.
    """
    used, size = 0, place.shape[1]
    for i in range(len(count)):
        k, last = first[i], first[i + 1] - 1
        if k < 0 or last < k or last >= len(c):
            return -1 - i
        slope = -1.0
        while k < last:
            slope = (np.float64(q[k + 1]) - q[k]) / (np.float64(c[k + 1]) - c[k])
            if not slope >= high:
                break
            k += 1
        chosen[i] = action[k]
        requests = count[i]
        _add(sums, 0, requests * np.float64(c[k]))
        _add(sums, 2, requests * np.float64(q[k]))
        while k < last and slope >= low and requests > 0:
            if used == size:
                return -1 - i
            dc, dq = np.float64(c[k + 1]) - c[k], np.float64(q[k + 1]) - q[k]
            place[0, used], place[1, used] = i, k
            step[0, used], step[1, used], step[2, used] = slope, requests * dc, requests * dq
            used += 1
            k += 1
            if k < last:
                slope = (np.float64(q[k + 1]) - q[k]) / (np.float64(c[k + 1]) - c[k])
    return used


@njit(nogil=True, cache=True)
def slope_sums(
    first: np.ndarray, c: np.ndarray, q: np.ndarray, count: np.ndarray, shift: int, lowest: int, edges: np.ndarray,
    cost: np.ndarray,
) -> int:  # fmt: skip
    """Edges per bin of their slope's float64 bits less the last ``shift``, from bin ``lowest`` on: number and Σ count·Δcost."""
    bits = np.empty(1)
    for i in range(len(count)):
        k, last = first[i], first[i + 1] - 1
        if k < 0 or last < k or last >= len(c):
            return -1 - i
        while k < last and count[i] > 0:
            dc = np.float64(c[k + 1]) - c[k]
            bits[0] = (np.float64(q[k + 1]) - q[k]) / dc
            place = (bits.view(np.int64)[0] >> shift) - lowest
            if 0 <= place < len(edges):
                edges[place] += 1
                cost[place] += count[i] * dc
            k += 1
    return 0
