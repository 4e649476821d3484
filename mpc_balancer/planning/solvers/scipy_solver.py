"""What the two SciPy solvers share: adjoint gradients, the box as bounds, a deadline inside the objective."""

from __future__ import annotations

import numpy as np
from scipy.optimize import minimize

from mpc_balancer.config import SolverConfig
from mpc_balancer.planning.control_problem import Problem, Search, Solution
from mpc_balancer.planning.solvers.seeds import seed_plans


class _OutOfTime(Exception):
    pass


def scipy_minimize(
    problem: Problem, config: SolverConfig, warm: np.ndarray | None, method: str, options: dict[str, float]
) -> Solution:
    """Start from the better of the constant plans and the warm start; minimise with bounds and exact gradients."""
    search = Search(problem, config)
    search.attempt(seed_plans(problem, config, warm))

    def value_and_gradient(flat: np.ndarray) -> tuple[float, np.ndarray]:
        if search.over():
            raise _OutOfTime
        plan = flat.reshape(problem.shape)
        value, gradient = problem.gradient(plan)
        clipped = problem.clip(plan)
        if np.array_equal(clipped, plan):
            search.offer(plan[None], np.array([value]))
        return value, gradient.ravel()

    bounds = list(zip(problem.low.ravel(), problem.high.ravel()))
    iterations = 0

    def count(_: np.ndarray) -> None:
        nonlocal iterations
        iterations += 1

    try:
        found = minimize(
            value_and_gradient,
            search.plan.ravel(),
            jac=True,
            bounds=bounds,
            method=method,
            options=options,
            callback=count,
        )
        search.attempt(problem.clip(found.x.reshape(problem.shape))[None])
    except _OutOfTime:
        pass
    return search.solution(iterations)
