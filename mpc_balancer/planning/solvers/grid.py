"""Constant-λ grid: every combination of a few prices, held over the horizon. Coarse, never fails to answer."""

from __future__ import annotations

import numpy as np

from mpc_balancer.config import SolverConfig
from mpc_balancer.planning.control_problem import Best, Clock, Problem, Solution


def grid(problem: Problem, config: SolverConfig, warm: np.ndarray | None, _: np.random.Generator) -> Solution:
    """A coarse grid over the box, then a finer one around its best point."""
    clock, best = Clock(config.deadline_ms), Best(problem)
    low, high = problem.low.min(axis=0), problem.high.max(axis=0)
    axis = np.linspace(0, 1, config.grid_points)
    points = low + _product(axis, problem.shape[1]) * (high - low)
    best_point = _try(problem, best, points)
    if warm is not None:
        plan = problem.clip(warm)[None]
        best.offer(plan, problem.values(plan))
    if not clock.over():
        width = (high - low) / (config.grid_points - 1)
        fine = best_point + (_product(np.linspace(-0.75, 0.75, 7), problem.shape[1])) * width
        _try(problem, best, fine)
    return best.solution(2, clock)


def _product(axis: np.ndarray, dimensions: int) -> np.ndarray:
    return np.stack(np.meshgrid(*[axis] * dimensions, indexing="ij"), axis=-1).reshape(-1, dimensions)


def _try(problem: Problem, best: Best, points: np.ndarray) -> np.ndarray:
    plans = problem.clip(points[:, None, :].repeat(problem.shape[0], axis=1))
    values = problem.values(plans)
    best.offer(plans, values)
    return points[int(np.argmin(np.where(np.isnan(values), np.inf, values)))]
