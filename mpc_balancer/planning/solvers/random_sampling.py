"""The paper's random sampling: plans drawn uniformly in the box, the best one wins."""

from __future__ import annotations

import numpy as np

from mpc_balancer.config import SolverConfig
from mpc_balancer.planning.control_problem import Best, Clock, Problem, Solution


def random_sampling(
    problem: Problem, config: SolverConfig, warm: np.ndarray | None, generator: np.random.Generator
) -> Solution:
    """``samples`` plans per round, ``iterations`` rounds; the public code does one round."""
    clock, best = Clock(config.deadline_ms), Best(problem)
    if warm is not None:
        plan = problem.clip(warm)[None]
        best.offer(plan, problem.values(plan))
    done = 0
    while done < config.iterations and not (clock.over() and done):
        draws = generator.random((config.samples, *problem.shape))
        plans = problem.low + draws * (problem.high - problem.low)
        best.offer(plans, problem.values(plans))
        done += 1
    return best.solution(done, clock)
