"""L-BFGS-B (bounded quasi-Newton) with adjoint gradients."""

from __future__ import annotations

import numpy as np

from mpc_balancer.config import SolverConfig
from mpc_balancer.planning.control_problem import Problem, Solution
from mpc_balancer.planning.solvers.scipy_solver import scipy_minimize


def lbfgsb(problem: Problem, config: SolverConfig, warm: np.ndarray | None, _: np.random.Generator) -> Solution:
    """``iterations`` L-BFGS-B steps from the best constant plan or the warm start."""
    return scipy_minimize(problem, config, warm, "L-BFGS-B", {"maxiter": config.iterations, "ftol": 1e-9, "maxcor": 15})
