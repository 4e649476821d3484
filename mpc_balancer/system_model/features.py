"""Inputs of the system model that λ does not steer: traffic now and next, time of day and week, extras, group."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from marca_common.errors import UserError
from marca_common.spread import ROUNDING
from mpc_balancer.system_model.minute_table import SystemData

_DAY = 86_400
CPU_CENTRE, CPU_SPREAD = 50.0, 25.0  # percent; CPU enters the network as (cpu - centre) / spread


@dataclass(frozen=True)
class Features:
    """Fitted on training rows; inputs are clipped to the range trained on, so that the network never extrapolates there."""

    groups: tuple[str, ...]
    traffic_mean: np.ndarray  # (G,) mean requests per second
    extras_mean: np.ndarray  # (E,)
    extras_scale: np.ndarray  # (E,)
    use_day: bool  # at least two days were seen
    use_week: bool  # at least two weeks were seen
    low: np.ndarray  # (F,) range of the inputs in training
    high: np.ndarray  # (F,)

    @classmethod
    def fit(cls, data: SystemData, age_limit: int) -> Features:
        """Moments and ranges of the training rows."""
        days = (data.timestamps.max() - data.timestamps.min()).astype(np.int64) / _DAY
        means = np.array(
            [data.qps[data.group == g].mean() if (data.group == g).any() else 1.0 for g in range(len(data.groups))]
        )
        scale = data.extras.std(axis=0)
        loose = cls(
            data.groups,
            np.where(means > 0, means, 1.0),
            data.extras.mean(axis=0),
            np.where(scale > ROUNDING * np.abs(data.extras).max(axis=0, initial=0.0), scale, 1.0),
            bool(days >= 2),
            bool(days >= 14 and data.layout.columns.date_known),
            np.full(1, -np.inf),
            np.full(1, np.inf),
        )
        known = np.isfinite(data.next_qps)
        rows = loose.rows(
            data.group[known],
            data.qps[known],
            data.next_qps[known],
            data.timestamps[known],
            data.extras[known],
            np.zeros(known.sum()),
        )
        low, high = rows.min(axis=0), rows.max(axis=0)
        age = loose.age_column
        low[age], high[age] = 0.0, age_limit
        return cls(**{**loose.__dict__, "low": low, "high": high})

    @property
    def age_column(self) -> int:
        """Position of the rollout age (minutes since the extras were measured) among the inputs."""
        return 8 + len(self.extras_mean)

    @property
    def size(self) -> int:
        """Number of exogenous inputs F."""
        return 9 + len(self.extras_mean) + len(self.groups)

    def group_index(self, group: str) -> int:
        """Index of a group known from training; another one is a UserError."""
        if group not in self.groups:
            raise UserError(
                f"group {group!r}: not among those of the system model, {', '.join(self.groups)}; train it on them"
            )
        return self.groups.index(group)

    def rows(
        self,
        group: np.ndarray,
        qps: np.ndarray,
        next_qps: np.ndarray,
        timestamps: np.ndarray,
        extras: np.ndarray,
        age: np.ndarray,
    ) -> np.ndarray:
        """Exogenous inputs (n, F) of the minute after ``timestamps``; all arguments have length n, extras (n, E)."""
        mean = self.traffic_mean[group]
        seconds = timestamps.astype("datetime64[s]").astype(np.int64)
        day = 2 * np.pi * (seconds % _DAY) / _DAY * self.use_day
        week = 2 * np.pi * (seconds % (7 * _DAY)) / (7 * _DAY) * self.use_week
        columns = [
            np.log(np.maximum(next_qps / mean, 1e-3)),
            np.log(np.maximum(qps / mean, 1e-3)),
            np.sin(day),
            np.cos(day),
            np.sin(2 * day),
            np.cos(2 * day),
            np.sin(week),
            np.cos(week),
        ]
        own = np.eye(len(self.groups))[group]  # (n, G)
        standard = (extras - self.extras_mean) / self.extras_scale  # (n, E)
        values = np.column_stack([*columns, standard, age, own])  # (n, F)
        return np.asarray(np.clip(values, self.low, self.high), np.float32)

    def whole(self) -> bool:
        """Whether all parts have the sizes and signs that ``fit`` gives them."""
        return (
            self.traffic_mean.shape == (len(self.groups),)
            and self.extras_mean.ndim == 1
            and self.extras_scale.shape == self.extras_mean.shape
            and self.low.shape == self.high.shape == (self.size,)
            and isinstance(self.use_day, bool)
            and isinstance(self.use_week, bool)
            and bool((self.traffic_mean > 0).all() and (self.extras_scale > 0).all() and (self.low <= self.high).all())
        )

    def typical_row(self, group: int, qps: float, next_qps: float, timestamp: np.datetime64) -> np.ndarray:
        """As ``rows`` for one minute (1, F) whose extras are at their training mean."""
        traffic = np.array([qps]), np.array([next_qps])
        return self.rows(np.array([group]), *traffic, np.array([timestamp]), self.extras_mean[None], np.zeros(1))

    def to_dict(self) -> dict[str, Any]:
        """Plain values for a checkpoint."""
        return {
            "groups": list(self.groups),
            "use_day": bool(self.use_day),
            "use_week": bool(self.use_week),
            **{n: getattr(self, n).tolist() for n in ("traffic_mean", "extras_mean", "extras_scale", "low", "high")},
        }

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Features:
        """The features that ``to_dict`` described."""
        arrays = {
            n: np.array(values[n], np.float64) for n in ("traffic_mean", "extras_mean", "extras_scale", "low", "high")
        }
        return cls(groups=tuple(values["groups"]), use_day=values["use_day"], use_week=values["use_week"], **arrays)
