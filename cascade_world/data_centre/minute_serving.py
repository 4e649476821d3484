"""Kernels of the closed loop: which states arrive, how they are served, and how CPUs and degradation answer.

Outcomes are sampled from the truth's tables per (class, joint action): the probability of a click, the number of
clicks, the spend's mean and second moment, purchases with their own heavy tail. Requests' luck comes from counters.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from cascade_world.request_luck import GOLDEN, mix64, normal, uniform

TOTALS = ("revenue", "spend", "gmv", "clicks", "impressions", "timeouts")


@njit(cache=True, nogil=True)
def arriving_states(luck: np.uint64, pool: np.ndarray, count: int) -> np.ndarray:
    """State ids of ``count`` requests, drawn evenly from ``pool`` (P,), int64 (count,)."""
    found = np.empty(count, np.int64)
    for i in range(count):
        found[i] = pool[int(uniform(mix64(luck + GOLDEN * np.uint64(i + 1))) * len(pool))]
    return found


@njit(cache=True, nogil=True)
def tally(
    cells: np.ndarray, states: np.ndarray, joint: np.ndarray, revenue: np.ndarray, core_ms: np.ndarray, hour: int,
    requests: np.ndarray, sums: np.ndarray,
) -> None:  # fmt: skip
    """Add one minute's requests to ``requests`` (all cells, A) and ``sums`` (all cells, 2: money, core-ms).

    ``cells`` (S, dimensions) are the cells that a state counts for; ``hour`` is one more.
    """
    for i in range(len(states)):
        for j in range(cells.shape[1] + 1):
            cell = cells[states[i], j] if j < cells.shape[1] else hour
            requests[cell, joint[i]] += 1.0
            sums[cell, 0] += revenue[i]
            sums[cell, 1] += core_ms[i]


@njit(cache=True, nogil=True)
def serve_minute(
    luck: np.uint64, counts: np.ndarray, weight: float, states: np.ndarray, joint: np.ndarray, classes: np.ndarray,
    scale: np.ndarray, factors: np.ndarray, tables: np.ndarray, conversion: np.ndarray, basket: np.ndarray,
    commission: float, basket_sd: float, cost: np.ndarray, degraded: np.ndarray, cost_factor: np.ndarray,
    request_sd: float, capacity: np.ndarray, lag: float, rise: float, fall: float, threshold: float, top_level: float,
    saturation: float, load_slope: float, idle: float, level: float, load: np.ndarray, table: np.ndarray,
    totals: np.ndarray, used: np.ndarray, served_joint: np.ndarray, revenue: np.ndarray, core_ms: np.ndarray,
) -> tuple[float, float, np.ndarray]:  # fmt: skip
    """Serve one minute; updates ``load`` (services,) in place, returns (degradation at the end, its mean, mean load).

    ``tables`` (classes, A, 5): p0, clicks, spend, sd of log spend after a click, impressions. ``totals`` and ``used``
    (services,) add up money, counts and core-ms of simulated requests; ``load`` is percent.
    """
    n_services = cost.shape[2]
    shift = 0.5 * request_sd * request_sd
    now, mean_load, mean_level = np.zeros(n_services), np.zeros(n_services), 0.0
    row = 0
    for part in range(len(counts)):
        now[:] = 0.0
        worst = 0.0
        for j in range(n_services):
            worst = max(worst, load[j])
        lost = 1.0 - saturation / worst if worst > saturation else 0.0
        whole = int(level)
        rest = level - whole
        for _ in range(counts[part]):
            one = mix64(luck + GOLDEN * np.uint64(2 * row + 1))
            two = mix64(luck + GOLDEN * np.uint64(2 * row + 2))
            three = mix64(two)
            a = joint[row]
            if whole > 0 or rest > 0.0:
                a = degraded[whole + 1 if uniform(three) < rest and whole + 1 < len(degraded) else whole, a]
            served_joint[row] = a
            c = classes[states[row]]
            noise = np.exp(request_sd * normal(one, 0, table) - shift)
            core_ms[row] = 0.0
            for j in range(n_services):
                spent = cost[c, a, j] * noise * cost_factor[j] * (1.0 + load_slope * (load[j] / 100.0 - 0.5))
                now[j] += spent
                used[j] += spent
                core_ms[row] += spent
            if uniform(mix64(three)) < lost:
                totals[5] += 1.0
                revenue[row] = 0.0
            else:
                totals[4] += tables[c, a, 4]
                revenue[row] = _revenue(
                    one, two, tables[c, a], conversion[c], basket[c], commission, basket_sd, scale[states[row]],
                    factors[states[row], a] if factors.shape[1] > 1 else np.float32(1.0), table, totals,
                )  # fmt: skip
            row += 1
        for j in range(n_services):
            demand = idle + now[j] * weight * capacity[j]
            load[j] += lag * (demand - load[j])
            mean_load[j] += min(load[j], 100.0) / len(counts)
        worst = 0.0
        for j in range(n_services):
            worst = max(worst, load[j])
        level += rise * (worst - threshold) / 10.0 if worst > threshold else -fall
        level = min(max(level, 0.0), top_level)
        mean_level += level / len(counts)
    return level, mean_level, mean_load


@njit(cache=True, nogil=True, inline="always")
def _revenue(
    one: np.uint64, two: np.uint64, row: np.ndarray, conversion: float, basket: float, commission: float,
    basket_sd: float, scale: float, factor: float | np.float32, table: np.ndarray, totals: np.ndarray,
) -> float:  # fmt: skip
    """Sample one outcome: clicks, spend and purchases with the class table's mean, zero share and second moment."""
    u = uniform(two)
    if u < row[0]:
        return 0.0
    some = 1.0 - row[0]
    clicks = 1
    more = row[1] / some - 1.0
    if (u - row[0]) / some > 1.0 - more:
        clicks = 2
    money = scale * factor
    sd = row[3]
    spend = row[2] / some * np.exp(sd * normal(one, 1, table) - 0.5 * sd * sd) * money
    gmv = 0.0
    bits = mix64(one)
    for _ in range(clicks):
        if uniform(bits) < conversion:
            gmv += basket * money * np.exp(basket_sd * normal(one, 2, table) - 0.5 * basket_sd * basket_sd)
        bits = mix64(bits)
    total = spend + commission * gmv
    totals[0] += total
    totals[1] += spend
    totals[2] += gmv
    totals[3] += clicks
    return float(total)
