"""Strategies: what serves a day. A strategy is its own config, and says which policy and controller a data centre gets.

A new one is a YAML entry of a known kind, or one small class derived from ``Strategy``: ours with a line in
``STRATEGIES``, anybody else's as ``kind: module:Class``.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
from pydantic import BeforeValidator, Field, SerializeAsAny, ValidationError, model_validator

from marca_common.config import Config, first_problem, replaced
from marca_common.dotted_path import find, find_class
from marca_common.errors import UserError
from marca_common.prices import price_of_service, require_price_unit
from marca_common.protocols import Controller, Policy
from marca_common.seeding import numpy_generator
from marca_loop.clairvoyant_prices import Schedule, clairvoyant_prices
from marca_loop.deciders import PROFILE, TRUTH, Decider
from marca_loop.scene import Scene
from marca_loop.shared_prices import SharedPrices
from marca_loop.static_strategy import (
    DowngradeRule,
    HourlyPolicy,
    StaticPolicy,
    Timetable,
    downgrade_mixtures,
    hours_of_week,
)
from marca_measures.static_mixture import StaticMixture
from mpc_balancer.config import ControllerConfig
from mpc_balancer.controllers import find_controller, make_controller


class Strategy(Config):
    """What all strategies have in common."""

    steered: ClassVar[bool] = True  # does a controller of λ, and so a system model, stand behind it?
    kind: str = Field(
        default="priced",
        description="which strategy: static, static_hourly, priced, oracle, or module:Class of your own",
    )
    label: str | None = Field(default=None, description="name in figures and tables; null = its key")
    color: str | None = Field(default=None, description="colour in figures, such as #0072B2; null = the next free one")
    values: str | None = Field(
        default=None,
        description="whose Q decides: a learner, `profile` (one for all states) or `truth`; null = day.policy",
    )

    def decider(self, default: str) -> Decider | None:
        """Whose Q and C are prepared for it before the days begin; ``default`` where ``values`` is null. None: nobody's."""
        return Decider(self.values or default)

    @abstractmethod
    def serve(self, scene: Scene, group: str) -> tuple[Policy, Controller]:
        """A fresh policy and controller for a data centre."""


class StaticStrategy(Strategy):
    """The best mixture of fixed joint actions that keeps C_m at peak traffic, with a downgrade rule.

    ``values``: null = the global profile; `truth` = the true means.
    """

    levels: list[float] = Field(
        default=[1.0, 0.9, 0.8, 0.65, 0.5, 0.35], min_length=1, description="budget share of each downgrade level"
    )
    patience: int = Field(default=10, ge=1, description="calm minutes before a level is taken back")
    headroom: float = Field(default=0.85, gt=0, le=1, description="calm is CPU below this share of C_m")

    @model_validator(mode="after")
    def _values_are_means(self) -> StaticStrategy:
        if self.values not in (None, PROFILE, TRUTH):
            raise ValueError(f"values: got {self.values!r}; a static mixture is chosen by {PROFILE!r} or by {TRUTH!r}")
        return self

    def decider(self, default: str) -> Decider | None:
        """None: it never asks what an action is worth in a state."""
        return None

    def serve(self, scene: Scene, group: str) -> tuple[Policy, Controller]:
        """Mixtures from the global profile and the log's mean C, for the log's peak traffic."""
        rule = self.rule(scene)
        mixtures = self.mixtures(scene, group, scene.profile(group, self.values).peak_qps)
        return StaticPolicy(mixtures, rule, numpy_generator(scene.traffic.seed, "static", group)), rule

    def rule(self, scene: Scene) -> DowngradeRule:
        """A fresh downgrade rule."""
        world = scene.world
        budget, delay = np.full(len(world.services), world.budget_percent()), world.config.plant.actuation_delay
        return DowngradeRule(budget, len(self.levels), self.patience, self.headroom, delay)

    def mixtures(self, scene: Scene, group: str, qps: float) -> list[StaticMixture]:
        """The best mixture of each level for that traffic, level 0 first."""
        profile = scene.profile(group, self.values)
        return downgrade_mixtures(profile.values, profile.costs, scene.allowed(group, qps), self.levels)


