"""Projected gradient descent with Adam's step sizes and exact (adjoint) gradients."""

from __future__ import annotations

import numpy as np

from mpc_balancer.config import SolverConfig
from mpc_balancer.planning.control_problem import Problem, Search, Solution
from mpc_balancer.planning.solvers.seeds import seed_plans


def gradient_descent(
    problem: Problem, config: SolverConfig, warm: np.ndarray | None, _: np.random.Generator
) -> Solution:
    """``iterations`` Adam steps, first size ``step_size``, from the best constant plan or the warm start."""
    search = Search(problem, config)
    search.attempt(seed_plans(problem, config, warm))
    plan = search.plan.copy()
    first, second = np.zeros(problem.shape), np.zeros(problem.shape)
    done = 0
    for k in range(1, config.iterations + 1):
        if search.over():
            break
        value, gradient = problem.gradient(plan)
        search.offer(plan[None], np.array([value]))
        first = 0.9 * first + 0.1 * gradient
        second = 0.99 * second + 0.01 * gradient**2
        size = config.step_size * 0.5 * (1 + np.cos(np.pi * (k - 1) / config.iterations))
        move = first / (1 - 0.9**k) / (np.sqrt(second / (1 - 0.99**k)) + 1e-9)
        plan = problem.clip(plan - size * move)
        done = k
    search.attempt(plan[None])
    return search.solution(done)
