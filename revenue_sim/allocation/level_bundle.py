"""Minimum of a convex function of a few non-negative prices, by the level bundle method (Lemaréchal, Nemirovskii, Nesterov 1995).

Every evaluation leaves a cut, a linear function that lies below. The cuts' minimum is a lower bound; the next point is the
projection of the best one onto the set where all cuts stay under a level between that bound and the best value.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from scipy.optimize import linprog, nnls

LEVEL = 0.3  # place of the level between lower bound and best value
BOX = 100.0  # prices are looked for up to this many times the first guess or the function's first value


def minimise(
    evaluate: Callable[[np.ndarray], tuple[float, np.ndarray]], start: np.ndarray, tolerance: float, passes: int
) -> tuple[np.ndarray, float]:
    """Point with the least value found, and that value.

    ``evaluate(point)`` gives value and subgradient (D,); stops when the value is proven within ``tolerance`` (relative) of
    the minimum, or after that many ``passes``.
    """
    best, best_value, point = start, np.inf, start
    cuts_slope: list[np.ndarray] = []
    cuts_level: list[float] = []
    box, lower = np.inf, -np.inf
    for _ in range(passes):
        value, slope = evaluate(point)
        box = BOX * max(float(start.max()), abs(value), 1e-12) if not np.isfinite(box) else box
        if value < best_value:
            best, best_value = point, value
        cuts_slope.append(slope)
        cuts_level.append(value - float(slope @ point))
        slopes, levels = np.array(cuts_slope), np.array(cuts_level)
        if best_value > lower:  # else the new value is the bound already
            lower = max(lower, _lower_bound(best, best_value, slopes, levels, box, best_value - lower))
        if best_value - lower <= tolerance * max(abs(best_value), 1e-300):
            break
        level = lower + LEVEL * (best_value - lower) if np.isfinite(lower) else best_value - abs(best_value)
        point = _project(best, slopes, levels, level, box)
    return best, best_value


def _lower_bound(
    centre: np.ndarray, value: float, slopes: np.ndarray, levels: np.ndarray, box: float, gap: float
) -> float:
    """Least value that the cuts allow inside the box, in steps from ``centre`` and in units of the present gap."""
    size = len(centre)
    step = max(float(centre.max()), 1e-3 * box / BOX)
    unit = gap if np.isfinite(gap) else max(abs(value), 1e-300)
    matrix = np.c_[slopes * (step / unit), -np.ones(len(slopes))]
    limit = (value - (slopes @ centre + levels)) / unit
    norm = np.maximum(1.0, np.abs(matrix).max(axis=1))
    solved = linprog(
        np.r_[np.zeros(size), 1.0],
        A_ub=matrix / norm[:, None],
        b_ub=limit / norm,
        bounds=[(-one / step, (box - one) / step) for one in centre] + [(None, None)],
        method="highs",
    )
    return value + unit * float(solved.fun) if solved.status == 0 else -np.inf


def _project(centre: np.ndarray, slopes: np.ndarray, levels: np.ndarray, level: float, box: float) -> np.ndarray:
    """Nearest point to ``centre`` with all cuts ≤ level and 0 ≤ point ≤ box: least distance programming by NNLS."""
    size = len(centre)
    norm = np.maximum(np.linalg.norm(slopes, axis=1), 1e-300)
    g = np.r_[-slopes / norm[:, None], np.eye(size), -np.eye(size)]  # g · (x − centre) ≥ h
    h = np.r_[(slopes @ centre + levels - level) / norm, -centre, centre - box]
    scale = max(float(h.max()), 1e-300)  # the farthest cut is one unit away
    system, target = np.r_[g.T, h[None] / scale], np.r_[np.zeros(size), 1.0]
    weights, _ = nnls(system, target)
    residual = system @ weights - target
    if abs(residual[-1]) < 1e-14:
        return centre
    return np.asarray(np.clip(centre - scale * residual[:-1] / residual[-1], 0.0, box))
