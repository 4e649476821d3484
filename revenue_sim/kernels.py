"""Compiled loops over one row of values and costs at a time: the row stays in the first-level cache while it is worked on.

Everything rests on one search, ``argmax wq·Q − wc·C`` over a row. It first runs in the arrays' own precision, over
``LANES`` interleaved lanes so that it vectorises; only lanes whose best lies within rounding of the row's best are
searched again in float64. The answer is that of float64 at the speed of float32. A row's upper hull between two prices
comes from the same search at the slope of a chord: either the chord is an edge, or the search returns a vertex above
it and both halves are searched.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit, types
from numba.extending import intrinsic

LANES = 32  # lane l holds actions l, l + 32, …; one lane is searched again in float64
SUM = {"reassoc", "contract"}  # sums vectorise; NaN and infinity still show
FMA = {"contract"}


@intrinsic
def _larger_intrinsic(typing_context, a, b):
    """``a if a > b else b`` as one select: a branch here would keep the loops from vectorising."""

    def generate(context, builder, signature, arguments):
        return builder.select(builder.fcmp_ordered(">", *arguments), *arguments)

    return (a(a, b), generate) if isinstance(a, types.Float) and a == b else None


_larger: Any = _larger_intrinsic  # its first argument is the compiler's


@njit(nogil=True, fastmath=FMA, inline="always")
def _lane_maxima(q, i, c, k, wq, wc, lanes):
    """``lanes[0, l]`` = the best ``wq·q − wc·c`` of lane l, in the arrays' precision."""
    actions = q.shape[1]
    whole = actions // LANES
    for lane in range(LANES):
        lanes[0, lane] = -np.inf
    for part in range(whole):
        for lane in range(LANES):
            j = np.uintp(part * LANES + lane)
            lanes[0, lane] = _larger(wq * q[i, j] - wc * c[k, j], lanes[0, lane])
    for lane in range(actions - whole * LANES):
        j = np.uintp(whole * LANES + lane)
        lanes[0, lane] = _larger(wq * q[i, j] - wc * c[k, j], lanes[0, lane])


@njit(nogil=True, fastmath=FMA, inline="always")
def _first_look(q, i, c, k, wq0, wc0, wq1, wc1, lanes):
    """Lane maxima under two weight pairs (lanes 0 and 1), largest |q| and |c| (2 and 3) and a finiteness sum (4)."""
    actions = q.shape[1]
    whole = actions // LANES
    zero = q.dtype.type(0)
    for lane in range(LANES):
        lanes[0, lane] = lanes[1, lane] = -np.inf
        lanes[2, lane] = lanes[3, lane] = lanes[4, lane] = zero
    for part in range(whole):
        for lane in range(LANES):
            j = np.uintp(part * LANES + lane)
            qj, cj = q[i, j], c[k, j]
            lanes[0, lane] = _larger(wq0 * qj - wc0 * cj, lanes[0, lane])
            lanes[1, lane] = _larger(wq1 * qj - wc1 * cj, lanes[1, lane])
            lanes[2, lane] = _larger(abs(qj), lanes[2, lane])
            lanes[3, lane] = _larger(abs(cj), lanes[3, lane])
            lanes[4, lane] += qj * zero + cj * zero  # NaN as soon as one number is not finite
    for lane in range(actions - whole * LANES):
        j = np.uintp(whole * LANES + lane)
        qj, cj = q[i, j], c[k, j]
        lanes[0, lane] = _larger(wq0 * qj - wc0 * cj, lanes[0, lane])
        lanes[1, lane] = _larger(wq1 * qj - wc1 * cj, lanes[1, lane])
        lanes[2, lane] = _larger(abs(qj), lanes[2, lane])
        lanes[3, lane] = _larger(abs(cj), lanes[3, lane])
        lanes[4, lane] += qj * zero + cj * zero


@njit(nogil=True, cache=True)
def _settle(q, i, c, k, wq, wc, maxima, slack):
    """Best action in float64 among the lanes within ``slack`` of the best; ties: the lower cost, then the higher value."""
    top = maxima[0]
    for lane in range(1, LANES):
        top = max(top, maxima[lane])
    threshold = top - slack
    chosen, best = 0, -np.inf
    for lane in range(LANES):
        if maxima[lane] < threshold:
            continue
        for j in range(lane, q.shape[1], LANES):
            h = wq * np.float64(q[i, j]) - wc * np.float64(c[k, j])
            if h < best:
                continue
            cheaper = c[k, j] < c[k, chosen] or (c[k, j] == c[k, chosen] and q[i, j] > q[i, chosen])
            if h > best or cheaper:
                best, chosen = h, j
    return chosen


@njit(nogil=True, cache=True)
def _not_concave(q, i, c, k, first, second, third):
    """Whether rounding left the slope after ``second`` no smaller than the one before it."""
    before = (np.float64(q[i, second]) - q[i, first]) / (np.float64(c[k, second]) - c[k, first])
    after = (np.float64(q[i, third]) - q[i, second]) / (np.float64(c[k, third]) - c[k, second])
    return after >= before


