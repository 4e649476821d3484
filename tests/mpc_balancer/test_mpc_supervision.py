"""What guards a controller against a wrong model, wrong sensors and wrong adapters."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from mpc_fixtures import trained_model

from marca_common.errors import UserError
from mpc_balancer.config import ControllerConfig, MovesConfig, WatchConfig
from mpc_balancer.controllers import make_controller
from mpc_balancer.controllers.alarms import Alarms
from mpc_balancer.controllers.delay_detector import DelayDetector
from mpc_balancer.controllers.margin import Margin
from mpc_balancer.controllers.model_watch import ModelWatch
from mpc_balancer.controllers.moves import Moves
from mpc_balancer.forecasting.event_calendar import Calendar
from mpc_balancer.run import ClosedLoopConfig, simulate
from mpc_balancer.testbed.run_metrics import run_metrics
from mpc_balancer.testbed.scenarios import Scenario, load_scenarios, start_scenario

FAULTS = Path(__file__).parents[2] / "configs" / "mpc_balancer" / "faults.yaml"
BUDGET = np.full(2, 65.0)


def run(scenario: Scenario, name: str = "mpc", seed: int = 7, **options: Any) -> tuple[Any, dict[str, Any]]:
    drawn = start_scenario(scenario, seed)
    config = ClosedLoopConfig(controller=ControllerConfig(name=name, **options))
    controller, loop, cpu = simulate(config, drawn, trained_model(), drawn.calendar, progress=False)
    return controller, run_metrics(cpu, loop.prices, BUDGET)


class TestModelWatch:
    def watch(self) -> ModelWatch:
        return ModelWatch(1, WatchConfig(memory=0.5, patience=3, return_steps=5, longest_return_steps=8))

    def feed(self, watch: ModelWatch, errors: list[float]) -> list[bool]:
        """CPU moves by a tenth up and down; the model is off by the given log errors."""
        told = []
        for k, error in enumerate(errors):
            cpu = np.array([60.0 * 1.1 ** (k % 2)])
            watch.update(cpu, cpu * np.exp(-error), 100.0)
            told.append(watch.agrees)
        return told

    def test_a_model_better_than_none_agrees_however_noisy(self) -> None:
        assert all(self.feed(self.watch(), [0.09, -0.09] * 20))  # CPU moves by log 1.1 = .095 each step

    def test_three_wrong_steps_in_a_row_end_it_and_five_right_ones_bring_it_back(self) -> None:
        watch = self.watch()
        told = self.feed(watch, [0.0] * 4 + [0.4] * 3)
        assert told == [True] * 6 + [False]
        told = self.feed(watch, [0.0] * 20)
        assert told.index(True) >= 5
        self.feed(watch, [0.4] * 3)
        again = self.feed(watch, [0.0] * 30)
        assert again.index(True) >= told.index(True) + 3  # each relapse is forgiven later

    def test_a_single_outlier_is_no_wrong_model(self) -> None:
        assert all(self.feed(self.watch(), [0.0] * 5 + [0.6] + [0.0] * 10))

    def test_readings_of_a_stuck_sensor_are_undone(self) -> None:
        watch = self.watch()
        self.feed(watch, [0.01] * 6)
        before = watch.error.copy(), *watch.excess
        for _ in range(3):
            watch.update(np.array([60.0]), np.array([40.0]), 100.0, np.array([0.2]))
        assert not watch.agrees
        watch.forget(np.array([True]), np.array([3]))
        assert watch.agrees
        np.testing.assert_allclose([watch.error, watch.excess[0]], before[:2], atol=1e-12)

    @pytest.mark.parametrize(("times", "told"), [(1.0, False), (1.6, False), (3.0, True)])
    def test_moves_that_do_far_more_than_foretold_are_noticed(self, times: float, told: bool) -> None:
        """CPU answers λ's moves ``times`` as strongly as the model says, with noise."""
        generator = np.random.default_rng(1)
        watch = ModelWatch(1, WatchConfig())
        for _ in range(80):
            effect, noise = 0.03 * generator.standard_normal(1), 0.01 * generator.standard_normal(1)
            predicted = np.array([60.0])
            watch.update(predicted * np.exp((times - 1) * effect + noise), predicted, 100.0, effect)
        slope, deviation = watch.excess
        assert abs(slope[0] - (times - 1)) < 4 * deviation[0]
        assert watch.underrates[0] == watch.effects_wrong == (not watch.agrees) == told

    def test_a_model_that_traffic_alone_beats_is_wrong(self) -> None:
        watch = self.watch()
        for k in range(10):
            factor = 1.1 ** (k % 2)
            watch.update(np.array([60.0 * factor]), np.array([60.0 * 1.1 ** ((k + 1) % 2)]), 100.0 * factor)
        assert not watch.agrees  # CPU followed traffic to the last digit, the model said the opposite

    def test_a_model_that_lost_for_its_effects_returns_only_when_they_are_shown_right(self) -> None:
        generator = np.random.default_rng(2)
        watch = ModelWatch(1, WatchConfig(return_steps=5))

        def live(steps: int, size: float, times: float) -> None:
            for _ in range(steps):
                effect, noise = size * generator.standard_normal(1), 0.01 * generator.standard_normal(1)
                watch.update(np.array([60.0]) * np.exp((times - 1) * effect + noise), np.array([60.0]), 100.0, effect)

        live(60, 0.03, 3.0)
        assert watch.effects_wrong
        live(200, 1e-4, 1.0)  # λ hardly moves: no evidence
        assert watch.effects_wrong
        assert not watch.agrees
        live(80, 0.03, 1.0)
        assert watch.agrees
        assert not watch.effects_wrong

    @pytest.mark.parametrize(("bias", "told"), [(0.0, False), (0.02, True)])
    def test_errors_that_keep_their_sign_are_told_however_small(self, bias: float, told: bool) -> None:
        generator = np.random.default_rng(3)
        watch, seen = ModelWatch(1, WatchConfig()), []
        for _ in range(400):
            error = bias + 0.01 * generator.standard_normal(1)
            watch.update(60.0 * np.exp(error), np.array([60.0]), 100.0)
            seen.append(bool(watch.one_sided[0]))
        assert watch.agrees  # two percent are no reason to leave the model
        assert any(seen) == told
        assert not any(seen[:38])  # too few to say

    def test_the_sign_of_a_lost_reading_is_nobodys(self) -> None:
        watch = self.watch()
        for error in (0.01, np.nan, 0.01, np.nan) * 30:
            watch.update(np.array([60.0 * np.exp(error)]), np.array([60.0]), 100.0)
        assert watch.one_sided[0]

    def test_a_lost_reading_teaches_nothing(self) -> None:
        watch = self.watch()
        self.feed(watch, [0.02] * 6)
        before = watch.error.copy()
        watch.update(np.array([np.nan]), np.array([60.0]), 100.0)
        np.testing.assert_array_equal(watch.error, before)


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


