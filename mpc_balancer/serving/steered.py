"""One data centre under a controller, as a live system needs it: gaps, silence, other writers of λ, state and log rows."""

from __future__ import annotations

import logging
import time
from collections import Counter, deque
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import numpy as np

from marca_common.plain_numbers import plain_number, plain_numbers
from marca_common.protocols import Alarming, Controller, Measurement, Reporting
from mpc_balancer.controllers.moves import Moves
from mpc_balancer.serving.decision_log import measured
from mpc_balancer.stateful import Restorable, Stateful

log = logging.getLogger(__name__)
_RECENT = 8  # commands that λ in force is compared with: the longest delay of an actuator, and some more
_SAME = 1e-3  # share of a price within which λ in force is a command: printed numbers are rounded
_FOREIGN, _SILENT = 5, 3  # steps in a row with another λ, or without CPU, before it is said


class Steered(Stateful):
    """Turns measurements, or their absence, into prices and rows of the decision log. ``step`` never raises."""

    STATE = ["number", "born", "time", "silent", "foreign", "counts", "moves", "_commands"]

    def __init__(
        self,
        controller: Controller,
        group: str,
        names: tuple[tuple[str, ...], tuple[str, ...]],
        highest: np.ndarray,
        step_seconds: int = 60,
        gap_minutes: float = 0.0,
        silence_minutes: float = np.inf,
        shadow: bool = False,
        moves: Moves | None = None,
    ) -> None:
        """``names``: services and prices; ``highest``: λ (L,) where silence lasts; ``moves``: how λ may go there and back."""
        self.controller, self.group, self.names, self.highest = controller, group, names, highest
        self.interval, self.shadow, self.moves = np.timedelta64(step_seconds, "s"), shadow, moves
        self.most_missing = int(gap_minutes * 60 / step_seconds)
        self.most_silent = max(silence_minutes * 60 / step_seconds, 1.0)
        self.number, self.silent, self.foreign = 0, 0, 0
        self.seconds = 0.0  # duration of the last decision
        self.born = datetime.now(UTC).isoformat()  # with the number of the step, a name for every decision
        self.time: np.datetime64 = np.datetime64("NaT", "s")  # start of the last interval that was answered
        self.counts: Counter[str] = Counter()
        self.lambda_ = np.array(controller.lambda_, np.float64)
        self._reports = controller if isinstance(controller, Reporting) else None
        self._alarms = controller if isinstance(controller, Alarming) else None
        self._commands = deque([self.lambda_], _RECENT)

    def state(self) -> dict[str, Any]:
        """As Stateful, and the controller's; null for somebody else's that gives none."""
        own = self.controller
        return super().state() | {"controller": own.state() if isinstance(own, Restorable) else None}

    def restore(self, values: Any, place: str = "state") -> None:
        """As Stateful, and the controller's; somebody else's that takes none starts anew."""
        own = dict(values) if isinstance(values, dict) else {}
        controller = own.pop("controller", None)
        super().restore(own, place)
        if isinstance(self.controller, Restorable):
            self.controller.restore(controller, f"{place}.controller")
        self.lambda_ = self._commands[-1]

    def step(self, one: Measurement | None) -> Iterator[dict[str, Any]]:
        """Answer one interval, and before it those that its stamp leaves out; yields their rows. ``lambda_`` has the price."""
        for _ in range(self._missing(one)):
            yield self.decide(None, "gap")
        yield self.decide(one, "lost" if one is None else "measured")

    def decide(self, one: Measurement | None, kind: str) -> dict[str, Any]:
        """One step of the controller; the row says what was measured, what was decided, and by which rule."""
        before = self.said
        started = time.perf_counter()
        in_force = self._in_force(one)
        if in_force is not None and (self.shadow or not self.counts["measured"]):
            self._follow(in_force)
        price, failed = self._price(one)
        price, forced = self._safe(one, price)
        if self.moves is not None and not self.shadow:
            price = self.moves.allowed(price, self.lambda_)
        self._note(one, kind, price)
        after, self.seconds = self.said, time.perf_counter() - started
        rungs = [forced] if forced else [failed] if failed else sorted(after[0] - before[0])
        self.number += 1
        return {
            "group": self.group,
            "born": self.born,
            "step": self.number - 1,
            "kind": kind,
            "shadow": self.shadow,
            "decision_ms": self.seconds * 1000,
            **measured(one, *self.names),
            "expected_qps": _null(getattr(self.controller, "expected_qps", None)),
            "rung": "+".join(rungs),
            "refused": " ".join(f"{name}={count}" for name, count in sorted((after[1] - before[1]).items())),
            "alarms": " ".join(sorted(after[2] - before[2])),
            **{f"price_{name}": float(value) for name, value in zip(self.names[1], price)},
        }

    def already_answered(self, one: Measurement) -> bool:
        """Whether a measurement is no newer than the last that was answered."""
        return bool(one.timestamp <= self.time)

    @property
    def said(self) -> tuple[Counter[str], Counter[str], Counter[str]]:
        """How often each rule answered, what was refused, and the steps that each alarm stood, since the start."""
        rungs, refused = (
            (Counter(), Counter()) if self._reports is None else (self._reports.rungs, self._reports.refused)
        )
        return Counter(rungs), Counter(refused), Counter(self._alarms.alarm_steps if self._alarms else ())

    # -- one step ----------------------------------------------------------------------------------------------------
    def _missing(self, one: Measurement | None) -> int:
        """Intervals between the last one and this one; 0 where there are too many to be a gap (a stamp may be wrong)."""
        if one is None or not one.timestamp > self.time:
            return 0
        found = round(float((one.timestamp - self.time) / self.interval)) - 1
        return found if 0 < found <= self.most_missing else 0

    def _price(self, one: Measurement | None) -> tuple[np.ndarray, str | None]:
        """The controller's price; held, with the reason said, where somebody's controller fails."""
        try:
            price = plain_numbers(self.controller.step(one), len(self.lambda_))  # type: ignore[arg-type]
            if price is not None and np.isfinite(price).all() and (price >= 0).all():
                return price, None
            reason = f"gave {price}; expected {len(self.lambda_)} finite prices of at least 0"
        except Exception as error:  # ours never raise; a live loop must survive somebody else's
            reason = f"{type(error).__name__}: {error}"
        self.counts["controller_failed"] += 1
        log.warning("%s: controller: %s", self.group, reason)
        return self.lambda_, "failed"

    def _safe(self, one: Measurement | None, price: np.ndarray) -> tuple[np.ndarray, str | None]:
        """λ max once no CPU has been measured for too long."""
        silent, blind = self.silent, one is None or not np.isfinite(one.cpu).any()
        self.silent = silent + 1 if blind else 0
        forced = self.silent >= self.most_silent
        if self.silent == _SILENT:
            log.warning("%s: no CPU for %d steps: the controller bridges or holds", self.group, silent + 1)
        if forced and silent < self.most_silent:
            log.warning("%s: no CPU for %d steps: λ to its maximum", self.group, silent + 1)
        if silent >= _SILENT and not blind:
            log.warning("%s: CPU is measured again, after %d steps", self.group, silent)
        return (self.highest, "silence_max") if forced else (price, None)

    def _note(self, one: Measurement | None, kind: str, price: np.ndarray) -> None:
        """Time, counts, and whether λ in force is one of ours."""
        self.counts[kind] += 1
        stamp = one.timestamp if one is not None else np.datetime64("NaT", "s")
        self.time = self.time + self.interval if np.isnat(stamp) else stamp
        in_force = self._in_force(one)
        if in_force is not None and not self.shadow:
            off = np.abs(np.array(self._commands) - in_force) > _SAME * np.abs(in_force)
            ours = not off.any(axis=1).all()
            self.foreign = 0 if ours else self.foreign + 1
            self.counts["foreign"] += not ours
            if self.foreign == _FOREIGN:
                text = (
                    "%s: λ in force has been none of ours for %d steps: someone else sets it, or ours does not arrive"
                )
                log.warning(text, self.group, _FOREIGN)
        self.lambda_ = price
        self._commands.append(price)

    def _in_force(self, one: Measurement | None) -> np.ndarray | None:
        return one.lambda_ if one is not None and np.isfinite(one.lambda_).all() else None

    def _follow(self, in_force: np.ndarray) -> None:
        """Rules that integrate start from λ in force, so that taking over makes no jump and shadow advice does not wander."""
        follow = getattr(self.controller, "follow", None)
        if callable(follow):
            try:
                follow(in_force)
            except Exception as error:  # somebody's controller
                log.warning("%s: controller: follow: %s: %s", self.group, type(error).__name__, error)


def _null(value: Any) -> float | None:
    number = plain_number(value)
    return number if np.isfinite(number) else None
