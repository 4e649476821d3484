"""Small models and tables that several test files share."""

import functools
import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mpc_balancer.config import ColumnsConfig, ObjectiveConfig, SystemModelConfig
from mpc_balancer.planning.control_problem import Problem
from mpc_balancer.planning.objective import Start
from mpc_balancer.price_scale import PriceScale
from mpc_balancer.system_model.features import Features
from mpc_balancer.system_model.model import SystemModel
from mpc_balancer.system_model.system_network import SystemNetwork
from mpc_balancer.train import fit_model, load_data


def reference_module(name: Any) -> Any:
    """A module of tests/reference (the test tree is no package)."""
    path = Path(__file__).parents[1] / "reference" / f"{name}.py"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@functools.cache
def trained_model() -> Any:
    """A system model of the reference plant, trained for a few seconds."""
    config = SystemModelConfig(
        hidden=[24, 24],
        commission_days=2.2,
        epochs=30,
        patience=30,
        rollout_steps=2,
        lr=6e-3,
        forecast_horizon=6,
        tune_candidates=4,
        tune_days=0.2,
        max_minutes=60,
    )
    return fit_model(load_data(config), config)[0]


def random_model(head: Any = "utilisation_law", seed: int = 0, hidden: Any = (9, 7)) -> Any:
    """An untrained model with lively weights: two services, two prices, one group, no extras."""
    features = Features(
        ("a",), np.array([300.0]), np.zeros(0), np.zeros(0), True, False, np.full(10, -9.0), np.full(10, 9.0)
    )
    torch.manual_seed(seed)
    net = SystemNetwork(2, 2, features.size, list(hidden), head)
    with torch.no_grad():
        for part in net.layers.parameters():
            part.mul_(1.0).add_(0.15 * torch.randn(part.shape))
        net.layers[-1].get_parameter("weight").mul_(0.3)
    scale = PriceScale(np.zeros(2), np.array([2e-3, 1e-3]), np.array([1e-4, 1e-4]))
    return SystemModel.from_network(net, ("x", "y"), features, scale, ColumnsConfig())


def random_problem(
    seed: int = 0, head: Any = "utilisation_law", steps: int = 5, hidden: Any = (9, 7), **objective: Any
) -> Any:
    """A control problem with a random model, state and inputs."""
    generator = np.random.default_rng(seed)
    model = random_model(head, seed, hidden)
    start = Start(generator.uniform(45, 85, 2), generator.uniform(45, 85, 2), generator.random(2))
    return Problem(
        model,
        ObjectiveConfig(horizon=steps, **objective),
        np.array([55.0, 60.0]),
        start,
        generator.standard_normal((steps, model.features.size)).astype(np.float32),
        generator.uniform(0.6, 1.6, steps),
        np.zeros((steps, 2)),
        np.ones((steps, 2)),
        np.array([1.1, 0.9]),
    )
