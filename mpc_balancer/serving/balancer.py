"""The balancer of a live system: one process, any number of data centres, everything it needs kept in one folder.

``<out>/state/`` holds the state of each data centre, ``<out>/log/`` the decision log. A second process is refused.
"""

from __future__ import annotations

import fcntl
import logging
import os
from collections import Counter
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from marca_common.errors import UserError
from marca_common.files import remove_partial_files, write_text
from marca_common.protocols import Measurement
from mpc_balancer.controllers import make_controller
from mpc_balancer.controllers.moves import Moves
from mpc_balancer.controllers.price_controller import PriceController
from mpc_balancer.forecasting.event_calendar import Calendar
from mpc_balancer.serving.decision_log import DecisionLog
from mpc_balancer.serving.edge import Edge, price_names
from mpc_balancer.serving.metrics_text import metrics_text
from mpc_balancer.serving.serve_config import ServeConfig
from mpc_balancer.serving.state_file import file_name, identity, load_state, save_state
from mpc_balancer.serving.steered import Steered
from mpc_balancer.stateful import Restorable
from mpc_balancer.system_model.model import SystemModel

log = logging.getLogger(__name__)


class Balancer:
    """``step`` a measurement, get the prices; state, decision log and metrics are kept on the way. Close it, or use ``with``."""

    def __init__(
        self,
        config: ServeConfig,
        out: str | Path = "runs/serve",
        model: SystemModel | None = None,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        """Start, or go on from the state in ``out``; ``model`` stands in for the checkpoint that the config names.

        A UserError for what can't be served: a config, checkpoint, calendar or state file, or a folder that another uses.
        """
        self.config, self.out, self.now = config, Path(out), now
        self.model = model if model is not None or config.model is None else SystemModel.load(config.model)
        self.steered = steered_groups(config, self.model)
        first = next(iter(self.steered.values()))
        self.edge = Edge(config.units, *first.names)
        self.step_seconds = step_seconds(self.model)
        self.troubles: Counter[str] = Counter()
        self.outside: dict[str, int] = {}  # troubles of source and sink, which the loop tells
        self._lock = _locked(self.out)
        try:
            remove_partial_files(self.out)
            self._owners = {group: owner(config, self.model, group) for group in self.steered}
            self._resumed = {group for group in self.steered if self._resume(group)}
            self.log = DecisionLog(self.out / "log", *first.names, config.log_rows)
        except BaseException:
            os.close(self._lock)
            raise
        self._started = self._told = now()
        self._metrics = Path(config.metrics) if config.metrics else self.out / "metrics.prom"
        warm_up(config, self.model)

    def __enter__(self) -> Balancer:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def step(self, measurement: Any, group: str | None = None) -> np.ndarray:
        """Prices (L,) of the next interval, in the declared unit, whatever is measured: never raises.

        None stands for an interval without a measurement. ``group`` is the measurement's own where left out; an unknown
        one is counted and answered with no prices (0,). With a single data centre all measurements are its.
        """
        known = self.whose(measurement) if group is None else group
        if known not in self.steered:
            self._trouble("unknown_group", f"measurement of data centre {known!r}, which is not served")
            return np.empty(0)
        one = None if measurement is None else self.edge.inwards(measurement, known)
        self._answer(known, one)
        self._keep(known)
        return np.array(list(self.edge.outwards(self.steered[known].lambda_).values()))

    def whose(self, measurement: Any) -> str:
        """The data centre that a measurement belongs to."""
        if len(self.steered) == 1:
            return next(iter(self.steered))
        return str(self.edge.group(measurement))

    def prices(self) -> dict[str, dict[str, float]]:
        """Prices of all data centres by name, in the declared unit."""
        return {group: self.edge.outwards(one.lambda_) for group, one in self.steered.items()}

    @property
    def summary(self) -> dict[str, Any]:
        """What happened so far, all data centres together."""
        every = list(self.steered.values())
        counts = sum((one.counts for one in every), Counter[str]())
        said = [sum((one.said[part] for one in every), Counter[str]()) for part in range(3)]
        kinds = {kind: counts[kind] for kind in ("measured", "lost", "gap", "foreign", "controller_failed")}
        more = {**dict(zip(("rungs", "refused", "alarms"), said)), "troubles": self.troubles + Counter(self.outside)}
        return {"data_centres": len(every), **kinds} | {name: dict(sorted(one.items())) for name, one in more.items()}

    def close(self) -> None:
        """Finish the log's open part and let go of the folder."""
        if self._lock >= 0:
            self._try(self.log.close)
            os.close(self._lock)
            self._lock = -1

    # -- one step ----------------------------------------------------------------------------------------------------
    def _answer(self, group: str, one: Measurement | None) -> None:
        steered = self.steered[group]
        fresh = (self.now() - self._started).total_seconds() < self.step_seconds
        if one is not None and fresh and group in self._resumed and steered.already_answered(one):
            self.troubles["answered"] += 1  # a file read again, a query for the same minute
            return
        try:
            for row in steered.step(one):
                self._try(self.log.append, row)
        except Exception as error:  # nobody foresaw it: hold
            self._trouble("step", f"{group}: {type(error).__name__}: {error}")

    def _keep(self, group: str) -> None:
        """Save the state after the log, so that a crash between them repeats a row rather than losing one."""
        path, now = self._state_path(group), self.now()
        self._try(save_state, path, self._owners[group], group, now, self.steered[group].state())
        if (now - self._told).total_seconds() >= 1:
            self.write_metrics()

    def write_metrics(self) -> None:
        """Replace the metrics file; ``step`` does it, but at most once a second."""
        self._told, troubles = self.now(), self.troubles + Counter(self.outside)
        self._try(write_text, self._metrics, metrics_text(self.steered, self.edge, troubles, self._told))

    def _try(self, write: Callable[..., Any], *arguments: Any) -> None:
        """Write to the disk; one that takes it not is said and survived."""
        try:
            write(*arguments)
        except (UserError, OSError, ValueError) as error:
            self._trouble("disk", f"not written: {error}")

    def _trouble(self, kind: str, text: str) -> None:
        self.troubles[kind] += 1
        if self.troubles[kind] & (self.troubles[kind] - 1) == 0:  # the first, second, fourth, eighth … time
            log.warning("%s (%d times so far)", text, self.troubles[kind])

    # -- starting ----------------------------------------------------------------------------------------------------
    def _state_path(self, group: str) -> Path:
        return self.out / "state" / file_name(group)

    def _resume(self, group: str) -> bool:
        """Go on from a saved state; one that is too old is said and left behind."""
        path = self._state_path(group)
        if not isinstance(self.steered[group].controller, Restorable):
            log.warning("%s: the controller has no state and restore: after a restart it starts anew", group)
        if not path.exists():
            return False
        state, saved = load_state(path, self._owners[group], group)
        minutes = (self.now() - saved).total_seconds() / 60
        if minutes > self.config.state_minutes:
            log.warning(
                "%s: %.0f minutes old, more than state_minutes %g: started anew",
                path,
                minutes,
                self.config.state_minutes,
            )
            return False
        self.steered[group].restore(state, f"{path}: state")
        return True


def steered_groups(config: ServeConfig, model: SystemModel | None) -> dict[str, Steered]:
    """Every data centre with its controller, as at the first start."""
    groups = groups_of(config, model)
    _require_known(config.controllers, groups)
    calendar = Calendar.read(config.calendar, config.timezone) if config.calendar else Calendar([])
    calendar = calendar.with_capacity(config.capacity, config.timezone) if config.capacity else calendar
    return {group: _steered(config, model, group, calendar) for group in groups}


def groups_of(config: ServeConfig, model: SystemModel | None) -> list[str]:
    """The data centres that are served."""
    groups = config.groups or (list(model.features.groups) if model is not None else None)
    if groups is None:
        raise UserError("groups: got null without a system model; expected the names of the data centres")
    if len(set(groups)) < len(groups):
        raise UserError(f"groups: got {', '.join(groups)}; expected each once")
    return groups


def owner(config: ServeConfig, model: SystemModel | None, group: str) -> str:
    """What a state belongs to: the system model and the controller's settings."""
    return identity(model, config.controllers.get(group, config.controller), config.services or [])


def warm_up(config: ServeConfig, model: SystemModel | None) -> None:
    """One step of a controller that is thrown away, so that compiled code is loaded before the first measurement."""
    group, spare = next(iter(steered_groups(config, model).items()))
    qps = 1.0 if model is None else float(model.features.traffic_mean[model.features.group_index(group)])
    cpu, stamp = np.full(len(spare.names[0]), 50.0), np.datetime64("2026-01-01", "s")
    spare.decide(Measurement(0, stamp, group, qps, cpu, 0.0, spare.lambda_), "measured")


def _steered(config: ServeConfig, model: SystemModel | None, group: str, calendar: Calendar) -> Steered:
    own = config.controllers.get(group, config.controller)
    controller = make_controller(own, group, model, calendar, config.services)
    services = tuple(model.services if model is not None else config.services or ())
    high = getattr(getattr(controller, "scale", None), "high", None)
    prices = len(np.asarray(controller.lambda_))
    if high is None:  # somebody else's controller: the box of its config or of the model
        high = own.price_high if own.price_high is not None else model.prices.high if model is not None else None
    return Steered(
        controller,
        group,
        (services, price_names(services, prices)),
        np.asarray(high, np.float64),
        step_seconds(model),
        config.gap_minutes,
        config.silence_minutes,
        config.shadow,
        Moves(own.moves, controller.scale, step_seconds(model)) if isinstance(controller, PriceController) else None,
    )


def step_seconds(model: SystemModel | None) -> int:
    """Length of a control interval."""
    return 60 if model is None else model.step_seconds


def _require_known(named: Iterable[str], groups: list[str]) -> None:
    for name in named:
        if name not in groups:
            raise UserError(f"controllers: got data centre {name!r}; expected some of {', '.join(groups)}")


def _locked(out: Path) -> int:
    """A descriptor that holds the folder's lock; the file stays, so that no two processes lock different ones."""
    try:
        out.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(out / ".lock", os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as error:
        raise UserError(f"{out}: cannot write here: {error.strerror}") from None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        raise UserError(
            f"{out}: another process sets λ from this folder; expected one writer, or another --out"
        ) from None
    return descriptor