def steps(count: int, qps_factor: float = 1.0) -> tuple[Any, Any, Any]:
    """MPC after some steps on the reference plant, the plant and its traffic."""
    steered: Any = make_controller(ControllerConfig(name="mpc"), "reference", trained_model())
    drawn = start_scenario(Scenario(days=0.05, qps_factor=qps_factor), 3)
    plant = drawn.plant()
    for minute in range(count):
        steered.step(plant.step(steered.lambda_, drawn.arrivals[minute]))
    return steered, plant, drawn


def test_the_margin_rests_while_pi_steers() -> None:
    steered, plant, drawn = steps(10)
    one = plant.step(steered.lambda_, drawn.arrivals[10])
    high = replace(one, cpu=np.array([80.0, 80.0]))
    before = steered.margin.points.copy()
    steered.watch.agrees, steered.watch._wait = False, 10**6
    steered.step(high)
    np.testing.assert_array_equal(steered.margin.points, before)
    assert steered.rungs["pi"] == 1


def test_a_full_machine_teaches_neither_margin_nor_watch() -> None:
    steered, plant, drawn = steps(10)
    margin, seen = steered.margin.points.copy(), steered.watch._seen
    one = plant.step(steered.lambda_, drawn.arrivals[10])
    steered.step(replace(one, qps=4 * one.qps, arrivals=4 * one.arrivals, cpu=np.array([99.0, 98.9])))
    assert (steered.observer.predicted > 105).all()  # which no machine can do
    np.testing.assert_array_equal(steered.margin.points, margin)
    assert steered.watch._seen == seen
    steered, plant, drawn = steps(10)
    steered.step(replace(plant.step(steered.lambda_, drawn.arrivals[10]), cpu=np.array([80.0, 80.0])))
    assert (steered.margin.points > margin).all()
    assert steered.watch._seen == seen + 1


def test_an_untuned_pi_takes_over_from_the_price_that_was_given() -> None:
    steered, plant, drawn = steps(40)
    last = steered.scale.to_unit(steered.lambda_)
    steered.watch.agrees, steered.watch.effects_wrong, steered.watch._wait = False, True, 10**6
    price = steered.step(plant.step(steered.lambda_, drawn.arrivals[40]))
    assert steered.rungs["pi"] == 1
    assert np.abs(steered.scale.to_unit(price) - last).max() < 0.05
    assert np.abs(last - 0.5).max() > 0.06  # where the rule itself started


