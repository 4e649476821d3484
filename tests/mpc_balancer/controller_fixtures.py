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
from mpc_balancer.run import ClosedLoopConfig, simulate
from mpc_balancer.testbed.run_metrics import run_metrics
from mpc_balancer.testbed.scenarios import Scenario, start_scenario

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


def run_scenario(scenario: Scenario, name: str = "mpc", seed: int = 7, **options: Any) -> tuple[Any, dict[str, Any]]:
    drawn = start_scenario(scenario, seed)
    config = ClosedLoopConfig(controller=ControllerConfig(name=name, **options))
    controller, loop, cpu = simulate(config, drawn, trained_model(), drawn.calendar, progress=False)
    return controller, run_metrics(cpu, loop.prices, np.full(2, 65.0))


def stepped(count: int, qps_factor: float = 1.0) -> tuple[Any, Any, Any]:
    """MPC after some steps on the reference plant, the plant and its traffic."""
    steered: Any = make_controller(ControllerConfig(name="mpc"), "reference", trained_model())
    drawn = start_scenario(Scenario(days=0.05, qps_factor=qps_factor), 3)
    plant = drawn.plant()
    for minute in range(count):
        steered.step(plant.step(steered.lambda_, drawn.arrivals[minute]))
    return steered, plant, drawn
