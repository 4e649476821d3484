"""How is a plan of prices searched? Solvers that honour the box and a deadline and return the best feasible plan met."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from marca_common.dotted_path import find
from mpc_balancer.config import SolverConfig
from mpc_balancer.planning.control_problem import Problem, Solution
from mpc_balancer.planning.solvers.gauss_newton import gauss_newton
from mpc_balancer.planning.solvers.gradient_descent import gradient_descent
from mpc_balancer.planning.solvers.grid import grid
from mpc_balancer.planning.solvers.icem import icem
from mpc_balancer.planning.solvers.lbfgsb import lbfgsb
from mpc_balancer.planning.solvers.random_sampling import random_sampling
from mpc_balancer.planning.solvers.slsqp import slsqp

Solver = Callable[[Problem, SolverConfig, np.ndarray | None, np.random.Generator], Solution]

SOLVERS: dict[str, Solver] = {
    "gauss_newton": gauss_newton,
    "grid": grid,
    "random_sampling": random_sampling,
    "slsqp": slsqp,
    "lbfgsb": lbfgsb,
    "gradient_descent": gradient_descent,
    "icem": icem,
}


def find_solver(name: str) -> Solver:
    """One of SOLVERS, or ``module:function`` of somebody else's with the same arguments."""
    solver: Solver = find(name, SOLVERS, "solver.name")
    return solver


def solve(
    problem: Problem, config: SolverConfig, warm: np.ndarray | None = None, generator: np.random.Generator | None = None
) -> Solution:
    """Search a plan with the configured solver from an optional warm start (N, L)."""
    return find_solver(config.name)(problem, config, warm, generator or np.random.default_rng(config.seed))
