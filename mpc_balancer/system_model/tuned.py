"""What is fitted beside g on the same minute table: traffic forecasts, the observer's settings, PI gains."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, astuple, dataclass, field
from typing import Any

import numpy as np

from mpc_balancer.forecasting.traffic_forecast import TrafficForecast


@dataclass(frozen=True)
class PiGains:
    """Gains in units of the controlled coordinate per relative CPU error."""

    kp: float = 0.3
    ki: float = 0.3
    down_factor: float = 1.0  # multiplies both while CPU is under its target
    feedforward: float = 0.0  # share of the forecast log change of traffic that is passed on

    def smaller(self, other: PiGains) -> PiGains:
        """Of each gain the smaller one."""
        return PiGains(*np.minimum(astuple(self), astuple(other)).tolist())


@dataclass(frozen=True)
class ObserverTuning:
    """What a back-test of the observers found: the best pair, the score of every pair, the best one's one-step errors."""

    rate: float
    trust: float
    scores: np.ndarray  # (P,) mean squared error, CPU points², in the order of ``observer.bank``
    errors: np.ndarray  # (n, D) CPU points; in a checkpoint a sample of them

    def whole(self, services: int) -> bool:
        """Whether all parts have the types, sizes and ranges that a back-test gives them."""
        shares = (self.rate, self.trust)
        return (
            all(isinstance(one, float) and 0 <= one <= 1 for one in shares)
            and self.scores.ndim == 1
            and self.errors.shape == (len(self.errors), services)
            and min(len(self.errors), len(self.scores)) > 0
            and bool(np.isfinite(self.scores).all() and np.isfinite(self.errors).all())
        )


@dataclass(frozen=True)
class Tuned:
    """Everything a controller may look up; what was not fitted is empty."""

    extras: tuple[str, ...] = ()  # names of the extra inputs, in the model's order
    forecasts: Mapping[str, TrafficForecast] = field(default_factory=dict)  # by group
    observer: ObserverTuning | None = None
    pi_gains: Mapping[str, PiGains] = field(default_factory=dict)  # by controller

    def to_dict(self) -> dict[str, Any]:
        """Plain values for a checkpoint."""
        found = self.observer
        return {
            "extras": list(self.extras),
            "forecasts": {name: one.to_dict() for name, one in self.forecasts.items()},
            "observer": found and {**vars(found), "scores": found.scores.tolist(), "errors": found.errors.tolist()},
            "pi_gains": {name: asdict(one) for name, one in self.pi_gains.items()},
        }

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Tuned:
        """What ``to_dict`` described; a key that is missing was not fitted, an unknown one is a TypeError."""
        forecasts, observer, gains = (values.get(name) or {} for name in ("forecasts", "observer", "pi_gains"))
        if "pi_feedforward" in gains:  # checkpoints from before pi_forecast was tuned
            gains = {"pi_forecast": gains["pi_feedforward"], **gains}
        arrays = {name: np.array(observer[name], np.float64) for name in ("scores", "errors") if observer}
        return cls(
            tuple(values.get("extras", ())),
            {name: TrafficForecast.from_dict(one) for name, one in forecasts.items()},
            ObserverTuning(**{**observer, **arrays}) if observer else None,
            {name: PiGains(**one) for name, one in gains.items()},
        )