@pytest.mark.parametrize(("factor", "told"), [(1.0, False), (0.4, False), (0.05, True), (20.0, True)])
def test_traffic_far_from_the_training_tables_is_told(factor: float, told: bool) -> None:
    steered, _, _ = steps(5, factor)
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
    steered, seen = run(scenario)
    _, rule = run(scenario, "pi_feedforward")
    assert steered.alarms.first[alarm] <= 10
    assert steered.rungs["pi"] > 500
    assert seen["nu"] <= 1.5 * rule["nu"]
    assert seen["mu"] >= rule["mu"] - 0.004


def test_a_release_that_doubles_the_cost_is_told_within_ten_minutes() -> None:
    scenario = Scenario.model_validate({"days": 0.4, "cost_steps": [{"minute": 300, "factor": 2.5}]})
    steered, _ = run(scenario)
    assert 300 <= steered.alarms.first["model"] <= 310
    assert set(steered.alarms.first) == {"model", "gain", "one_sided"}


def test_an_ordinary_day_and_a_noisy_one_raise_no_alarm() -> None:
    for scenario in (Scenario(days=0.5), Scenario(days=0.5, reading_noise=2.0), Scenario(days=0.5, delay_minutes=1)):
        steered, _ = run(scenario)
        assert not steered.alarms.steps
        assert set(+steered.rungs) == {"solver"}


@pytest.mark.parametrize("name", ["one_sensor_stuck", "both_stuck_low", "both_read_zero"])
def test_lost_sensors_are_bridged_by_the_model_for_hours(name: str) -> None:
    scenario = load_scenarios(FAULTS)[name]
    moved = [sensor.model_copy(update={"minute": 200}) for sensor in scenario.wrong_sensors]
    steered, seen = run(scenario.model_copy(update={"days": 0.6, "wrong_sensors": moved}))
    assert seen["nu"] < 0.006
    assert seen["mu"] > 0.93
    lost = {f"sensor_{('retrieval', 'ranking')[sensor.service]}" for sensor in moved}
    assert lost <= set(steered.alarms.first)
    assert all(200 <= steered.alarms.first[one] <= 210 for one in lost)


def test_a_delay_that_the_adapter_hides_is_found() -> None:
    scenario = Scenario(days=0.5, delay_minutes=3, echoed=True)
    steered, seen = run(scenario)
    _, rule = run(scenario, "pi_feedforward")
    assert steered.delay.inferred == 3
    assert "delay" in steered.alarms.first
    assert seen["nu"] < rule["nu"]


def test_a_declared_delay_needs_no_finding() -> None:
    scenario = Scenario(days=0.5, delay_minutes=3, echoed=True)
    _, found = run(scenario)
    told, known = run(scenario, mpc={"delay": 3})
    assert known["nu"] < found["nu"]
    assert "delay" not in told.alarms.first


def test_dead_time_compensation_helps_pi_where_prices_act_late() -> None:
    scenario = Scenario(days=0.5, delay_minutes=3)
    _, plain = run(scenario, "pi_forecast", pi={"kp": 0.3, "ki": 0.3})
    _, smith = run(scenario, "pi_dead_time", pi={"kp": 0.3, "ki": 0.3})
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


def test_a_model_that_makes_too_little_of_the_price_leaves_it_to_untuned_pi() -> None:
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


def test_a_scenario_with_a_sensor_of_no_service_is_refused() -> None:
    scenario = Scenario.model_validate({"days": 0.1, "wrong_sensors": [{"service": 2, "value": 50.0}]})
    with pytest.raises(UserError, match=r"scenario\.wrong_sensors: got service 2; expected a number below 2"):
        start_scenario(scenario, 1)


def test_a_price_at_its_limit_is_told() -> None:
    scenario = Scenario.model_validate({"days": 0.1, "surges": [{"minute": 60, "factor": 4.0}]})
    for name in ("mpc", "pi"):
        steered, _ = run(scenario, name, price_high=[3e-4, 3e-4])
        assert {one for one in steered.alarms.first if one.startswith("price_limit")} == {
            "price_limit_retrieval",
            "price_limit_ranking",
        }


