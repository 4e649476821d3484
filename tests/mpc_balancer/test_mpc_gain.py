"""κ and the bank of observers: by hand, and what they are worth in closed loop."""

from typing import Any

import numpy as np
import pytest
from controller_fixtures import GROUP, UNWATCHED
from mpc_fixtures import trained_model

from mpc_balancer.config import (
    ControllerConfig,
    GainConfig,
)
from mpc_balancer.controllers import make_controller
from mpc_balancer.system_model.observer import GainTracker, Observer
from mpc_balancer.testbed.control_loop import closed_loop
from mpc_balancer.testbed.reference_plant import Disturbances, ReferenceConfig, ReferencePlant
from mpc_balancer.testbed.reference_traffic import SyntheticTrafficConfig, synthetic_traffic
from mpc_balancer.testbed.run_metrics import over_utilisation


class TestGain:
    config = GainConfig(low=0.5, high=2.0, freeze_log_error=0.7, saturated_cpu=99, fast_rate=0.0)

    def moved(self, measured: Any, predicted: Any, rate: float = 0.5, **more: Any) -> Any:
        tracker = GainTracker((1,), rate, self.config.model_copy(update=more))
        tracker.update(np.array([measured]), np.array([predicted]))
        return tracker.log_gain[0]

    def test_by_hand(self) -> None:
        assert self.moved(66.0, 60.0) == pytest.approx(0.5 * np.log(1.1))
        assert self.moved(np.nan, 60.0) == 0  # lost
        assert self.moved(99.5, 120.0) == 0  # saturated: the load may be 120
        assert self.moved(99.5, 60.0) == pytest.approx(0.5 * np.log(99.5 / 60))  # at least that much
        assert self.moved(10.0, 60.0) == 0  # too far off to be a gain
        assert self.moved(90.0, 60.0, rate=1.0, high=1.4) == pytest.approx(np.log(1.4))  # clipped

    def test_errors_of_one_sign_are_believed_faster_than_errors_that_alternate(self) -> None:
        def after(readings: Any) -> Any:
            tracker = GainTracker((1,), 0.02, self.config.model_copy(update={"fast_rate": 0.3}))
            for reading in readings:
                tracker.update(np.array([reading]), np.array([60.0]))
            return tracker.log_gain[0]

        assert after([66.0] * 8) > 5 * 8 * 0.02 * np.log(1.1)
        assert abs(after([66.0, 60.0 / 1.1] * 4)) < 0.02

    def test_a_quiet_hour_does_not_make_all_noise_a_jump(self) -> None:
        tracker = GainTracker((1,), 0.02, self.config)
        for _ in range(200):
            tracker.update(np.array([60.0]), np.array([60.0]))
        assert not tracker.update(np.array([60.2]), np.array([60.0])).any()
        assert tracker.update(np.array([66.0]), np.array([60.0])).all()


def test_the_bank_believes_noisy_readings_less() -> None:
    """One truth, two sensors: the pair in use trusts the noisy one less, and its state is nearer the truth than readings."""
    model = trained_model()
    generator = np.random.default_rng(0)
    inputs = model.features.rows(
        np.zeros(600, int), np.full(600, 400.0), np.full(600, 400.0), np.full(600, np.datetime64("2026-03-02T12:00")),
        np.tile(model.features.extras_mean, (600, 1)), np.zeros(600),
    )  # fmt: skip
    traffic = float(model.relative_traffic(np.array([400.0]), 0)[0])
    trusts = []
    for noise in (0.05, 3.0):
        observer = Observer(model, GainConfig(fast_rate=0.0))
        truth, error = np.array([60.0, 60.0]), []
        for t in range(600):
            unit = np.full(2, 0.4 + 0.2 * (t // 10 % 2))
            drift = np.exp(0.02 * generator.standard_normal(2))
            truth = model.step_rows(truth[None], unit[None], inputs[t : t + 1], np.array([traffic]))[0] * drift
            observer.update(truth + noise * generator.standard_normal(2), unit, inputs[t], traffic)
            error.append(observer.cpu - truth)
        trusts.append(observer.trust)
        if noise == 3.0:
            assert np.std(error[200:]) < 0.7 * noise
    assert trusts[1] < trusts[0]


def test_gain_correction_removes_a_mismatch() -> None:
    run = synthetic_traffic(SyntheticTrafficConfig(), 6, 240)
    over = {}
    for rate in (0.0, 0.2):
        mpc = UNWATCHED.model_copy(update={"gain": GainConfig(rate=rate), "backoff_quantile": None})
        plant = ReferencePlant(ReferenceConfig(), 6, 240, disturbances=Disturbances(cost=np.full(240, 1.2)))
        closed_loop(plant, make_controller(ControllerConfig(name="mpc", mpc=mpc), GROUP, trained_model()), run.arrivals)
        over[rate] = np.mean(over_utilisation(np.array(plant.truth)[60:], 65.0))
    assert over[0.2] < 0.6 * over[0.0]
