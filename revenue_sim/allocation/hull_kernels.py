"""Compiled loops over one row of values and costs at a time: the row stays in the first-level cache while it is worked on.

The hull found here is ``marca_measures.hull.chain`` of a row, which is the definition. This is its fast search, for large float32
matrices, requests per row and prices between two bounds; a test holds the two against each other.

Everything rests on one search, ``argmax wq·Q − wc·C`` over a row. It first runs in the arrays' own precision, over
``LANES`` interleaved lanes so that it vectorises; only lanes whose best lies within rounding of the row's best are
searched again in float64. The answer is that of float64 at the speed of float32. A row's upper hull between two prices
comes from the same search at the slope of a chord: either the chord is an edge, or the search returns a vertex above
it and both halves are searched.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic

LANES = 32


@intrinsic
def _larger_intrinsic(typing_context: Any, a: Any, b: Any) -> Any:
    """The larger of two floats as one instruction; a branch, or a NaN rule, would keep the loops from vectorising.

    With a NaN the result means nothing: the finiteness sum of the same pass is looked at first.
    """

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        kind = arguments[0].type
        name = "llvm.maxnum." + ("f32" if isinstance(kind, ir.FloatType) else "f64")
        known = builder.module.globals.get(name)
        function = known or ir.Function(builder.module, ir.FunctionType(kind, [kind, kind]), name)
        return builder.call(function, arguments, fastmath=("nnan", "nsz"))

    return (a(a, b), generate) if isinstance(a, types.Float) and a == b else None


@intrinsic
def _prefetch_intrinsic(typing_context: Any, address: Any) -> Any:
    """Ask for the cache line at an address; rows are about a page long, where the hardware's own prefetcher stops."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        pointer, number = ir.IntType(8).as_pointer(), ir.IntType(32)
        kind = ir.FunctionType(ir.VoidType(), [pointer, number, number, number])
        function = builder.module.globals.get("llvm.prefetch.p0") or ir.Function(
            builder.module, kind, "llvm.prefetch.p0"
        )
        target = builder.inttoptr(arguments[0], pointer)
        builder.call(function, [target, number(0), number(3), number(1)])  # to read, keep near, data
        return context.get_dummy_value()

    return (types.void(types.uintp), generate) if isinstance(address, types.Integer) else None


_larger: Any = _larger_intrinsic  # the intrinsics' first argument is the compiler's
_prefetch: Any = _prefetch_intrinsic


@njit(nogil=True, inline="always")
def _lane_maxima(q: np.ndarray, i: int, c: np.ndarray, k: int, wq: float, wc: float, lanes: np.ndarray) -> None:
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


@njit(nogil=True, inline="always")
def _first_look(
    q: np.ndarray, i: int, c: np.ndarray, k: int, wq0: float, wc0: float, wq1: float, wc1: float, lanes: np.ndarray,
    next_q: np.uintp, next_c: np.uintp,
) -> None:  # fmt: skip
    """Lane maxima under two weight pairs (lanes 0 and 1), largest |q| and |c| (2 and 3) and a finiteness sum (4).

    Meanwhile the rows at the addresses ``next_q`` and ``next_c`` are asked for.
    """
    step = np.uintp(LANES * q.itemsize)
    actions = q.shape[1]
    whole = actions // LANES
    zero = q.dtype.type(0)
    for lane in range(LANES):
        lanes[0, lane] = lanes[1, lane] = -np.inf
        lanes[2, lane] = lanes[3, lane] = lanes[4, lane] = zero
    for part in range(whole):
        for line in range(0, step, 64):
            _prefetch(next_q + np.uintp(part) * step + np.uintp(line))
            _prefetch(next_c + np.uintp(part) * step + np.uintp(line))
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
def _settle(
    q: np.ndarray, i: int, c: np.ndarray, k: int, wq: float, wc: float, maxima: np.ndarray, row: int, slack: float
) -> int:
    """Best action in float64 among the lanes within ``slack`` of the best; ties: the lower cost, then the higher value."""
    top = maxima[row, 0]
    for lane in range(1, LANES):
        top = _larger(top, maxima[row, lane])
    threshold = top - slack
    chosen, best = 0, -np.inf
    for lane in range(LANES):
        if maxima[row, lane] < threshold:
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
def _not_concave(q: np.ndarray, i: int, c: np.ndarray, k: int, first: int, second: int, third: int) -> bool:
    """Whether rounding left the slope after ``second`` no smaller than the one before it."""
    before = (np.float64(q[i, second]) - q[i, first]) / (np.float64(c[k, second]) - c[k, first])
    after = (np.float64(q[i, third]) - q[i, second]) / (np.float64(c[k, third]) - c[k, second])
    return bool(after >= before)


