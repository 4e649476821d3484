"""Which price a service pays, and in which unit: declared, and refused at load where something is left open."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from mpc_fixtures import trained_model

from marca_common.errors import UserError
from marca_common.protocols import Measurement
from mpc_balancer.config import ControllerConfig, PiConfig
from mpc_balancer.controllers import make_controller

PI = PiConfig(kp=0.15, ki=0.15, down_factor=0.7, feedforward=0.6)


def controller(name: str, **options: Any) -> Any:
    return make_controller(ControllerConfig(name=name, pi=PI, **options), "reference", trained_model())


class TestPrices:
    def pi(self, prices: int, **options: Any) -> Any:
        config = ControllerConfig(name="pi", price_high=[1e-3] * prices, pi=PI, **options)
        return make_controller(config, "anywhere", services=["x", "y", "z"])

    def test_a_declared_price_follows_the_busiest_of_its_services(self) -> None:
        pi = self.pi(2, price_of_service={"x": 0, "y": 1, "z": 0})
        assert pi.price_errors(np.array([0.1, -0.2, 0.3])).tolist() == [0.3, -0.2]
        assert pi.price_errors(np.array([0.3, -0.2, 0.1])).tolist() == [0.3, -0.2]
        assert pi.price_errors(np.array([np.nan, -0.2, -0.3])).tolist() == [-0.3, -0.2]
        assert np.isnan(pi.price_errors(np.array([np.nan, 0.0, np.nan]))[0])
        before = pi.lambda_.copy()
        after = pi.step(
            Measurement(0, np.datetime64("2026-03-09"), "anywhere", 1.0, np.array([10.0, 90.0, 20.0]), 0.0, np.zeros(2))
        )
        assert after[0] < before[0]
        assert after[1] > before[1]

    def test_undeclared_is_one_each_or_one_for_all(self) -> None:
        assert self.pi(3).price_of.tolist() == [0, 1, 2]
        assert self.pi(1).price_of.tolist() == [0, 0, 0]
        with pytest.raises(UserError, match="2 prices for the services x, y, z; expected price_of_service"):
            self.pi(2)

    @pytest.mark.parametrize(
        "declared",
        [
            {"x": 0, "y": 1},
            {"x": 0, "y": 1, "w": 0},
            {"x": 0, "y": 0, "z": 0},
            {"x": 0, "y": 1, "z": 2},
            {"x": -1, "y": 1, "z": 0},
        ],
    )
    def test_a_mapping_that_leaves_something_open_is_refused(self, declared: Any) -> None:
        with pytest.raises(UserError, match=r"price_of_service: got .*; expected each of x, y, z"):
            self.pi(2, price_of_service=declared)

    def test_other_units_are_refused_with_both_named(self) -> None:
        with pytest.raises(UserError, match=r"'money per core-s', .* in 'money per core-ms'"):
            controller("pi", price_unit="money per core-s")

    def test_a_box_of_other_size_than_the_models_is_refused(self) -> None:
        with pytest.raises(UserError, match="got 1 prices; the system model was trained on 2"):
            controller("mpc", price_high=[1e-3])

    def test_a_fixed_price_of_wrong_length_is_refused_at_load(self) -> None:
        with pytest.raises(UserError, match="fixed_price: got 3 prices; expected 2"):
            controller("fixed", fixed_price=[1e-4] * 3)
