"""State: a controller made anew from plain values goes on as if it never stopped; anything else is refused in one line."""

from __future__ import annotations

import copy
import json
from functools import partial
from typing import Any

import numpy as np
import pytest
from mpc_fixtures import trained_model

from marca_common.errors import UserError
from marca_common.protocols import Coming
from mpc_balancer.config import ControllerConfig, MpcConfig, PiConfig, SolverConfig
from mpc_balancer.controllers import CONTROLLERS, make_controller
from mpc_balancer.controllers.mpc import MpcController
from mpc_balancer.testbed.scenarios import Scenario, start_scenario

PI = PiConfig(kp=0.15, ki=0.15, down_factor=0.7, feedforward=0.6)


def controller(name: str, solver: str = "gauss_newton") -> Any:
    own = MpcConfig(solver=SolverConfig(name=solver, deadline_ms=None, iterations=2))
    return make_controller(ControllerConfig(name=name, mpc=own, pi=PI), "reference", trained_model())


def driven(name: str, solver: str, stops: range) -> tuple[np.ndarray, Any]:
    """Prices of a closed loop with lost readings, and its controller; at ``stops`` it is thrown away and made anew."""
    drawn = start_scenario(Scenario(days=0.09, lost_share=0.15, delay_minutes=int(name != "clairvoyant")), 3)
    plant, made, prices = drawn.plant(), controller(name, solver), []
    price = made.lambda_
    for t in range(len(drawn.arrivals) - 1):
        one = plant.step(price, drawn.arrivals[t])
        if hasattr(made, "foresee"):
            coming = drawn.arrivals[t + 1 : t + 9].sum(axis=1) / 60
            made.foresee(Coming(coming, partial(plant.preview, exogenous=drawn.arrivals[t + 1])))
        price = made.step(one)
        prices.append(price)
        if t in stops:
            text = json.dumps(made.state(), allow_nan=False)
            made = controller(name, solver)
            made.restore(json.loads(text))
    return np.array(prices), made


@pytest.mark.parametrize(
    ("name", "solver"), [*((name, "gauss_newton") for name in CONTROLLERS), ("mpc", "random_sampling")]
)
def test_a_controller_restored_every_other_minute_gives_the_same_prices_to_the_last_bit(name: str, solver: str) -> None:
    undisturbed, one = driven(name, solver, range(0))
    resumed, other = driven(name, solver, range(0, 200, 2))
    np.testing.assert_array_equal(resumed, undisturbed)
    assert one.state() == other.state()
    assert one.rungs == other.rungs
    assert other.refused is other.checks.refused  # restored in place: the two names stay one counter


def test_a_forgotten_attribute_would_be_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    kept = [name for name in MpcController.STATE if name != "observer"]
    monkeypatch.setattr(MpcController, "STATE", kept)
    assert (driven("mpc", "gauss_newton", range(0, 200, 2))[0] != driven("mpc", "gauss_newton", range(0))[0]).any()


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("lambda_", [1e-4], r"lambda_: got \[0.0001\]; expected numbers of shape \(2,\)"),
        ("lambda_", ["a", "b"], "lambda_: got"),
        ("lambda_", None, "lambda_: got None; expected numbers of shape"),
        ("rungs", 3, "rungs: got 3; expected counts by name"),
        ("rungs", {"solver": 1.5}, "rungs: got"),
        ("_stale", True, "_stale: got True; expected an integer"),
        ("_stale", "1", "_stale: got '1'"),
        ("_qps", "fast", "_qps: got 'fast'; expected a number or null"),
        ("_generator", {"numpy": {}}, "_generator: got"),
        ("_warm", {"a": 1}, "_warm: got"),
        ("checks.clock.time", "yesterday", "checks.clock.time: got 'yesterday'; expected an instant"),
        ("checks.stuck._run", [1.5, 2.5], "checks.stuck._run: got"),
        ("checks.stuck._whole", [1, 0], "checks.stuck._whole: got"),
        ("forecaster._history", [[1.0], [2.0, 3.0]], "forecaster._history: got"),
        ("delay._commands", [[0.5]], "delay._commands: got"),
        ("observer._bank.tracker.log_gain", [[0.0, 0.0]], "observer._bank.tracker.log_gain: got"),
        ("observer", [], "observer: got a list; expected the keys"),
    ],
)
def test_a_value_of_another_type_or_shape_is_named(path: str, value: Any, message: str) -> None:
    state = copy.deepcopy(controller("mpc").state())
    *parents, last = path.split(".")
    node = state
    for name in parents:
        node = node[name]
    node[last] = value
    with pytest.raises(UserError, match=f"^s.json: state.{message}") as caught:
        controller("mpc").restore(state, "s.json: state")
    assert "\n" not in str(caught.value)


def test_missing_and_unknown_keys_are_named() -> None:
    state = controller("mpc").state()
    changes: list[tuple[Any, str]] = [
        (lambda one: one.pop("_warm"), "s._warm: the key is missing"),
        (lambda one: one.update(new=1), "s.new: unknown key"),
        (lambda one: one["observer"].pop("_best"), "s.observer._best: the key is missing"),
    ]
    for change, message in changes:
        wrong = copy.deepcopy(state)
        change(wrong)
        with pytest.raises(UserError, match=message):
            controller("mpc").restore(wrong, "s")
