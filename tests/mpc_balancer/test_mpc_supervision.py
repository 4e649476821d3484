"""What guards a controller against a wrong model, wrong sensors and wrong adapters."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from controller_fixtures import run_scenario, stepped
from mpc_fixtures import trained_model

from marca_common.errors import UserError
from mpc_balancer.config import ControllerConfig
from mpc_balancer.controllers import make_controller
from mpc_balancer.controllers.alarms import Alarms
from mpc_balancer.controllers.delay_detector import DelayDetector
from mpc_balancer.controllers.pi_law import pi_step
from mpc_balancer.run import ClosedLoopConfig, simulate
from mpc_balancer.system_model.tuned import PiGains
from mpc_balancer.testbed.run_metrics import run_metrics
from mpc_balancer.testbed.scenarios import Scenario, load_scenarios, start_scenario

FAULTS = Path(__file__).parents[2] / "configs" / "mpc_balancer" / "faults.yaml"
BUDGET = np.full(2, 65.0)


def test_a_plain_pi_takes_over_from_the_price_that_was_given() -> None:
    steered, plant, drawn = stepped(40)
    last = steered.scale.to_unit(steered.lambda_)
    steered.watch.agrees, steered.watch.effects_wrong, steered.watch._wait = False, True, 10**6
    price = steered.step(plant.step(steered.lambda_, drawn.arrivals[40]))
    assert steered.rungs["pi"] == 1
    assert np.abs(steered.scale.to_unit(price) - last).max() < 0.05
    assert np.abs(last - 0.5).max() > 0.06  # where the rule itself started


@pytest.mark.parametrize(("factor", "told"), [(1.0, False), (0.4, False), (0.05, True), (20.0, True)])
def test_traffic_far_from_the_training_tables_is_told(factor: float, told: bool) -> None:
    steered, _, _ = stepped(5, factor)
    assert ("traffic" in steered.alarms.first) == told
    assert (steered.odd_traffic > 0) == told


def test_alarms_are_counted_and_say_when_they_rose_and_ended(caplog: pytest.LogCaptureFixture) -> None:
    alarms = Alarms("east")
    for step in range(6):
        if 2 <= step < 5:
            alarms.raise_("model", "the model is off by 30 percent")
        alarms.end_step()
    assert alarms.first == {"model": 2}
    assert alarms.steps == {"model": 3}
    assert [record.message for record in caplog.records] == [
        "east: alarm model: the model is off by 30 percent",
        "east: alarm model is over",
    ]


class TestDelayFromCpu:
    def detector(self) -> DelayDetector:
        return DelayDetector(trained_model().prices, 4)

    def feed(self, detector: DelayDetector, true_delay: int, steps: int, size: float = 0.1) -> None:
        generator = np.random.default_rng(3)
        for _ in range(steps):
            command = detector.scale.from_unit(generator.random(2))
            detector.command(command)
            detector.observe(command)  # the adapter echoes
            if len(detector.candidates()):
                surprise = np.full(5, size**2)
                surprise[true_delay] = 0.01**2
                detector.compare(surprise)

    def test_an_echoed_delay_is_found(self) -> None:
        detector = self.detector()
        self.feed(detector, 3, 60)
        assert (detector.reported, detector.inferred, detector.delay) == (0, 3, 3)
        commands = list(detector._commands)
        acting = detector.acting(detector.scale.from_unit(commands[-1]))
        np.testing.assert_allclose(detector.scale.to_unit(acting), commands[-4])

    def test_a_declared_delay_is_taken_for_true(self) -> None:
        detector = DelayDetector(trained_model().prices, 5, declared=2)
        self.feed(detector, 0, 20)  # the adapter echoes
        assert detector.delay == 2
        assert len(detector.candidates()) == 0
        commands = list(detector._commands)
        acting = detector.acting(detector.scale.from_unit(commands[-1]))
        np.testing.assert_allclose(detector.scale.to_unit(acting), commands[-3])
        assert len(detector.pending()) == 2

    def test_no_delay_is_seen_where_there_is_none(self) -> None:
        detector = self.detector()
        self.feed(detector, 0, 60)
        assert detector.delay == 0

    def test_a_model_that_explains_nothing_proves_no_delay(self) -> None:
        detector = self.detector()
        for _ in range(60):
            detector.command(detector.scale.from_unit(np.random.default_rng(len(detector._commands)).random(2)))
            detector.compare(np.array([0.5, 0.1, 0.1, 0.05, 0.1]))
        assert detector.delay == 0


HALF_DAY = {"days": 0.5}


@pytest.mark.parametrize(
    ("name", "alarm"),
    [
        ("qps_half", "model"),
        ("qps_tenth", "model"),
        ("qps_sixty", "traffic"),
        ("price_effect_fifth", "model"),
    ],
)
def test_a_wrong_model_hands_over_to_pi_and_is_told_within_ten_minutes(name: str, alarm: str) -> None:
    scenario = load_scenarios(FAULTS)[name].model_copy(update=HALF_DAY)
    steered, seen = run_scenario(scenario)
    _, rule = run_scenario(scenario, "pi_feedforward")
    assert steered.alarms.first[alarm] <= 10
    assert steered.rungs["pi"] > 500
    assert seen["nu"] <= 1.5 * rule["nu"]
    assert seen["mu"] >= rule["mu"] - 0.004


def test_a_release_that_doubles_the_cost_is_told_within_ten_minutes() -> None:
    scenario = Scenario.model_validate({"days": 0.4, "cost_steps": [{"minute": 300, "factor": 2.5}]})
    steered, _ = run_scenario(scenario)
    assert 300 <= steered.alarms.first["model"] <= 310
    assert set(steered.alarms.first) == {"model", "gain", "one_sided"}


def test_an_ordinary_day_and_a_noisy_one_raise_no_alarm() -> None:
    for scenario in (Scenario(days=0.5), Scenario(days=0.5, reading_noise=2.0), Scenario(days=0.5, delay_minutes=1)):
        steered, _ = run_scenario(scenario)
        assert not steered.alarms.steps
        assert set(+steered.rungs) == {"solver"}


@pytest.mark.parametrize("name", ["one_sensor_stuck", "both_stuck_low", "both_read_zero"])
def test_lost_sensors_are_bridged_by_the_model_for_hours(name: str) -> None:
    scenario = load_scenarios(FAULTS)[name]
    moved = [sensor.model_copy(update={"minute": 200}) for sensor in scenario.wrong_sensors]
    steered, seen = run_scenario(scenario.model_copy(update={"days": 0.6, "wrong_sensors": moved}))
    assert seen["nu"] < 0.006
    assert seen["mu"] > 0.93
    lost = {f"sensor_{('retrieval', 'ranking')[sensor.service]}" for sensor in moved}
    assert lost <= set(steered.alarms.first)
    assert all(200 <= steered.alarms.first[one] <= 210 for one in lost)


def test_a_delay_that_the_adapter_hides_is_found() -> None:
    scenario = Scenario(days=0.5, delay_minutes=3, echoed=True)
    steered, seen = run_scenario(scenario)
    _, rule = run_scenario(scenario, "pi_feedforward")
    assert steered.delay.inferred == 3
    assert "delay" in steered.alarms.first
    assert seen["nu"] < rule["nu"]


def test_a_declared_delay_needs_no_finding() -> None:
    scenario = Scenario(days=0.5, delay_minutes=3, echoed=True)
    _, found = run_scenario(scenario)
    told, known = run_scenario(scenario, mpc={"delay": 3})
    assert known["nu"] < found["nu"]
    assert "delay" not in told.alarms.first


def test_dead_time_compensation_helps_pi_where_prices_act_late() -> None:
    scenario = Scenario(days=0.5, delay_minutes=3)
    _, plain = run_scenario(scenario, "pi_forecast", pi={"kp": 0.3, "ki": 0.3})
    _, smith = run_scenario(scenario, "pi_dead_time", pi={"kp": 0.3, "ki": 0.3})
    assert smith["nu"] < 0.85 * plain["nu"]
    assert smith["mu"] > plain["mu"]


def test_a_price_whose_effect_was_never_learnt_is_left_to_cautious_pi() -> None:
    model = trained_model()
    size = len(model.services)
    first = model.weights[0].copy()
    first[size : 2 * size] = 0.0  # the network does not see λ
    blind = replace(model, weights=[first, *model.weights[1:]])
    steered: Any = make_controller(ControllerConfig(name="mpc"), "reference", blind)
    plain = make_controller(
        ControllerConfig(name="pi", pi={"kp": 0.3, "ki": 0.3, "down_factor": 1.0}), "reference", model
    )
    drawn = start_scenario(Scenario(days=0.05), 3)
    plant = drawn.plant()
    for minute in range(60):
        one = plant.step(plain.lambda_, drawn.arrivals[minute])
        np.testing.assert_allclose(steered.step(one), plain.step(one))
    assert steered.alarms.first["prices_not_learnt"] == 0


def test_a_model_that_makes_too_little_of_the_price_leaves_it_to_plain_pi() -> None:
    model = trained_model()
    size = len(model.services)
    first = model.weights[0].copy()
    first[size : 2 * size] *= 0.25  # the network hears a quarter of λ
    drawn = start_scenario(Scenario(days=0.3), 7)
    config = ClosedLoopConfig(controller=ControllerConfig(name="mpc"))
    steered: Any
    steered, loop, cpu = simulate(
        config, drawn, replace(model, weights=[first, *model.weights[1:]]), drawn.calendar, progress=False
    )
    assert "price_effect" in steered.alarms.first
    assert steered.rungs["pi"] > 200
    assert run_metrics(cpu[100:], loop.prices, BUDGET)["nu"] < 0.02


def test_the_pi_beside_a_wrong_model_holds_cpu_where_a_price_moves_everything_at_once() -> None:
    model = trained_model()
    tuned = PiGains(kp=0.05, ki=0.2, down_factor=0.4, feedforward=0.3)
    model = replace(model, tuned=replace(model.tuned, pi_gains={"pi": tuned}))
    steered: Any = make_controller(ControllerConfig(name="mpc"), "reference", model)
    assert steered.cautious.gains == replace(tuned, feedforward=0.0)
    for ki, used in ((0.1, 0.1), (0.9, 0.3)):  # somebody's own gain, and the most
        own: Any = make_controller(ControllerConfig(name="mpc", pi={"ki": ki}), "reference", model)
        assert own.cautious.gains == replace(tuned, ki=used, feedforward=0.0)

    def last_errors(gains: PiGains) -> np.ndarray:
        unit, before, found = np.zeros(1), np.full(1, np.nan), []
        for _ in range(100):
            error = 2.6 * (0.4 - unit)  # log CPU over its target; the whole box takes off 93 %
            unit = pi_step(unit, error, before, gains.kp, gains.ki, gains.down_factor, 0.0, 1.0)
            before = error
            found.append(error)
        return np.abs(found[-10:])

    assert last_errors(steered.cautious.gains).max() < 0.001
    assert last_errors(PiGains()).min() > 0.3  # untuned, it swings between the ends


def test_a_scenario_with_a_sensor_of_no_service_is_refused() -> None:
    scenario = Scenario.model_validate({"days": 0.1, "wrong_sensors": [{"service": 2, "value": 50.0}]})
    with pytest.raises(UserError, match=r"scenario\.wrong_sensors: got service 2; expected a number below 2"):
        start_scenario(scenario, 1)


def test_a_price_at_its_limit_is_told() -> None:
    scenario = Scenario.model_validate({"days": 0.1, "surges": [{"minute": 60, "factor": 4.0}]})
    for name in ("mpc", "pi"):
        steered, _ = run_scenario(scenario, name, price_high=[3e-4, 3e-4])
        assert {one for one in steered.alarms.first if one.startswith("price_limit")} == {
            "price_limit_retrieval",
            "price_limit_ranking",
        }
