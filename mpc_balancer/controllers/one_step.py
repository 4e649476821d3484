"""One-step inversion: the price that puts the first interval it can act in on the target. No objective, no horizon."""

from __future__ import annotations

from typing import Any

import numpy as np

from mpc_balancer.config import SolverConfig
from mpc_balancer.controllers.mpc import MpcController
from mpc_balancer.planning.control_problem import Problem

_ITERATIONS = 12
_CLOSE = 2e-4  # log error of CPU that is on the target
_LONGEST = 0.3  # of the box, in one Newton step
_LEAST_SLOPE = 0.05  # log CPU per box; a model that says less is not believed


class OneStepController(MpcController):
    """Has MPC's model, observer, forecast, margin and ladder; its plan is one step long."""

    @property
    def horizon(self) -> int:
        """One step beyond the commands on their way."""
        return 1

    def _solve(self, solver: SolverConfig) -> np.ndarray:
        problem, _ = self.problem()
        return self.system_model.prices.from_unit(invert(problem, self.price_of))


def invert(problem: Problem, price_of: Any) -> np.ndarray:
    """Prices (L,) of the last step, price coordinate, that put its CPU on the target: projected Newton steps in log CPU.

    ``price_of`` (D,): which price each service pays. Of the services that pay one price, the one furthest above (or least
    below) its target decides. Where the box ends first, so does the price.
    """
    plan = problem.clip(np.broadcast_to(problem.start.unit, problem.shape).copy())
    low, high = problem.low[-1], problem.high[-1]
    prices = np.arange(len(low))
    for _ in range(_ITERATIONS):
        path, tape = problem.model.rollout_with_tape(
            problem.start.cpu, plan[None], problem.exogenous, problem.traffic, problem.gain
        )
        cpu = np.maximum(path[0, -1].astype(np.float64), 0.1)
        error = np.log(cpu / problem.target)
        _, by_price = problem.model.jacobians(tape, problem.gain)
        deciding = np.array([int(np.argmax(np.where(price_of == j, error, -np.inf))) for j in prices])
        slope = by_price[0, -1][deciding] / cpu[deciding, None]  # (L, L)
        slope[prices, prices] = np.minimum(slope[prices, prices], -_LEAST_SLOPE)
        wanted = -error[deciding]
        held = ((plan[-1] <= low) & (wanted > 0)) | ((plan[-1] >= high) & (wanted < 0))
        if np.abs(np.where(held, 0.0, wanted)).max() < _CLOSE or not np.isfinite(slope).all():
            break
        move = np.zeros(len(low))
        move[~held] = np.linalg.solve(slope[np.ix_(~held, ~held)], wanted[~held])
        plan[-1] = np.clip(plan[-1] + np.clip(move, -_LONGEST, _LONGEST), low, high)
    return np.asarray(plan[-1] if np.isfinite(cpu).all() else np.full(len(low), np.nan))
