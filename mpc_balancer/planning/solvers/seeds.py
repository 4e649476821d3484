"""Constant-λ plans that spread over the box: where local solvers start."""

from __future__ import annotations

import numpy as np

from mpc_balancer.config import SolverConfig
from mpc_balancer.planning.control_problem import Problem


def seed_plans(problem: Problem, config: SolverConfig, warm: np.ndarray | None) -> np.ndarray:
    """The warm start, where there is one, and ``config.constants`` constant plans (B, N, L)."""
    plans = constant_plans(problem, config.constants)
    return plans if warm is None else np.concatenate([problem.clip(warm)[None], plans])


def constant_plans(problem: Problem, count: int) -> np.ndarray:
    """``count`` constant plans (count, N, L), moved into the box of each step: corners first, then a Kronecker lattice."""
    prices = problem.shape[1]
    if prices == 1:
        points = np.linspace(0, 1, count)[:, None]
    else:
        corners = np.array([np.zeros(prices), np.ones(prices)])
        points = np.concatenate([corners, kronecker(count - 2, prices)]) if count > 2 else corners
    low, high = problem.low.min(axis=0), problem.high.max(axis=0)
    return problem.clip((low + points * (high - low))[:, None, :].repeat(problem.shape[0], axis=1))


def kronecker(count: int, dimensions: int) -> np.ndarray:
    """Evenly spread points of the unit cube (count, dimensions) by the generalised golden ratio."""
    ratio = 2.0
    for _ in range(40):
        ratio = (1 + ratio) ** (1 / (dimensions + 1))
    steps = ratio ** -np.arange(1, dimensions + 1)
    return (0.5 + np.arange(1, count + 1)[:, None] * steps) % 1.0


def shifted(plan: np.ndarray) -> np.ndarray:
    """The last plan one step later: its first move is done, its last one is held."""
    return np.concatenate([plan[1:], plan[-1:]])
