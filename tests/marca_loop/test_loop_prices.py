"""One price for several services, from a controller to a plant that knows one per service; and λ's unit where parts meet."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from marca_common.errors import UserError
from marca_common.protocols import Reporting
from marca_loop import strategies
from marca_loop.shared_prices import SharedPrices
from marca_loop.strategies import PricedStrategy
from mpc_balancer.config import ControllerConfig
from mpc_balancer.controllers import make_controller
from mpc_balancer.testbed.control_loop import closed_loop
from mpc_balancer.testbed.reference_plant import ReferenceConfig, ReferencePlant

SERVICES = ("retrieval", "ranking")
SHARED = {"retrieval": 0, "ranking": 0}


def test_a_shared_price_steers_a_plant_with_a_price_per_service() -> None:
    config = ControllerConfig(name="pi", price_high=[1e-3], price_of_service=SHARED)
    single = make_controller(config, "reference", services=SERVICES)
    shared = SharedPrices(single, np.array([0, 0]))
    plant = ReferencePlant(ReferenceConfig(), 0, 60)
    loop = closed_loop(plant, shared, np.full((60, 6), 4000.0))
    assert loop.prices.shape == (60, 2)
    assert np.array_equal(loop.prices[:, 0], loop.prices[:, 1])
    assert np.array(plant.truth)[-20:].max(axis=1).mean() == pytest.approx(
        65, abs=2
    )  # the busier service is at its budget
    assert isinstance(shared, Reporting)
    assert loop.rungs["pi"] == 60
    assert not sum(loop.refused.values())


class FakeScene:
    """As much of a scene as a priced strategy looks at."""

    def __init__(self, **policy: Any) -> None:
        self.world = type("World", (), {"budget_percent": lambda self: 65.0, "services": SERVICES})()
        self.made, self.calendar = type("Policy", (), policy)(), None
        self.parts = type("Parts", (), {"learner": "awrq_mixer"})()

    def policy(self, *given: Any) -> Any:
        return self.made

    def system_model(self, *given: Any) -> Any:
        return None


def test_the_policys_unit_is_compared_with_the_controllers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        strategies,
        "make_controller",
        lambda config, group, model, calendar: make_controller(config, group, services=SERVICES),
    )
    strategy = PricedStrategy(controller=ControllerConfig(name="pi", price_high=[1e-3], price_of_service=SHARED))
    made: Any = strategy.serve(FakeScene(price_unit="money per core-ms"), "north")[1]  # type: ignore[arg-type]
    assert made.lambda_.shape == (2,)
    assert strategy.serve(FakeScene(), "north")[1].lambda_.shape == (2,)  # type: ignore[arg-type]  # a policy without a unit
    with pytest.raises(
        UserError, match=r"the policy states λ in 'money per core-s', the controller in 'money per core-ms'"
    ):
        strategy.serve(FakeScene(price_unit="money per core-s"), "north")  # type: ignore[arg-type]
