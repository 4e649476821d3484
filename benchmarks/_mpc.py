"""What the balancer's benchmarks share: commissioned models, start states, stamps."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from marca_common.config import content_hash, load_config
from marca_common.run_folder import versions
from mpc_balancer.config import ControllerConfig, MpcConfig, ObjectiveConfig, SolverConfig, SystemModelConfig
from mpc_balancer.controllers.mpc import MpcController
from mpc_balancer.planning.control_problem import Problem
from mpc_balancer.price_scale import PriceScale
from mpc_balancer.system_model.model import SystemModel
from mpc_balancer.testbed.reference_plant import ReferenceConfig
from mpc_balancer.testbed.reference_traffic import Surge
from mpc_balancer.testbed.scenarios import Scenario, start_scenario
from mpc_balancer.testbed.trace_traffic import TraceConfig
from mpc_balancer.train import fit_model, load_data

CACHE = Path("runs/benchmarks")
# Steers the loop that start states are met in; spelt out, so that they stay the same whatever the default solver becomes.
STEERING = SolverConfig(name="gauss_newton", constants=12, refine=2, iterations=6, tolerance=1e-4, deadline_ms=50.0)


def trace_config(path: str) -> TraceConfig:
    """A YAML file of the keys of ``traffic``, or a ``timestamp,value`` table scaled to the plant's traffic."""
    if path.endswith(".yaml"):
        return load_config(TraceConfig, path)
    return TraceConfig(path=path, mean_qps=ReferenceConfig().reference_qps)


def stamp(seed: int | str) -> dict[str, object]:
    """Seed, versions and machine for a results table."""
    known = versions()
    where = {"machine": f"{known['machine']} x{known['cpus']}"}
    return {"seed": seed} | {name: known[name] for name in ("python", "numpy", "torch")} | where


def commissioned_model(hidden: list[int], days: float = 7, seed: int = 0, **options: object) -> SystemModel:
    """A model trained on days of the reference plant (development seed), kept in runs/ for the next benchmark."""
    config = SystemModelConfig(hidden=hidden, commission_days=days, seed=seed, **options)
    path = CACHE / f"system_model_{content_hash(config, ReferenceConfig())}.pt"
    if not path.exists():
        model, summary = fit_model(load_data(config), config)
        print("trained:", {k: v for k, v in summary.items() if "rmse" in k})
        model.save(path)
    return SystemModel.load(path)


def start_problems(
    model: SystemModel, objective: ObjectiveConfig, count: int, seed: int
) -> tuple[list[Problem], list[np.ndarray | None]]:
    """Control problems and warm starts met in closed loop: a day with surges whose price is thrown about at random,
    so that many start far from the budget, above and below; every third has no warm start."""
    surges = [
        Surge(minute=m, factor=f, decay_minutes=40) for m, f in ((200, 1.6), (500, 2.5), (800, 0.45), (1100, 4.0))
    ]
    drawn = start_scenario(Scenario(surges=surges), seed)
    controller = MpcController(
        ControllerConfig(mpc=MpcConfig(objective=objective, solver=STEERING, backoff_quantile=None)),
        model.features.groups[0],
        model.services,
        model.prices,
        model,
        drawn.calendar,
    )
    plant = drawn.plant()
    generator = np.random.default_rng(seed)
    picks = set(generator.choice(np.arange(30, len(drawn.arrivals)), count, replace=False).tolist())
    problems, warm = [], []
    scale: PriceScale = model.prices
    price = controller.lambda_
    for minute in range(len(drawn.arrivals)):
        if minute % 7 == 0 and minute in range(20, 10**6):
            price = scale.from_unit(generator.random(scale.size))
        measurement = plant.step(price, drawn.arrivals[minute])
        price = controller.step(measurement)
        if minute in picks:
            problems.append(controller.problem()[0])
            warm.append(None if len(problems) % 3 == 0 else controller._warm)
    return problems, warm
