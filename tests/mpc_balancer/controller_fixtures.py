"""Quick controllers and measurements for them."""

from typing import Any

import numpy as np
from mpc_fixtures import trained_model

from marca_common.protocols import Measurement
from mpc_balancer.config import (
    ControllerConfig,
    MpcConfig,
    ObjectiveConfig,
    PiConfig,
    SolverConfig,
    WatchConfig,
)
from mpc_balancer.controllers import make_controller

QUICK = MpcConfig(
    objective=ObjectiveConfig(horizon=4), solver=SolverConfig(iterations=2, constants=5, refine=1, deadline_ms=None)
)
UNWATCHED = QUICK.model_copy(update={"watch": WatchConfig(least_error=10)})  # whatever the readings, the model is right
PI = PiConfig(kp=0.15, ki=0.15, down_factor=0.7, feedforward=0.6)
GROUP = "reference"


def controller(name: Any, **options: Any) -> Any:
    return make_controller(ControllerConfig(name=name, mpc=QUICK, pi=PI, **options), GROUP, trained_model())


def measured(minute: Any, cpu: Any, qps: float = 400.0, lambda_: Any = (1e-4, 1e-4)) -> Any:
    return Measurement(
        minute,
        np.datetime64("2026-03-09") + np.timedelta64(minute, "m"),
        GROUP,
        qps,
        np.array(cpu, float),
        0.0,
        np.array(lambda_),
    )
