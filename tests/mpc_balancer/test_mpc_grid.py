"""The fallback grid: every combination while they are few, bounded for any number of prices, near the best either way."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
import torch

from mpc_balancer.config import ColumnsConfig, ObjectiveConfig, SolverConfig
from mpc_balancer.planning.control_problem import Problem
from mpc_balancer.planning.objective import Start
from mpc_balancer.planning.solvers import solve
from mpc_balancer.price_scale import PriceScale
from mpc_balancer.system_model.features import Features
from mpc_balancer.system_model.model import SystemModel
from mpc_balancer.system_model.system_network import SystemNetwork

GRID = SolverConfig(name="grid", deadline_ms=None)


def problem(prices: int, seed: int = 0, steps: int = 4) -> Any:
    """A lively random model with a price for each of its services."""
    features = Features(
        ("a",), np.array([300.0]), np.zeros(0), np.zeros(0), True, False, np.full(10, -9.0), np.full(10, 9.0)
    )
    torch.manual_seed(seed)
    net = SystemNetwork(prices, prices, features.size, [16], "utilisation_law")
    with torch.no_grad():
        net.layers[0].get_parameter("weight").add_(0.3 * torch.randn(16, 2 * prices + features.size))
        net.layers[1].get_parameter("weight").add_(0.1 * torch.randn(prices, 16))
    scale = PriceScale(np.zeros(prices), np.full(prices, 2e-3), np.full(prices, 1e-4))
    model = SystemModel.from_network(net, [f"s{j}" for j in range(prices)], features, scale, ColumnsConfig())
    draw = np.random.default_rng(seed)
    start = Start(draw.uniform(45, 85, prices), draw.uniform(45, 85, prices), draw.random(prices))
    inputs = draw.standard_normal((steps, features.size)).astype(np.float32)
    low, high = np.full((steps, prices), 0.05), np.full((steps, prices), 0.9)
    target = draw.uniform(45, 65, prices)
    return Problem(
        model, ObjectiveConfig(horizon=steps), target, start, inputs, draw.uniform(0.8, 1.4, steps), low, high
    )


@pytest.mark.parametrize("prices", [1, 2])
def test_few_prices_are_tried_in_every_combination(prices: int) -> None:
    one = problem(prices)
    axis = 0.05 + 0.85 * np.linspace(0, 1, GRID.grid_points)
    plans = np.array([np.tile(point, (4, 1)) for point in itertools.product(axis, repeat=prices)])
    best = plans[np.argmin(one.values(plans))][0]
    fine = [best + 0.85 / 8 * np.array(step) for step in itertools.product(np.linspace(-0.75, 0.75, 7), repeat=prices)]
    expected = one.values(one.clip(np.array([np.tile(point, (4, 1)) for point in fine]))).min()
    found = solve(problem(prices), GRID)
    assert found.value == pytest.approx(expected, rel=1e-5)
    assert found.evaluations == 9**prices + 7**prices


@pytest.mark.parametrize("prices", [4, 5, 8, 20])
def test_many_prices_cost_a_bounded_number_of_plans(prices: int) -> None:
    for seed in range(3):
        found = solve(problem(prices, seed), GRID)
        best = solve(problem(prices, seed), SolverConfig(deadline_ms=None, iterations=20, constants=30, refine=3))
        assert found.evaluations <= 300 + 60 * prices
        assert found.value <= 1.2 * best.value  # whose prices may change over the horizon
        assert (found.plan >= 0.05).all()
        assert (found.plan <= 0.9).all()


def test_thinned_out_it_is_about_as_good_as_every_combination() -> None:
    for seed in range(3):
        one = problem(4, seed)
        axis = 0.05 + 0.85 * np.linspace(0, 1, 9)
        plans = np.array(list(itertools.product(axis, repeat=4)))[:, None].repeat(4, axis=1)
        assert solve(problem(4, seed), GRID).value <= 1.02 * one.values(plans).min()


def test_a_warm_start_that_is_better_is_kept() -> None:
    one = problem(6, 1)
    warm = solve(problem(6, 1), SolverConfig(deadline_ms=None, iterations=20)).plan
    assert solve(one, GRID, warm).value <= one.values(warm[None])[0] * (1 + 1e-5)
