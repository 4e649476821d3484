"""Strategies: what serves a day. A strategy is its own config, and says which policy and controller a data centre gets.

A new one is a YAML entry of a known kind, or one small class derived from ``Strategy``: ours with a line in
``STRATEGIES``, anybody else's as ``kind: module:Class``.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import Annotated, Any

import numpy as np
from pydantic import BeforeValidator, Field, SerializeAsAny, ValidationError, model_validator

from marca_common.config import Config, first_problem, replaced
from marca_common.dotted_path import find, find_class
from marca_common.errors import UserError
from marca_common.prices import price_of_service, require_price_unit
from marca_common.protocols import Controller, Policy
from marca_common.seeding import numpy_generator
from marca_loop.scene import Scene
from marca_loop.shared_prices import SharedPrices
from marca_loop.static_strategy import DowngradeRule, StaticPolicy, downgrade_mixtures
from mpc_balancer.config import ControllerConfig
from mpc_balancer.controllers import find_controller, make_controller


class Strategy(Config):
    """What all strategies have in common."""

    kind: str = Field(default="priced", description="which strategy: static, priced, or module:Class of your own")
    label: str | None = Field(default=None, description="name in figures and tables; null = its key")
    color: str | None = Field(default=None, description="colour in figures, such as #0072B2; null = the next free one")
    values: str | None = Field(default=None, description="learner whose Q it uses; null = day.policy")

    @abstractmethod
    def serve(self, scene: Scene, group: str) -> tuple[Policy, Controller]:
        """A fresh policy and controller for a data centre."""


class StaticStrategy(Strategy):
    """The best mixture of fixed joint actions that keeps C_m at peak traffic, with a downgrade rule."""

    levels: list[float] = Field(
        default=[1.0, 0.9, 0.8, 0.65, 0.5, 0.35], min_length=1, description="budget share of each downgrade level"
    )
    patience: int = Field(default=10, ge=1, description="calm minutes before a level is taken back")
    headroom: float = Field(default=0.85, gt=0, le=1, description="calm is CPU below this share of C_m")

    def serve(self, scene: Scene, group: str) -> tuple[Policy, Controller]:
        """Mixtures from the log's mean Q and C, for the log's peak traffic."""
        world, profile = scene.world, scene.profile(group, self.values)
        usable = world.budget_percent() - world.config.plant.idle_percent
        allowed = usable / 100 * world.cores[world.groups.index(group)] * 1000 / profile.peak_qps  # core-ms per request
        budget, delay = np.full(len(world.services), world.budget_percent()), world.config.plant.actuation_delay
        rule = DowngradeRule(budget, len(self.levels), self.patience, self.headroom, delay)
        mixtures = downgrade_mixtures(profile.values, profile.costs, allowed, self.levels)
        return StaticPolicy(mixtures, rule, numpy_generator(scene.traffic.seed, "static", group)), rule


class PricedStrategy(Strategy):
    """argmax Q − λC under a controller of λ (Eq. 6)."""

    policy: str = Field(
        default="hull", description="hull = exact argmax; or module:function of your own that makes one"
    )
    controller: ControllerConfig = Field(description="controller of λ; its budget and box are filled in")

    @model_validator(mode="after")
    def _parts_exist(self) -> PricedStrategy:
        find(self.policy, {"hull": None}, "policy")
        find_controller(self.controller)
        return self

    def serve(self, scene: Scene, group: str) -> tuple[Policy, Controller]:
        """The learner's policy, and the controller with the system model learned under it."""
        settings = replaced(self.controller, {"budget": scene.world.budget_percent()})
        policy, model = scene.policy(self.values, self.policy), scene.system_model(self.values)
        unit = getattr(policy, "price_unit", settings.price_unit)
        require_price_unit("the policy", unit, "the controller", settings.price_unit)
        controller = make_controller(settings, group, model, scene.calendar)
        if settings.price_of_service is None:
            return policy, controller
        prices = len(controller.lambda_)
        return policy, SharedPrices(
            controller, price_of_service(settings.price_of_service, scene.world.services, prices, "controller")
        )


STRATEGIES: dict[str, type[Strategy]] = {"static": StaticStrategy, "priced": PricedStrategy}


def read_strategy(values: Any) -> Strategy:
    """A strategy from its YAML mapping; ValueError with one line where it is none."""
    if isinstance(values, Strategy):
        return values
    if not isinstance(values, dict):
        raise ValueError("expected a mapping with the strategy's kind and settings")
    try:
        found = find_class(str(values.get("kind", "priced")), STRATEGIES, Strategy, "kind")
        return found.model_validate(values)
    except UserError as error:
        raise ValueError(str(error)) from None
    except ValidationError as error:
        raise ValueError(first_problem(found, error)) from None


AnyStrategy = Annotated[SerializeAsAny[Strategy], BeforeValidator(read_strategy)]
