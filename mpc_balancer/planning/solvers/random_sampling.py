"""The paper's random sampling: plans drawn uniformly in the box, the best one wins."""

from __future__ import annotations

import numpy as np

from mpc_balancer.config import SolverConfig
from mpc_balancer.planning.control_problem import Problem, Search, Solution


def random_sampling(
    problem: Problem, config: SolverConfig, warm: np.ndarray | None, generator: np.random.Generator
) -> Solution:
    """``samples`` plans per round, ``iterations`` rounds; the public code does one round."""
    search = Search(problem, config)
    if warm is not None:
        search.attempt(problem.clip(warm)[None])
    done = 0
    while done < config.iterations and not (search.over() and done):
        draws = generator.random((config.samples, *problem.shape))
        search.attempt(problem.low + draws * (problem.high - problem.low))
        done += 1
    return search.solution(done)