@njit(nogil=True, inline="always")
def _chain(
    q: np.ndarray, i: int, c: np.ndarray, k: int, cheap: int, dear: int, high_q: float, high_c: float, unit: float,
    vertices: np.ndarray, stack: np.ndarray, lanes: np.ndarray, native: np.ndarray,
) -> int:  # fmt: skip
    """Vertices of the upper hull from ``cheap`` to ``dear``, both on it, into ``vertices``; returns their number."""
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
        native[2, 0], native[2, 1] = 1.0, slope
        _lane_maxima(q, i, c, k, native[2, 0], native[2, 1], lanes)
        middle = _settle(q, i, c, k, 1.0, slope, lanes, 0, unit * size)
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
def hull_rows(
    q: np.ndarray, c: np.ndarray, counts: np.ndarray, index: np.ndarray, start: int, stop: int, weights: np.ndarray,
    unit: float, base: np.ndarray,
) -> tuple[np.ndarray, np.ndarray, float, float, int]:  # fmt: skip
    """Hull edges of the rows ``index[start:stop]`` between two prices, one read of the rows.

    ``weights`` (2, 2) holds (wq, wc) of the high and the low price: (1, λ) for a price, (0, 1) for an infinite one,
    (1, 0) for zero. ``base`` (len(index),) receives each row's best action at the high price. ``c`` may have one row for all.
    Returns edges ``ends`` (3, E) int32: place in ``index``, from, to; ``steps`` (3, E): slope, count·Δcost, count·Δvalue; the base's
    cost and value; and the first row that holds a number that is not finite (−1: none).
    """
    actions = q.shape[1]
    lanes = np.empty((5, LANES), q.dtype)  # local, so that the compiler knows nothing else points at it
    native = np.empty((3, 2), q.dtype)  # weights in the arrays' precision: high price, low price, a chord's slope
    native[:2] = weights
    vertices, stack = np.empty(actions + 2, np.int64), np.empty(actions + 2, np.int64)
    capacity = 2 * (stop - start) + actions
    ends, steps = np.empty((3, capacity), np.int32), np.empty((3, capacity))
    used, base_cost, base_value, shared = 0, 0.0, 0.0, c.shape[0] == 1
    start_q, start_c, row_bytes = np.uintp(q.ctypes.data), np.uintp(c.ctypes.data), np.uintp(actions * q.itemsize)
    for place in range(start, stop):
        i = index[place]
        k = 0 if shared else i
        ahead = index[min(place + 1, stop - 1)]
        next_q, next_c = start_q + np.uintp(ahead) * row_bytes, start_c + np.uintp(0 if shared else ahead) * row_bytes
        _first_look(q, i, c, k, native[0, 0], native[0, 1], native[1, 0], native[1, 1], lanes, next_q, next_c)
        top_q, top_c, check = lanes[2, 0], lanes[3, 0], lanes[4, 0]
        for lane in range(1, LANES):
            top_q, top_c = _larger(top_q, lanes[2, lane]), _larger(top_c, lanes[3, lane])
            check += lanes[4, lane]
        if check != 0:
            return ends[:, :0], steps[:, :0], base_cost, base_value, i
        high_q, high_c = np.float64(top_q), np.float64(top_c)
        slack0 = unit * (weights[0, 0] * high_q + weights[0, 1] * high_c)
        slack1 = unit * (weights[1, 0] * high_q + weights[1, 1] * high_c)
        cheap = _settle(q, i, c, k, weights[0, 0], weights[0, 1], lanes, 0, slack0)
        dear = _settle(q, i, c, k, weights[1, 0], weights[1, 1], lanes, 1, slack1)
        base[place] = cheap
        base_cost += counts[i] * np.float64(c[k, cheap])
        base_value += counts[i] * np.float64(q[i, cheap])
        if cheap == dear or counts[i] == 0:
            continue
        number = _chain(q, i, c, k, cheap, dear, high_q, high_c, unit, vertices, stack, lanes, native)
        if used + number > capacity:
            capacity = 2 * capacity + number
            ends, steps = _grown(ends, capacity), _grown(steps, capacity)
        for v in range(number - 1):
            a, b = vertices[v], vertices[v + 1]
            dc, dq = np.float64(c[k, b]) - c[k, a], np.float64(q[i, b]) - q[i, a]
            ends[0, used], ends[1, used], ends[2, used] = place, a, b
            steps[0, used], steps[1, used], steps[2, used] = dq / dc, counts[i] * dc, counts[i] * dq
            used += 1
    return ends[:, :used], steps[:, :used], base_cost, base_value, -1


@njit(nogil=True, cache=True)
def _grown(old: np.ndarray, capacity: int) -> np.ndarray:
    new = np.empty((3, capacity), old.dtype)
    new[:, : old.shape[1]] = old
    return new


@njit(nogil=True, cache=True)
def climb(
    rows: np.ndarray, ends_from: np.ndarray, ends_to: np.ndarray, cost_steps: np.ndarray, order: np.ndarray, room: float,
    choice: np.ndarray,
) -> tuple[float, int, np.ndarray]:  # fmt: skip
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
