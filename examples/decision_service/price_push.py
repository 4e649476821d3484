"""What the balancer posts to /lambda, believed or refused: {"unit": …, "decided": …, "lambda": {data centre: {price: λ}}}."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import numpy as np

from examples.decision_service.config import DecisionServiceConfig


class Refused(Exception):
    """A push that is not believed; ``reason`` is the label under which it is counted."""

    def __init__(self, reason: str, text: str) -> None:
        super().__init__(text)
        self.reason = reason


@dataclass(frozen=True)
class Push:
    """Prices of the data centres that are served."""

    lambda_: dict[int, np.ndarray]  # place in ``groups`` → (L,) in the policy's unit
    decided: float  # when they were decided, seconds since 1970


def read_push(body: bytes, config: DecisionServiceConfig, unit: str, now: float, newest: np.ndarray) -> Push:
    """The push in ``body``; Refused where it is malformed, stale at ``now``, or older than
    ``newest`` (G,), the push in force at one of its data centres.

    Times are seconds since 1970. A push without ``decided`` counts as decided now. Data centres not served are passed over.
    """
    try:
        content = json.loads(body)
        given, lambda_ = content["unit"], content["lambda"]
        served = {place: dict(lambda_[name]) for place, name in enumerate(config.groups) if name in lambda_}
    except (ValueError, KeyError, TypeError, RecursionError):
        raise Refused("malformed", 'expected JSON: {"unit": …, "lambda": {data centre: {price: λ}}}') from None
    if given != unit:
        raise Refused("unit", f"unit: got {str(given)[:40]!r}; expected {unit!r}")
    if not served:
        raise Refused("group", f"lambda: expected one of the data centres {', '.join(config.groups)}")
    decided = _decided(content.get("decided"), now)
    if now - decided > config.stale_s:
        raise Refused("stale", f"decided: {now - decided:.0f} seconds ago; expected at most {config.stale_s:g}")
    if decided - now > config.stale_s:
        raise Refused("stale", f"decided: {decided - now:.0f} seconds from now; expected a clock that agrees")
    older = float(newest[list(served)].max()) - decided
    if older > 0:
        raise Refused("stale", f"decided: {older:.3f} seconds before the λ in force; expected a newer one")
    return Push({place: _prices(one, config, config.groups[place]) for place, one in served.items()}, decided)


def _decided(stamp: Any, now: float) -> float:
    if stamp is None:
        return now
    try:
        time = datetime.fromisoformat(stamp)
        if time.tzinfo is None:
            raise ValueError
        return time.timestamp()
    except (ValueError, TypeError, OverflowError):
        raise Refused("malformed", f"decided: got {str(stamp)[:40]!r}; expected a time with its offset") from None


def _prices(given: dict[Any, Any], config: DecisionServiceConfig, group: str) -> np.ndarray:
    if set(given) != set(config.prices):
        raise Refused("price", f"lambda of {group}: got {list(given)[:8]}; expected prices {', '.join(config.prices)}")
    for name, one in given.items():
        if type(one) not in (int, float) or not 0 <= one <= sys.float_info.max:
            raise Refused("number", f"lambda of {group}, {name}: got {str(one)[:40]}; expected a finite number from 0")
    return np.array([float(given[name]) for name in config.prices])
