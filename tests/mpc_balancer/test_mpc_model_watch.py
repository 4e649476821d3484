"""When the model is taken for wrong, and when it is believed again."""

import numpy as np
import pytest

from mpc_balancer.config import WatchConfig
from mpc_balancer.controllers.model_watch import ModelWatch


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
        before, signs = (watch.error.copy(), *watch.excess), watch._moments[5].copy()
        for _ in range(3):
            watch.update(np.array([60.0]), np.array([40.0]), 100.0, np.array([0.2]))
        assert not watch.agrees
        watch.forget(np.array([True]), np.array([3]))
        assert watch.agrees
        np.testing.assert_allclose([watch.error, watch.excess[0]], before[:2], atol=1e-12)
        np.testing.assert_array_equal(watch._moments[5], signs)

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
        """Of two services one is lost every other time; what is known of it keeps its sign."""
        watch = ModelWatch(2, WatchConfig())
        for k in range(120):
            error = np.array([0.01, np.nan if k % 2 else 0.01])
            watch.update(60.0 * np.exp(error), np.full(2, 60.0), 100.0)
        assert watch.one_sided.all()

    def test_a_lost_reading_teaches_nothing(self) -> None:
        watch = self.watch()
        self.feed(watch, [0.02] * 6)
        before = watch.error.copy()
        watch.update(np.array([np.nan]), np.array([60.0]), 100.0)
        np.testing.assert_array_equal(watch.error, before)
