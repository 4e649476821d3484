"""What all our controllers share: the box, the target, checked measurements, and counts of what happened."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Sequence

import numpy as np

from marca_common.errors import UserError
from marca_common.prices import price_of_service
from marca_common.protocols import Measurement
from mpc_balancer.config import ControllerConfig
from mpc_balancer.controllers.alarms import Alarms
from mpc_balancer.controllers.checked_reading import Checks, Reading
from mpc_balancer.controllers.moves import Moves
from mpc_balancer.forecasting.event_calendar import Calendar
from mpc_balancer.price_scale import PriceScale
from mpc_balancer.stateful import Stateful
from mpc_balancer.system_model.model import SystemModel

_ALARM_STEPS = 3  # control steps in a row that something must be amiss
_FAR = 4.0  # times the least or most traffic of the training table: more than a failover brings, less than another unit
_MOST_TRAFFIC = 100.0  # times a data centre's mean in training; traffic beyond that is not believed


class PriceController(Stateful, ABC):
    """Turns measurements into prices; subclasses implement ``decide``. A Controller, Reporting and Alarming of marca_common."""

    STATE = ["lambda_", "rungs", "expected_qps", "checks", "moves", "alarms", "_silent", "_at_limit", "odd_traffic"]

    def __init__(
        self,
        config: ControllerConfig,
        group: str,
        services: Sequence[str],
        scale: PriceScale,
        model: SystemModel | None,
        calendar: Calendar | None,
    ) -> None:
        self.config, self.group, self.services = config, group, tuple(services)
        self.scale, self.model, self.calendar = scale, model, calendar or Calendar([])
        self.budget = budget_of(config, services, model)
        self.target = self.budget * (1 + config.offset / 100)  # (D,) percent
        self.checks = _checks(config, group, len(self.services), scale.size, model)
        self.rungs, self.refused = Counter[str](), self.checks.refused
        self.moves = Moves(config.moves, scale, 60 if model is None else model.step_seconds)
        self.alarms = Alarms(group)
        self.alarm_steps = self.alarms.steps
        self._silent, self._at_limit = np.zeros((2, len(self.services)))  # control steps in a row
        self.odd_traffic = 0
        self.expected_qps = float("nan")
        middle = scale.from_unit(np.full(scale.size, 0.5))
        start = middle if config.start is None else np.asarray(config.start, np.float64)
        if start.shape != (scale.size,):
            raise UserError(f"controller {config.name}: start: got {start.size} prices; expected {scale.size}")
        self.price_of = price_of_service(
            config.price_of_service, self.services, scale.size, f"controller {config.name}"
        )
        self.lambda_ = scale.clip(start)  # the last command; the plant's first interval runs under it

    def step(self, measurement: Measurement) -> np.ndarray:
        """Prices of the next interval (L,), finite and inside the box, whatever is measured: never raises."""
        with np.errstate(all="ignore"):
            reading = self.checks.read(measurement, self.lambda_)
            self._check(reading)
            self.lambda_ = self.moves.allowed(self.scale.clip(self.decide(reading)), self.lambda_)
            self.applied(self.lambda_)
        self.alarms.end_step()
        return self.lambda_

    def follow(self, lambda_: np.ndarray) -> None:
        """Go on from prices (L,) that somebody else set."""
        self.lambda_ = self.scale.clip(lambda_)

    def applied(self, lambda_: np.ndarray) -> None:
        """Told the price (L,) that was set in this step, where moves are limited not the one that was decided; most rules need not know."""

    def _check(self, reading: Reading) -> None:
        """Alarms for sensors that fell silent and for traffic in what must be another unit."""
        self._silent = np.where(np.isfinite(reading.cpu), 0, self._silent + 1)
        for name, steps in zip(self.services, self._silent):
            if steps >= _ALARM_STEPS:
                self.alarms.raise_(f"sensor_{name}", f"no believable CPU of {name} for {steps:.0f} control steps")
        over = (reading.cpu > self.budget) & (self.lambda_ >= self.scale.high)[self.price_of]
        self._at_limit = np.where(over, self._at_limit + 1, 0)
        for name, steps in zip(self.services, self._at_limit):
            if steps >= _ALARM_STEPS:
                self.alarms.raise_(f"price_limit_{name}", f"{name} is above its budget at the highest price allowed")
        self.odd_traffic = self.odd_traffic + 1 if self._is_odd(reading.qps) else 0
        if self.odd_traffic >= _ALARM_STEPS:
            self.alarms.raise_(
                "traffic",
                f"{reading.qps:g} requests per second, far from those of the training table: another unit, or a drained data centre?",
            )

    def _is_odd(self, qps: float) -> bool:
        """Whether traffic is far outside what the system model was trained on."""
        if self.model is None or not qps > 0:
            return False
        relative = float(self.model.relative_traffic(np.array([qps]), self.model.features.group_index(self.group))[0])
        least, most = np.exp(self.model.features.low[0]), np.exp(self.model.features.high[0])
        return not least / _FAR <= relative <= most * _FAR

    @abstractmethod
    def decide(self, reading: Reading) -> np.ndarray:
        """Prices (L,) for the next interval; may be NaN or outside the box, ``step`` sees to that."""

    @property
    def system_model(self) -> SystemModel:
        """The system model of a controller that can't do without one."""
        if self.model is None:
            raise UserError(f"controller {self.config.name}: needs a system model; run mpc_balancer.train")
        if self.model.prices.size != self.scale.size:
            raise UserError(
                f"controller {self.config.name}: got {self.scale.size} prices; the system model was trained on"
                f" {self.model.prices.size}, expected the same"
            )
        return self.model

    def price_errors(self, per_service: np.ndarray) -> np.ndarray:
        """Errors per service (D,) → per price (L,): of the services that pay a price, the largest known error steers it."""
        errors = np.full(self.scale.size, np.nan)
        np.fmax.at(errors, self.price_of, per_service)
        return errors


def _checks(config: ControllerConfig, group: str, services: int, prices: int, model: SystemModel | None) -> Checks:
    """What a measurement must be; with a model, the other data centres it knows and the traffic it was trained on, too."""
    if model is None:
        return Checks(services, prices, config.mpc.ladder, group=group)
    features = model.features
    usual = float(features.traffic_mean[features.group_index(group)])
    others = set(features.groups) - {group}
    return Checks(services, prices, config.mpc.ladder, model.step_seconds, group, others, _MOST_TRAFFIC * usual)


def budget_of(config: ControllerConfig, services: Sequence[str], model: SystemModel | None) -> np.ndarray:
    """C_m per service (D,), percent; a UserError where the numbers don't fit or the model says that idling takes more."""
    given = np.atleast_1d(np.asarray(config.budget, np.float64))
    if given.size not in (1, len(services)):
        raise UserError(f"budget: got {given.size} values; expected 1 or {len(services)} (one per service)")
    budget = np.broadcast_to(given, (len(services),)).copy()
    if model is not None and model.head == "utilisation_law":
        for name, value, idle in zip(services, budget, model.idle):
            if value <= idle:
                raise UserError(
                    f"budget of {name}: got {value:g} percent; the idle load is {idle:.1f}, expected more than that"
                )
    return budget