class TestMoves:
    @pytest.mark.parametrize("name", ["mpc", "one_step", "look_ahead", "pi", "pi_dead_time", "bisection"])
    @pytest.mark.parametrize(
        "moves", [{"most_per_minute": 0.02}, {"period": 5}, {"period": 5, "most_per_minute": 0.02}, {"levels": 7}]
    )
    def test_every_controller_keeps_to_them(self, name: str, moves: dict[str, Any]) -> None:
        drawn = start_scenario(Scenario.model_validate({"days": 0.06, "surges": [{"minute": 40, "factor": 2.0}]}), 5)
        config = ClosedLoopConfig(controller=ControllerConfig(name=name, moves=MovesConfig(**moves)))
        _, loop, _ = simulate(config, drawn, trained_model(), drawn.calendar, progress=False)
        unit = trained_model().prices.to_unit(loop.prices)[1:]  # the first interval runs under the start price
        steps = np.abs(np.diff(unit, axis=0)).max(axis=1)
        period = moves.get("period", 1)
        assert steps.max() > 0
        assert steps.max() <= moves.get("most_per_minute", np.inf) * period + 1e-9
        moved = np.flatnonzero(steps > 1e-12)
        assert len(set(moved % period)) == 1 or period == 1
        if "levels" in moves:
            np.testing.assert_allclose(unit * 6, np.round(unit * 6), atol=1e-9)

    @pytest.mark.parametrize("name", ["pi", "pi_feedforward", "pi_dead_time"])
    def test_an_integrator_does_not_wind_up_where_moves_are_limited(self, name: str) -> None:
        moves = MovesConfig(most_per_minute=0.005)
        rule: Any = make_controller(ControllerConfig(name=name, moves=moves), "reference", trained_model())
        drawn = start_scenario(Scenario(days=0.02), 3)
        one = drawn.plant().step(rule.lambda_, drawn.arrivals[0])
        for minute in range(20):
            stamp = one.timestamp + minute * np.timedelta64(60, "s")
            rule.step(replace(one, timestamp=stamp, cpu=np.array([90.0 + 0.1 * minute] * 2)))
        held = rule.curve.to_unit(rule._state)
        np.testing.assert_allclose(held, rule.scale.to_unit(rule.lambda_), atol=1e-6)
        assert rule.scale.to_unit(rule.lambda_).max() < 0.5 + 20 * 0.005 + 1e-9

    def test_a_price_that_rose_as_far_as_it_may_is_held(self) -> None:
        scale = trained_model().prices
        moves = Moves(MovesConfig(most_per_minute=0.1), scale, 60)
        last = scale.from_unit(np.array([0.5, 0.5]))
        for wanted, held in (([0.9, 0.55], [True, False]), ([0.1, 0.6], [False, True]), ([0.5, 0.5], [False, False])):
            moves.allowed(scale.from_unit(np.array(wanted)), last)
            assert moves.held.tolist() == held

    def test_over_use_of_a_price_that_is_held_widens_no_margin(self) -> None:
        for held, wider in ((False, True), (True, False)):
            steered, plant, drawn = steps(10)
            before = steered.margin.points.copy()
            steered.moves.held[:] = held
            steered.step(replace(plant.step(steered.lambda_, drawn.arrivals[10]), cpu=np.array([80.0, 80.0])))
            assert ((steered.margin.points > before) == wider).all()

    def test_the_reach_of_coming_steps_by_hand(self) -> None:
        scale = trained_model().prices
        moves = Moves(MovesConfig(period=3, most_per_minute=0.1), scale, 60)
        assert moves.reach(1, 6) == pytest.approx([np.inf, 0.3, 0.0, 0.0, 0.3, 0.0])
        moves.allowed(scale.high, scale.low)
        assert moves.reach(0, 5) == pytest.approx([0.0, 0.0, 0.3, 0.0, 0.0])
        assert Moves(MovesConfig(most_per_minute=0.1), scale, 20).reach(0, 2) == pytest.approx([0.1 / 3, 0.1 / 3])
        assert Moves(MovesConfig(levels=5), scale, 60).reach(0, 2) is None

    def test_levels_never_lead_further_than_lambda_may_move(self) -> None:
        scale = trained_model().prices
        moves = Moves(MovesConfig(levels=11, most_per_minute=0.13), scale, 60)
        at = np.array([0.5, 0.5])
        for wanted, expected in (([0.9, 0.1], [0.6, 0.4]), ([0.56, 0.44], [0.6, 0.4]), ([0.54, 0.46], [0.5, 0.5])):
            found = moves.allowed(scale.from_unit(np.array(wanted)), scale.from_unit(at))
            np.testing.assert_allclose(scale.to_unit(found), expected, atol=1e-9)
        off = moves.allowed(scale.from_unit(np.array([0.9, 0.9])), scale.from_unit(np.array([0.43, 0.43])))
        np.testing.assert_allclose(scale.to_unit(off), [0.5, 0.5], atol=1e-9)  # .56 would round to .6, .17 away

    def test_levels_further_apart_than_lambda_may_move_are_refused(self) -> None:
        with pytest.raises(ValueError, match=r"levels: got 5, 0.25 of the box apart; λ may move by 0.02 at a time"):
            MovesConfig(levels=5, most_per_minute=0.02)

    def test_a_plan_sets_out_before_an_announced_sale_and_one_step_does_not(self) -> None:
        scenario = Scenario.model_validate(
            {
                "days": 0.35,
                "moves": {"most_per_minute": 0.02},
                "surges": [{"minute": 300, "factor": 1.7, "decay_minutes": 45, "announced": 1.7}],
            }
        )
        peaks, units = {}, {}
        for name in ("mpc", "look_ahead", "one_step"):
            drawn = start_scenario(scenario, 11)
            config = ClosedLoopConfig(controller=ControllerConfig(name=name))
            _, loop, cpu = simulate(config, drawn, trained_model(), drawn.calendar, progress=False)
            peaks[name] = cpu[298:320].max()
            units[name] = trained_model().prices.to_unit(loop.prices)[299].mean()
        assert peaks["mpc"] < peaks["one_step"] - 5
        assert peaks["look_ahead"] < peaks["one_step"] - 5
        assert min(units["mpc"], units["look_ahead"]) > units["one_step"] + 0.05


