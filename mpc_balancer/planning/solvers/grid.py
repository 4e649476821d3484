"""Constant-λ grid: every combination of a few prices, held over the horizon. Coarse, never fails to answer."""

from __future__ import annotations

import numpy as np

from mpc_balancer.config import SolverConfig
from mpc_balancer.planning.control_problem import Problem, Search, Solution


def grid(problem: Problem, config: SolverConfig, warm: np.ndarray | None, _: np.random.Generator) -> Solution:
    """A coarse grid over the box, then a finer one around its best point."""
    search = Search(problem, config)
    low, high = problem.low.min(axis=0), problem.high.max(axis=0)
    axis = np.linspace(0, 1, config.grid_points)
    points = low + _product(axis, problem.shape[1]) * (high - low)
    best_point = _best_constant(search, points)
    if warm is not None:
        search.attempt(problem.clip(warm)[None])
    if not search.over():
        width = (high - low) / (config.grid_points - 1)
        fine = best_point + _product(np.linspace(-0.75, 0.75, 7), problem.shape[1]) * width
        _best_constant(search, fine)
    return search.solution(2)


def _product(axis: np.ndarray, dimensions: int) -> np.ndarray:
    return np.stack(np.meshgrid(*[axis] * dimensions, indexing="ij"), axis=-1).reshape(-1, dimensions)


def _best_constant(search: Search, points: np.ndarray) -> np.ndarray:
    """The best of B constant prices (B, L)."""
    problem = search.problem
    values = search.attempt(problem.clip(points[:, None, :].repeat(problem.shape[0], axis=1)))
    return np.asarray(points[int(np.argmin(np.where(np.isnan(values), np.inf, values)))])
