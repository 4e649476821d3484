"""Controllers in closed loop: known optimum, placebo, foresight, delay, one price for two services."""

from typing import Any

import numpy as np
import pytest
from controller_fixtures import GROUP, PI, QUICK, controller, measured
from mpc_fixtures import random_model, trained_model

from marca_common.errors import UserError
from marca_common.protocols import Foresight, Reporting
from mpc_balancer.config import (
    ControllerConfig,
)
from mpc_balancer.controllers import CONTROLLERS, make_controller
from mpc_balancer.controllers.delay_detector import DelayDetector
from mpc_balancer.controllers.pi_law import pi_step
from mpc_balancer.testbed.control_loop import closed_loop
from mpc_balancer.testbed.model_plant import ModelPlant
from mpc_balancer.testbed.reference_plant import ReferenceConfig, ReferencePlant
from mpc_balancer.testbed.reference_traffic import SyntheticTrafficConfig, synthetic_traffic
from mpc_balancer.testbed.run_metrics import over_utilisation, recoveries, run_metrics, utilisation


def test_mu_and_nu_by_hand() -> None:
    cpu = np.array([[60.0, 40.0], [66.0, 50.0], [72.0, np.nan]])
    assert utilisation(cpu, np.array([60.0, 50.0])) == pytest.approx([1.0, 0.9])
    assert over_utilisation(cpu, np.array([60.0, 50.0])) == pytest.approx([0.1, 0.0])
    assert utilisation(np.array([30.0, 90.0]), 60.0) == pytest.approx(0.75)


def test_recovery_by_hand() -> None:
    cpu = np.array([[60], [90], [80], [67], [60], [89], [61]], float)
    assert recoveries(cpu, np.array([65.0])) == [2, 1]
    assert recoveries(cpu[:3], np.array([65.0])) == [2]


@pytest.mark.parametrize("name", ["mpc", "pi", "pi_feedforward", "pi_forecast", "knows_next_minute"])
def test_a_plant_with_a_known_optimum(name: Any) -> None:
    """Constant traffic, no noise: CPU ends on the target (for MPC after its back-off), at the one price that gives it."""
    reference = ReferenceConfig(mix_amplitude=0, slow_noise=0, fast_noise=0, reading_noise=0)
    plant = ReferencePlant(reference, 0, 120)
    arrivals = np.full((120, 6), 4000.0)
    steered = controller(name)
    closed_loop(plant, steered, arrivals)
    np.testing.assert_allclose(np.array(plant.truth)[-20:].mean(axis=0), steered.target, atol=0.8)


def test_placebo_perfect_model_constant_traffic() -> None:
    """Without model error and with constant traffic MPC has nothing to foresee: it and PI use the CPUs equally well."""
    model, results = trained_model(), {}
    for name in ("mpc", "pi"):
        plant = ModelPlant(model, GROUP, 0, np.datetime64("2026-03-09T12:00"), noise=0.0)
        config = ControllerConfig(name=name, pi=PI, mpc=QUICK.model_copy(update={"backoff_quantile": None}))
        loop = closed_loop(plant, make_controller(config, GROUP, model), np.full((150, 6), 4400.0))
        results[name] = run_metrics(np.array(plant.truth)[40:], loop.prices[40:], np.array([65.0, 65.0]))
    assert results["mpc"]["mu"] == pytest.approx(results["pi"]["mu"], abs=0.004)
    assert results["mpc"]["nu"] == pytest.approx(results["pi"]["nu"], abs=0.004)


def test_mpc_beats_a_fixed_price_and_clairvoyant_bounds_it() -> None:
    run = synthetic_traffic(SyntheticTrafficConfig(), 3, 200)
    mu = {}
    for name in ("fixed", "bisection", "mpc", "clairvoyant"):
        plant = ReferencePlant(ReferenceConfig(), 3, 200)
        loop = closed_loop(plant, controller(name), run.arrivals)
        out = run_metrics(np.array(plant.truth)[20:], loop.prices, np.array([65.0, 65.0]))
        mu[name] = out["mu"] - 3 * out["nu"]
    assert mu["fixed"] < mu["mpc"] < mu["clairvoyant"] + 1e-9
    assert mu["clairvoyant"] > 0.99


@pytest.mark.parametrize("name", list(CONTROLLERS))
def test_same_seed_same_prices_and_always_in_the_box(name: Any) -> None:
    run = synthetic_traffic(SyntheticTrafficConfig(), 5, 25)
    first, second = (
        closed_loop(ReferencePlant(ReferenceConfig(), 5, 25), controller(name), run.arrivals).prices for _ in range(2)
    )
    np.testing.assert_array_equal(first, second)
    scale = trained_model().prices
    assert ((first >= scale.low) & (first <= scale.high)).all()


class Bare:
    """All that the protocol asks of a controller."""

    def __init__(self, prices: Any) -> None:
        self.lambda_ = np.array(prices)
        self.seen: list[Any] = []

    def step(self, measurement: Any) -> Any:
        self.seen.append(measurement)
        self.lambda_ = self.lambda_ * 1.1
        return self.lambda_


