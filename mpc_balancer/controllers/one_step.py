"""MPC without an objective, the rivals that show what a plan is worth: one-step inversion, and the same with a look ahead."""

from __future__ import annotations

from typing import Any

import numpy as np

from mpc_balancer.config import SolverConfig
from mpc_balancer.controllers.mpc import MpcController
from mpc_balancer.planning.inversion import invert_ahead


class OneStepController(MpcController):
    """Has MPC's model, observer, forecast, margin and ladder. Where moves are limited it goes as far as it may."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.objective = self.objective.model_copy(update={"horizon": None})


class LookAheadController(MpcController):
    """Where moves are limited, sets out in time for the dearest price that any coming step calls for."""

    def _solve(self, solver: SolverConfig) -> np.ndarray:
        if self.objective.horizon is None:
            return super()._solve(solver)
        problem, delay = self.problem()
        return self.system_model.prices.from_unit(invert_ahead(problem, self.price_of, delay))