class TestPlannedCapacity:
    def calendar(self, tmp_path: Path, text: str) -> Calendar:
        path = tmp_path / "capacity.csv"
        path.write_text(text, encoding="utf-8")
        return Calendar([]).with_capacity(path)

    def test_load_by_hand(self, tmp_path: Path) -> None:
        rows = "start,end,share\n2026-03-09T10:00,2026-03-09T12:00,0.5\n2026-03-09T11:00,2026-03-09T13:00,0.8\n"
        calendar = self.calendar(tmp_path, rows)
        times = np.array(
            ["2026-03-09T09:59", "2026-03-09T10:00", "2026-03-09T11:00", "2026-03-09T12:00", "2026-03-09T13:00"]
        )
        np.testing.assert_allclose(calendar.load(times.astype("datetime64[s]")), [1.0, 2.0, 2.5, 1.25, 1.0])

    @pytest.mark.parametrize(
        ("rows", "said"),
        [
            ("start,end,share\n2026-03-09T10:00,2026-03-09T09:00,0.5\n", "row 1: got share 0.5"),
            ("start,end,share\n2026-03-09T10:00,2026-03-09T11:00,0\n", "expected a share above 0"),
            ("start,end,share\n2026-03-09T10:00,soon,0.5\n", "column 'end'"),
            ("start,share\n2026-03-09T10:00,0.5\n", "'end'"),
        ],
    )
    def test_bad_rows_are_named(self, tmp_path: Path, rows: str, said: str) -> None:
        with pytest.raises(UserError, match=said):
            self.calendar(tmp_path, rows)

    def test_a_planned_change_is_met_when_it_comes(self) -> None:
        scenario = Scenario.model_validate({"days": 0.3, "capacity": [{"minute": 200, "minutes": 100, "share": 0.67}]})
        drawn = start_scenario(scenario, 4)
        config = ClosedLoopConfig(controller=ControllerConfig(name="mpc"))
        _, _, told = simulate(config, drawn, trained_model(), drawn.calendar, progress=False)
        _, _, untold = simulate(config, drawn, trained_model(), Calendar([]), progress=False)
        assert untold[200].max() > 75 > told[200].max()
        assert told[300].min() > 55 > untold[300].min()


def test_degradation_that_recovers_slowly_keeps_the_cost_low_for_longer() -> None:
    def degradation(recovery: float) -> np.ndarray:
        scenario = Scenario.model_validate({"days": 0.03, "degrade_recovery": recovery, "degrade_relief": 0.3})
        drawn = start_scenario(scenario, 3)
        plant = drawn.plant()
        assert plant.config.degrade_relief == 0.3
        load = np.where(np.arange(len(drawn.arrivals)) < 10, 9.0, 0.1)  # ten minutes of far too much traffic
        return np.array([plant.step(np.zeros(2), k * one).degradation for k, one in zip(load, drawn.arrivals)])

    fast, slow = degradation(0.05), degradation(0.005)
    np.testing.assert_allclose(slow[:10], fast[:10], atol=0.01)
    assert fast[9] > 0.9
    # minutes of six sub-intervals without load: what is left is a power of what does not end
    assert slow[22] / slow[12] == pytest.approx(0.995**60, rel=0.001)
    assert fast[22] / fast[12] == pytest.approx(0.95**60, rel=0.001)
