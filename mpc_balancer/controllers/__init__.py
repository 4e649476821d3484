"""Who sets λ, and by which rule? Controllers behind one protocol; ``make_controller`` builds them by name."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from marca_common.dotted_path import find_class
from marca_common.errors import UserError
from marca_common.prices import require_price_unit
from marca_common.protocols import Controller
from mpc_balancer.config import ControllerConfig
from mpc_balancer.controllers.bisection import BisectionController
from mpc_balancer.controllers.clairvoyant import ClairvoyantController
from mpc_balancer.controllers.fixed import FixedController
from mpc_balancer.controllers.knows_next_minute import KnowsNextMinuteController
from mpc_balancer.controllers.mpc import MpcController
from mpc_balancer.controllers.one_step import LookAheadController, OneStepController
from mpc_balancer.controllers.pi import PiController
from mpc_balancer.controllers.pi_dead_time import PiDeadTimeController
from mpc_balancer.controllers.pi_feedforward import PiFeedforwardController
from mpc_balancer.controllers.pi_forecast import PiForecastController
from mpc_balancer.controllers.price_controller import PriceController
from mpc_balancer.forecasting.event_calendar import Calendar
from mpc_balancer.planning.solvers import find_solver
from mpc_balancer.price_scale import PriceScale
from mpc_balancer.system_model.model import SystemModel

CONTROLLERS: dict[str, type[PriceController]] = {
    "mpc": MpcController,
    "one_step": OneStepController,
    "look_ahead": LookAheadController,
    "pi": PiController,
    "pi_feedforward": PiFeedforwardController,
    "pi_forecast": PiForecastController,
    "pi_dead_time": PiDeadTimeController,
    "bisection": BisectionController,
    "fixed": FixedController,
    "knows_next_minute": KnowsNextMinuteController,
    "clairvoyant": ClairvoyantController,
}


def find_controller(config: ControllerConfig) -> Callable[..., Controller]:
    """The class that ``config.name`` stands for; a UserError for a bad name of a controller or of a solver.

    Programs call it before they start long work. A class of somebody else's needs ``step`` and ``lambda_``.
    """
    find_solver(config.mpc.solver.name)
    return find_class(config.name, CONTROLLERS, Controller, "controller.name")


def make_controller(
    config: ControllerConfig,
    group: str,
    model: SystemModel | None = None,
    calendar: Calendar | None = None,
    services: Sequence[str] | None = None,
    scale: PriceScale | None = None,
) -> Controller:
    """The configured controller of one data centre.

    ``model`` (from mpc_balancer.train) brings the box of λ, tuned gains and forecasts. Without one, give ``services`` and
    either ``scale`` or ``price_high`` in the config. Only mpc, knows_next_minute, pi_feedforward and pi_forecast need it.
    Every class, ours or not, is called with (config, group, services, scale, model, calendar).
    """
    names = tuple(model.services if model is not None else services or ())
    if not names:
        raise UserError(f"controller {config.name}: give a system model or the names of the services")
    base = scale or (model.prices if model is not None else None)
    if config.price_high is not None:
        high = np.asarray(config.price_high, np.float64)
        ref = base.ref if base is not None and base.size == len(high) else high / 20
        base = PriceScale(np.full(len(high), config.price_low), high, np.minimum(ref, high))
    if base is None:
        raise UserError(f"controller {config.name}: λ's box is unknown; give price_high or a system model")
    if model is not None:
        model.features.group_index(group)
        require_price_unit("the controller", config.price_unit, "the system model's table", model.columns.price_unit)
    made = find_controller(config)(config, group, names, base, model, calendar)
    if not hasattr(made, "lambda_"):
        raise UserError(f"controller.name: {config.name!r} has no lambda_; expected the prices it last set, one each")
    return made
