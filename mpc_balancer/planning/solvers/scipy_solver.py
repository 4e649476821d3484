"""What the two SciPy solvers share: adjoint gradients, the box as bounds, a deadline inside the objective."""

from __future__ import annotations

import numpy as np
from scipy.optimize import minimize

from mpc_balancer.config import SolverConfig
from mpc_balancer.planning.control_problem import Best, Clock, Problem, Solution
from mpc_balancer.planning.solvers.seeds import constant_plans


class _OutOfTime(Exception):
    pass


def scipy_minimize(
    problem: Problem, config: SolverConfig, warm: np.ndarray | None, method: str, options: dict
) -> Solution:
    """Start from the better of the constant plans and the warm start; minimise with bounds and exact gradients."""
    clock, best = Clock(config.deadline_ms), Best(problem)
    plans = constant_plans(problem, config.constants)
    if warm is not None:
        plans = np.concatenate([problem.clip(warm)[None], plans])
    best.offer(plans, problem.values(plans))

    def value_and_gradient(flat: np.ndarray) -> tuple[float, np.ndarray]:
        if clock.over():
            raise _OutOfTime
        plan = flat.reshape(problem.shape)
        value, gradient = problem.gradient(plan)
        clipped = problem.clip(plan)
        if np.array_equal(clipped, plan):
            best.offer(plan[None], np.array([value]))
        return value, gradient.ravel()

    bounds = list(zip(problem.low.ravel(), problem.high.ravel()))
    iterations = 0

    def count(_: np.ndarray) -> None:
        nonlocal iterations
        iterations += 1

    try:
        found = minimize(
            value_and_gradient,
            best.plan.ravel(),
            jac=True,
            bounds=bounds,
            method=method,
            options=options,
            callback=count,
        )
        plan = problem.clip(found.x.reshape(problem.shape))[None]
        best.offer(plan, problem.values(plan))
    except _OutOfTime:
        pass
    return best.solution(iterations, clock)