@njit(nogil=True, cache=True)
def _chain(q, i, c, k, cheap, dear, high_q, high_c, unit, vertices, stack):
    """Vertices of the upper hull from ``cheap`` to ``dear``, both on it, into ``vertices``; returns their number."""
    lanes = np.empty((1, LANES), q.dtype)  # local, so that the compiler knows nothing else points at it
    count, depth = 1, 1
    vertices[0], stack[0] = cheap, dear
    while depth > 0:
        left, right = vertices[count - 1], stack[depth - 1]
        dc, dq = np.float64(c[k, right]) - c[k, left], np.float64(q[i, right]) - q[i, left]
        if dc <= 0 or dq <= 0:
            depth -= 1
            continue
        slope = dq / dc
        size = high_q + slope * high_c
        weights = np.array([1.0, slope]).astype(lanes.dtype)
        _lane_maxima(q, i, c, k, weights[0], weights[1], lanes)
        middle = _settle(q, i, c, k, 1.0, slope, lanes[0], unit * size)
        height = (np.float64(q[i, middle]) - q[i, left]) - slope * (np.float64(c[k, middle]) - c[k, left])
        if c[k, left] < c[k, middle] < c[k, right] and height > 1e-14 * size:
            stack[depth] = middle
            depth += 1
            continue
        depth -= 1
        vertices[count] = right
        count += 1
        while count > 2 and _not_concave(q, i, c, k, vertices[count - 3], vertices[count - 2], vertices[count - 1]):
            vertices[count - 2] = vertices[count - 1]
            count -= 1
    return count


@njit(nogil=True, cache=True)
def hull_rows(q, c, counts, start, stop, weights, unit, base):
    """Hull edges of rows ``start:stop`` between two prices, one read of the rows.

    ``weights`` (2, 2) holds (wq, wc) of the high and the low price: (1, λ) for a price, (0, 1) for an infinite one,
    (1, 0) for zero. ``base`` (rows,) receives each row's best action at the high price. ``c`` may have one row for all.
    Returns edges ``ends`` (3, E) int32: row, from, to; ``steps`` (3, E): slope, count·Δcost, count·Δvalue; the base's
    cost and value; and the first row that holds a number that is not finite (−1: none).
    """
    actions = q.shape[1]
    lanes = np.empty((5, LANES), q.dtype)  # local, so that the compiler knows nothing else points at it
    native = weights.astype(q.dtype)
    vertices, stack = np.empty(actions + 2, np.int64), np.empty(actions + 2, np.int64)
    capacity = 2 * (stop - start) + actions
    ends, steps = np.empty((3, capacity), np.int32), np.empty((3, capacity))
    used, base_cost, base_value, shared = 0, 0.0, 0.0, c.shape[0] == 1
    for i in range(start, stop):
        k = 0 if shared else i
        _first_look(q, i, c, k, native[0, 0], native[0, 1], native[1, 0], native[1, 1], lanes)
        if lanes[4].sum() != 0:
            return ends[:, :0], steps[:, :0], base_cost, base_value, i
        high_q, high_c = np.float64(lanes[2].max()), np.float64(lanes[3].max())
        slack0 = unit * (weights[0, 0] * high_q + weights[0, 1] * high_c)
        slack1 = unit * (weights[1, 0] * high_q + weights[1, 1] * high_c)
        cheap = _settle(q, i, c, k, weights[0, 0], weights[0, 1], lanes[0], slack0)
        dear = _settle(q, i, c, k, weights[1, 0], weights[1, 1], lanes[1], slack1)
        base[i] = cheap
        base_cost += counts[i] * np.float64(c[k, cheap])
        base_value += counts[i] * np.float64(q[i, cheap])
        if cheap == dear or counts[i] == 0:
            continue
        number = _chain(q, i, c, k, cheap, dear, high_q, high_c, unit, vertices, stack)
        if used + number > capacity:
            capacity = 2 * capacity + number
            ends, steps = _grown_ends(ends, capacity), _grown_steps(steps, capacity)
        for v in range(number - 1):
            a, b = vertices[v], vertices[v + 1]
            dc, dq = np.float64(c[k, b]) - c[k, a], np.float64(q[i, b]) - q[i, a]
            ends[0, used], ends[1, used], ends[2, used] = i, a, b
            steps[0, used], steps[1, used], steps[2, used] = dq / dc, counts[i] * dc, counts[i] * dq
            used += 1
    return ends[:, :used], steps[:, :used], base_cost, base_value, -1


@njit(nogil=True, cache=True)
def _grown_ends(old, capacity):
    new = np.empty((3, capacity), np.int32)
    new[:, : old.shape[1]] = old
    return new


@njit(nogil=True, cache=True)
def _grown_steps(old, capacity):
    new = np.empty((3, capacity))
    new[:, : old.shape[1]] = old
    return new


@njit(nogil=True, cache=True, fastmath=SUM)
def read_rows(q, c, start, stop):
    """Sum of both arrays' rows: the least that any method must read (for benchmarks)."""
    total = q[0, 0] - q[0, 0]
    for i in range(start, stop):
        for j in range(q.shape[1]):
            total += q[i, j] + c[i, j]
    return total


@njit(nogil=True, cache=True)
def climb(rows, ends_from, ends_to, cost_steps, order, room, choice):
    """Take edges in ``order`` while they fit into ``room``; a row's edges only one after the other.

    Changes ``choice`` in place. Returns the room left before the first edge that did not fit, that edge (−1: all fit)
    and a mark per edge taken. Edges after it are still taken where they fit: the integer fill.
    """
    taken = np.zeros(len(order), np.bool_)
    split, room_at_split = -1, room
    for edge in order:
        if choice[rows[edge]] != ends_from[edge]:
            continue
        if cost_steps[edge] <= room:
            choice[rows[edge]] = ends_to[edge]
            room -= cost_steps[edge]
            taken[edge] = True
        elif split < 0:
            split, room_at_split = edge, room
    return (room if split < 0 else room_at_split), split, taken