class Told(Bare):
    """Foresight on top."""

    def __init__(self, prices: Any) -> None:
        super().__init__(prices)
        self.coming: list[Any] = []

    def foresee(self, coming: Any) -> None:
        cpu = None if coming.cpu_under is None else coming.cpu_under(self.lambda_ * 1.1)
        self.coming.append((coming.qps, cpu))


def test_a_controller_with_only_lambda_and_step_runs_in_the_closed_loop() -> None:
    bare = Bare([1e-4, 1e-4])
    loop = closed_loop(ReferencePlant(ReferenceConfig(), 0, 5), bare, np.full((5, 6), 4000.0))
    assert bare.seen == list(loop)
    np.testing.assert_allclose(loop.prices[:, 0], 1e-4 * 1.1 ** np.arange(5))
    assert np.isnan(loop.forecasts).all()
    assert not loop.rungs
    assert not loop.refused


def test_foresight_is_told_the_truth_before_each_step_but_the_last() -> None:
    arrivals = 4000.0 + 100 * np.arange(15)[:, None] * np.ones(6)
    told = Told([1e-4, 1e-4])
    plant = ReferencePlant(ReferenceConfig(), 0, 15)
    closed_loop(plant, told, arrivals)
    assert len(told.coming) == 14
    np.testing.assert_allclose(told.coming[0][0], arrivals[1:12].sum(axis=1) / 60)
    np.testing.assert_allclose(told.coming[-1][0], arrivals[14:].sum(axis=1) / 60)
    np.testing.assert_allclose([cpu for _, cpu in told.coming], plant.truth[1:])  # a trial is what then happens


def test_a_plant_without_preview_offers_no_trial() -> None:
    told = Told([1e-4, 1e-4])
    model = trained_model()
    closed_loop(ModelPlant(model, GROUP, 0, np.datetime64("2026-03-09")), told, np.full((3, 6), 4000.0))
    assert [cpu for _, cpu in told.coming] == [None, None]
    plant = ModelPlant(model, GROUP, 0, np.datetime64("2026-03-09"))
    with pytest.raises(UserError, match="can't be previewed"):
        closed_loop(plant, controller("clairvoyant"), np.full((3, 6), 4000.0))


@pytest.mark.parametrize("name", list(CONTROLLERS))
def test_ours_report_and_only_those_with_foresight_are_told(name: Any) -> None:
    made = controller(name)
    assert isinstance(made, Reporting)
    assert isinstance(made, Foresight) == (name in ("knows_next_minute", "clairvoyant"))


def test_pi_forecast_has_gains_and_feedforward_of_its_own() -> None:
    model = trained_model()
    made: Any = make_controller(ControllerConfig(name="pi_forecast"), GROUP, model)
    assert made.gains == model.tuned.pi_gains["pi_forecast"]
    assert made.gains.feedforward > 0
    assert made.forecaster.fitted is model.tuned.forecasts[GROUP]


def test_pi_step_by_hand() -> None:
    def step(state: Any, error: Any, last: Any, **more: Any) -> Any:
        arrays = (np.array([value]) for value in (state, error, last))
        given: dict[str, Any] = {"kp": 0.5, "ki": 0.1, "down": 0.4, "push": 0.0, "top": 1.0} | more
        return pi_step(*arrays, **given)[0]

    assert step(0.5, 0.2, 0.1) == pytest.approx(0.5 + 0.1 * 0.2 + 0.5 * 0.1)
    assert step(0.5, -0.2, -0.1) == pytest.approx(0.5 - 0.4 * (0.1 * 0.2 + 0.5 * 0.1))
    assert step(0.5, np.nan, 0.1, push=0.3) == pytest.approx(0.8)  # lost: only the feed-forward
    assert step(0.99, 0.9, 0.9, push=0.3) == 1.0
    assert step(0.01, -0.9, -0.9, low=-0.02) == pytest.approx(-0.02)


def test_delay_is_found_and_used() -> None:
    scale = trained_model().prices
    for delay in (0, 1, 3):
        detector = DelayDetector(scale, 5)
        generator = np.random.default_rng(0)
        given = [scale.from_unit(generator.random(2)) for _ in range(40)]
        for t, price in enumerate(given):
            detector.command(price)
            detector.observe(given[max(0, t - delay)])
        assert detector.delay == delay
        assert len(detector.pending()) == delay


def test_without_a_model_pi_works_from_a_box_alone() -> None:
    pi = make_controller(ControllerConfig(name="pi", price_high=[1e-3, 1e-3]), "anywhere", services=["x", "y"])
    before = pi.lambda_.copy()
    assert (pi.step(measured(0, [90.0, 90.0])) > before).all()


def test_one_price_for_two_services_follows_the_busier() -> None:
    scale = random_model().prices
    pi = make_controller(ControllerConfig(name="pi", price_high=[1e-3]), "anywhere", services=["x", "y"])
    assert scale.size == 2
    before = pi.lambda_.copy()
    assert (pi.step(measured(0, [90.0, 10.0], lambda_=(1e-4,))) > before).all()
