"""SLSQP (sequential least squares programming) with adjoint gradients and the box as bounds."""

from __future__ import annotations

import numpy as np

from mpc_balancer.config import SolverConfig
from mpc_balancer.planning.control_problem import Problem, Solution
from mpc_balancer.planning.solvers.scipy_solver import scipy_minimize


def slsqp(problem: Problem, config: SolverConfig, warm: np.ndarray | None, _: np.random.Generator) -> Solution:
    """``iterations`` SLSQP steps from the best constant plan or the warm start."""
    return scipy_minimize(problem, config, warm, "SLSQP", {"maxiter": config.iterations, "ftol": 1e-6})