class HourlyStrategy(StaticStrategy):
    """A mixture for every hour of the week, sized for that hour's traffic in the log, with the same downgrade rule."""

    quantile: float = Field(
        default=0.5, gt=0, le=1, description="of an hour's logged minutes, the traffic that its mixture is sized for"
    )

    def serve(self, scene: Scene, group: str) -> tuple[Policy, Controller]:
        """One mixture per hour of the week; hours of a weekday that was not logged take those of all days."""
        qps = scene.profile(group, self.values).qps
        hour = hours_of_week(qps.index.to_numpy())
        by_day = qps.groupby(hour % 24).quantile(self.quantile)
        by_week = qps.groupby(hour).quantile(self.quantile)
        clock = Timetable(self.rule(scene), scene.traffic.timestamps[0])
        served = np.unique(hours_of_week(scene.traffic.timestamps)).tolist()
        sized = {one: float(by_week.get(one, by_day.get(one % 24, qps.max()))) for one in served}
        mixtures = {one: self.mixtures(scene, group, size) for one, size in sized.items()}
        return HourlyPolicy(mixtures, clock, numpy_generator(scene.traffic.seed, "static", group)), clock


class PricedStrategy(Strategy):
    """argmax Q − λC under a controller of λ (Eq. 6)."""

    policy: str = Field(
        default="hull", description="hull = exact argmax; or module:function of your own that makes one"
    )
    costs: Literal["learned", "true"] = Field(default="learned", description="whose C decides")
    free: list[str] = Field(
        default=[],
        description="sub-actions decided request by request, the others fixed as the profile says is best; []: all",
    )
    controller: ControllerConfig = Field(description="controller of λ; its budget and box are filled in")

    @model_validator(mode="after")
    def _parts_exist(self) -> PricedStrategy:
        find(self.policy, {"hull": None}, "policy")
        find_controller(self.controller)
        own = self.policy != "hull"
        if self.values == PROFILE and (self.free or self.costs == "true" or own):
            raise ValueError(f"values: {PROFILE!r} knows no states; free, costs and policy cannot be given beside it")
        if self.free and own:
            raise ValueError("free: goes with policy: hull only")
        return self

    def decider(self, default: str) -> Decider:
        """Whose Q and C, and what of it is decided request by request."""
        return Decider(self.values or default, self.costs, tuple(self.free))

    def serve(self, scene: Scene, group: str) -> tuple[Policy, Controller]:
        """The decider's policy, and the controller with the system model learned under it."""
        settings = replaced(self.controller, {"budget": scene.world.budget_percent()})
        decider = self.decider(scene.parts.learner)
        policy, model = scene.policy(decider, self.policy), scene.system_model(decider)
        unit = getattr(policy, "price_unit", settings.price_unit)
        require_price_unit("the policy", unit, "the controller", settings.price_unit)
        controller = make_controller(settings, group, model, scene.calendar)
        if settings.price_of_service is None:
            return policy, controller
        prices = len(controller.lambda_)
        return policy, SharedPrices(
            controller, price_of_service(settings.price_of_service, scene.world.services, prices, "controller")
        )


class OracleStrategy(Strategy):
    """True Q and C under prices that hindsight names: what can be had at most."""

    steered = False

    def decider(self, default: str) -> Decider:
        """The world's own."""
        return Decider(TRUTH, "true")

    def serve(self, scene: Scene, group: str) -> tuple[Policy, Controller]:
        """The true policy, and each minute's prices from that minute's own requests."""
        policy = scene.policy(self.decider(TRUTH))
        arrivals = scene.traffic.arrivals[scene.world.groups.index(group)]
        prices = clairvoyant_prices(scene.plant(group, policy), policy, arrivals)
        return policy, Schedule(prices, scene.world.config.plant.actuation_delay)


STRATEGIES: dict[str, type[Strategy]] = {
    "static": StaticStrategy,
    "static_hourly": HourlyStrategy,
    "priced": PricedStrategy,
    "oracle": OracleStrategy,
}


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
