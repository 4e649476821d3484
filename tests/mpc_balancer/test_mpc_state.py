"""State: a controller made anew from plain values goes on as if it never stopped; anything else is refused in one line."""

from __future__ import annotations

import copy
import json
from functools import partial
from typing import Any

import numpy as np
import pytest
from mpc_fixtures import trained_model

from marca_common.config import replaced
from marca_common.errors import UserError
from marca_common.protocols import Coming
from mpc_balancer.config import ControllerConfig, MpcConfig, PiConfig, SolverConfig
from mpc_balancer.controllers import CONTROLLERS, make_controller
from mpc_balancer.controllers.mpc import MpcController
from mpc_balancer.controllers.pi_law import CostCurve
from mpc_balancer.forecasting.event_calendar import Calendar
from mpc_balancer.forecasting.traffic_forecast import TrafficForecast
from mpc_balancer.price_scale import PriceScale
from mpc_balancer.stateful import Stateful
from mpc_balancer.system_model.model import SystemModel
from mpc_balancer.testbed.scenarios import CostStep, MinuteSpan, Scenario, start_scenario

PI = PiConfig(kp=0.15, ki=0.15, down_factor=0.7, feedforward=0.6)


def controller(name: str, **more: Any) -> Any:
    own = ControllerConfig(name=name, mpc=MpcConfig(solver=SolverConfig(deadline_ms=None, iterations=2)), pi=PI)
    return make_controller(replaced(own, more), "reference", trained_model())


def driven(name: str, stops: range, **more: Any) -> tuple[np.ndarray, Any]:
    """Prices of a closed loop with lost readings, a stuck sensor and a cost that leaps, and its controller; at ``stops`` it is
    thrown away and made anew."""
    faults = {"frozen": [MinuteSpan(minute=30, minutes=12)], "cost_steps": [CostStep(minute=60, factor=1.7)]}
    drawn = start_scenario(Scenario(days=0.09, lost_share=0.15, delay_minutes=int(name != "clairvoyant"), **faults), 3)
    plant, made, prices = drawn.plant(), controller(name, **more), []
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
            made = controller(name, **more)
            made.restore(json.loads(text))
    return np.array(prices), made


@pytest.mark.parametrize(
    ("name", "more"),
    [
        *((name, {}) for name in CONTROLLERS),
        ("mpc", {"mpc.solver.name": "random_sampling"}),
        ("mpc", {"moves.most_per_minute": 0.02, "moves.period": 3}),
        ("pi", {"moves.most_per_minute": 0.02, "moves.period": 3}),
    ],
)
def test_a_controller_restored_every_other_minute_gives_the_same_prices_to_the_last_bit(name: str, more: Any) -> None:
    undisturbed, one = driven(name, range(0), **more)
    resumed, other = driven(name, range(0, 200, 2), **more)
    np.testing.assert_array_equal(resumed, undisturbed)
    assert one.state() == other.state()
    assert one.rungs == other.rungs
    assert other.refused is other.checks.refused  # restored in place: the two names stay one counter
    assert other.alarm_steps is other.alarms.steps


def test_a_forgotten_attribute_would_be_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    kept = [name for name in MpcController.STATE if name != "observer"]
    monkeypatch.setattr(MpcController, "STATE", kept)
    assert (driven("mpc", range(0, 200, 2))[0] != driven("mpc", range(0))[0]).any()


PASSING = {"last_error", "_in_force"}  # set anew before they are read
ALIASES = {"refused", "alarm_steps"}  # of counters that have their own place


def changed(before: Any, after: Any, place: str = "") -> list[str]:
    """Attributes outside STATE that differ between two objects, those of Stateful parts included."""
    kept = {name for kind in type(before).__mro__ for name in vars(kind).get("STATE", ())}
    found = []
    for name, then in vars(before).items():
        now = vars(after)[name]
        if isinstance(then, Stateful):
            found += changed(then, now, f"{place}{name}.")
            found += [] if name in kept else [f"{place}{name}"] if changed_parts(then, now) else []
        elif name not in kept | PASSING | ALIASES and not same(then, now):
            found.append(place + name)
    return found


def changed_parts(before: Stateful, after: Stateful) -> bool:
    return before.state() != after.state()


def same(one: Any, two: Any) -> bool:
    if isinstance(one, np.ndarray):
        return bool(np.array_equal(one, two, equal_nan=one.dtype.kind == "f"))
    if isinstance(one, SystemModel | CostCurve | Calendar | PriceScale | TrafficForecast) or callable(one):
        return type(one) is type(two)
    return bool(one == two) or (one != one and two != two)


@pytest.mark.parametrize("name", list(CONTROLLERS))
def test_every_attribute_that_changes_is_part_of_the_state(name: str) -> None:
    for more in ({}, {"moves.most_per_minute": 0.02, "moves.period": 3}):
        assert changed(controller(name, **more), driven(name, range(0), **more)[1]) == []


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
        ("checks.stuck.run", [1.5, 2.5], "checks.stuck.run: got"),
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
