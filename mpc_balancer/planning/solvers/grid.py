"""Constant-λ grid, held over the horizon. Coarse, never fails to answer, and bounded: with many prices it thins out.

Up to MOST combinations it is every combination of a few prices, then of finer ones around the best. With more prices it is the
diagonal and a lattice of that many points. Rounds that move each price alone, and then all by their own best, follow.
"""

from __future__ import annotations

import numpy as np

from mpc_balancer.config import SolverConfig
from mpc_balancer.planning.control_problem import Problem, Search, Solution
from mpc_balancer.planning.solvers.seeds import kronecker

MOST = 1000  # combinations tried in one go
_LATTICE = 200  # points of the lattice where a whole grid would be more than MOST
_FINE = 7  # prices tried around the best
_ROUNDS = 5  # of moving each price alone; the first over the whole box, each later one over a third of the one before


def grid(problem: Problem, config: SolverConfig, warm: np.ndarray | None, _: np.random.Generator) -> Solution:
    """A coarse grid over the box, then finer ones around its best point."""
    search = Search(problem, config)
    low, high = problem.low.min(axis=0), problem.high.max(axis=0)
    prices, axis = problem.shape[1], np.linspace(0, 1, config.grid_points)
    whole = config.grid_points**prices <= MOST
    points = _product(axis, prices) if whole else np.concatenate([_diagonal(axis, prices), kronecker(_LATTICE, prices)])
    best = _best_constant(search, low + points * (high - low))
    if warm is not None:
        search.attempt(problem.clip(warm)[None])
    if whole and not search.over():
        width = (high - low) / (config.grid_points - 1)
        _best_constant(search, best + _product(np.linspace(-0.75, 0.75, _FINE), prices) * width)
    for number in range(0 if whole else _ROUNDS):
        if search.over():
            break
        best = _one_by_one(search, best, axis, low, high, 3.0**-number)
    return search.solution(2)


def _product(axis: np.ndarray, dimensions: int) -> np.ndarray:
    return np.stack(np.meshgrid(*[axis] * dimensions, indexing="ij"), axis=-1).reshape(-1, dimensions)


def _diagonal(axis: np.ndarray, dimensions: int) -> np.ndarray:
    return np.tile(axis[:, None], dimensions)


def _one_by_one(
    search: Search, best: np.ndarray, axis: np.ndarray, low: np.ndarray, high: np.ndarray, share: float
) -> np.ndarray:
    """From constant prices (L,): each tried alone over a share of its box, then all where each was best, and steps there."""
    tried = np.clip(best + share * (axis[:, None] - 0.5) * 2 * (high - low), low, high)  # (A, L)
    points = np.tile(best, (*tried.shape, 1))  # (A, L, L)
    every = np.arange(len(best))
    points[:, every, every] = tried
    values = _values(search, points.reshape(-1, len(best))).reshape(tried.shape)
    own = tried[values.argmin(axis=0), every]
    steps = best + np.linspace(0.0, 1.0, 5)[1:, None] * (own - best)
    first = np.array(np.unravel_index(int(values.argmin()), values.shape))
    return _best_constant(search, np.concatenate([points[first[0], first[1]][None], steps, best[None]]))


def _values(search: Search, points: np.ndarray) -> np.ndarray:
    """J of B constant prices (B, L); infinite where it is no number."""
    problem = search.problem
    values = search.attempt(problem.clip(points[:, None, :].repeat(problem.shape[0], axis=1)))
    return np.where(np.isnan(values), np.inf, values)


def _best_constant(search: Search, points: np.ndarray) -> np.ndarray:
    """The best of B constant prices (B, L)."""
    return np.asarray(points[int(_values(search, points).argmin())])
