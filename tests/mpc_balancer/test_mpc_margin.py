"""How far below the budget a plan aims, and what teaches it."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from controller_fixtures import stepped
from mpc_fixtures import trained_model

from mpc_balancer.config import ControllerConfig
from mpc_balancer.controllers import make_controller
from mpc_balancer.controllers.margin import Margin
from mpc_balancer.testbed.scenarios import Scenario, start_scenario


def test_the_margin_by_hand() -> None:
    margin = Margin(np.array([1.0, 1.0, 1.0]), np.full(3, 50.0), wanted=1.0, rate=0.1)
    margin.update(np.array([56.0, 40.0, np.nan]), np.array([True, True, True]))
    np.testing.assert_allclose(margin.points, [1.0 + 0.1 * (6.0 - 0.5), 1.0 - 0.1 * 0.5, 1.0])
    margin.update(np.array([56.0, 40.0, 56.0]), np.array([False, False, False]))
    np.testing.assert_allclose(margin.points, [1.55, 0.95, 1.0])


def test_a_margin_ends_where_over_use_is_as_wanted() -> None:
    generator = np.random.default_rng(0)
    for spread in (1.0, 4.0):
        margin = Margin(np.zeros(1), np.array([60.0]), wanted=0.6, rate=0.03)
        over = []
        for _ in range(20_000):
            cpu = 60.0 - margin.points + spread * generator.standard_normal(1)
            over.append(max(float(cpu[0]) - 60.0, 0.0))
            margin.update(cpu, np.array([True]))
        assert np.mean(over[5000:]) / 60 * 100 == pytest.approx(0.6, rel=0.1)


def test_a_plan_aims_below_the_budget_by_the_margin() -> None:
    steered: Any = make_controller(ControllerConfig(name="mpc", offset=-2.0), "reference", trained_model())
    drawn = start_scenario(Scenario(days=0.01), 3)
    steered.step(drawn.plant().step(steered.lambda_, drawn.arrivals[0]))
    steered.margin.points[:] = [1.5, 4.0]
    np.testing.assert_allclose(steered.problem()[0].target, 65 * 0.98 - np.array([1.5, 4.0]))


def test_the_margin_rests_while_pi_steers() -> None:
    steered, plant, drawn = stepped(10)
    one = plant.step(steered.lambda_, drawn.arrivals[10])
    high = replace(one, cpu=np.array([80.0, 80.0]))
    before = steered.margin.points.copy()
    steered.watch.agrees, steered.watch._wait = False, 10**6
    steered.step(high)
    np.testing.assert_array_equal(steered.margin.points, before)
    assert steered.rungs["pi"] == 1


def test_a_full_machine_teaches_neither_margin_nor_watch() -> None:
    steered, plant, drawn = stepped(10)
    margin, seen = steered.margin.points.copy(), steered.watch._seen
    one = plant.step(steered.lambda_, drawn.arrivals[10])
    steered.step(replace(one, qps=4 * one.qps, arrivals=4 * one.arrivals, cpu=np.array([99.0, 98.9])))
    assert (steered.observer.predicted > 105).all()  # which no machine can do
    np.testing.assert_array_equal(steered.margin.points, margin)
    assert steered.watch._seen == seen
    steered, plant, drawn = stepped(10)
    steered.step(replace(plant.step(steered.lambda_, drawn.arrivals[10]), cpu=np.array([80.0, 80.0])))
    assert (steered.margin.points > margin).all()
    assert steered.watch._seen == seen + 1


def test_a_machine_that_is_fuller_than_foretold_is_an_error_of_the_model() -> None:
    steered, plant, drawn = stepped(10)
    seen = steered.watch._seen
    steered.step(replace(plant.step(steered.lambda_, drawn.arrivals[10]), cpu=np.array([99.0, 98.9])))
    assert (steered.observer.predicted < 80).all()
    assert steered.watch._seen == seen + 1
    assert (steered.watch.error > 0.05).all()


def test_over_use_of_a_price_that_is_held_widens_no_margin() -> None:
    for held, wider in ((False, True), (True, False)):
        steered, plant, drawn = stepped(10)
        before = steered.margin.points.copy()
        steered.moves.held[:] = held
        steered.step(replace(plant.step(steered.lambda_, drawn.arrivals[10]), cpu=np.array([80.0, 80.0])))
        assert ((steered.margin.points > before) == wider).all()
