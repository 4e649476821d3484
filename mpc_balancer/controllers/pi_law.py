"""The PI law as pure functions of arrays: the controllers run it for one plant, the tuner for many at once."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mpc_balancer.system_model.model import SystemModel

_LEAST_RELIEF = 0.1  # log points; a price whose whole box is said to take off less was not learnt


@dataclass(frozen=True)
class CostCurve:
    """Log cost relief v ≥ 0 of each price as a rising function of its coordinate u: the gain schedule.

    Working in v makes the loop gain one everywhere: +0.1 in v takes 10 % off the computation, wherever λ stands.
    """

    unit: np.ndarray  # (P,) grid of u
    relief: np.ndarray  # (L, P) -log(cost(u) / cost(0)), strictly rising

    @classmethod
    def identity(cls, prices: int) -> CostCurve:
        """No schedule: v = u."""
        return cls(np.array([0.0, 1.0]), np.tile([0.0, 1.0], (prices, 1)))

    @classmethod
    def from_model(cls, model: SystemModel, group: int, points: int = 41) -> CostCurve:
        """Read off the system model: own price varied, the others at the middle of the box, mean traffic, noon."""
        prices, size = model.prices.size, len(model.services)
        grid = np.linspace(0, 1, points)
        relief = np.empty((prices, points))
        mean = float(model.features.traffic_mean[group])
        exogenous = model.features.typical_row(group, mean, mean, np.datetime64("2026-01-01T12:00:00"))
        for j in range(prices):
            unit = np.full((points, prices), 0.5)
            unit[:, j] = grid
            path = model.rollout(
                np.full(size, 60.0), unit[:, None].repeat(8, axis=1), exogenous.repeat(8, axis=0), np.ones(8)
            )
            cost = path[:, -1, j] if prices == size else path[:, -1].max(axis=1)
            curve = np.maximum.accumulate(-np.log(np.maximum(cost, 1e-3) / max(cost[0], 1e-3)))
            relief[j] = curve + 1e-3 * grid  # strictly rising, so that it can be inverted
        return cls(grid, relief)

    def to_relief(self, unit: np.ndarray) -> np.ndarray:
        """u (…, L) → v (…, L)."""
        return np.stack([np.interp(unit[..., j], self.unit, self.relief[j]) for j in range(len(self.relief))], axis=-1)

    def to_unit(self, relief: np.ndarray) -> np.ndarray:
        """v (…, L) → u (…, L); beyond the ends the ends."""
        return np.stack(
            [np.interp(relief[..., j], self.relief[j], self.unit) for j in range(len(self.relief))], axis=-1
        )

    @property
    def learnt(self) -> bool:
        """Whether the curve is one of numbers and each price takes something off."""
        return bool(np.isfinite(self.relief).all() and (self.top >= _LEAST_RELIEF).all())

    @property
    def top(self) -> np.ndarray:
        """The most relief each price can give, (L,)."""
        return self.relief[:, -1]


def knows_prices(model: SystemModel, group: int) -> bool:
    """Whether a system model says of every price that it takes something off. One trained while λ stood still does not."""
    return CostCurve.from_model(model, group).learnt


def pi_step(
    state: np.ndarray,
    error: np.ndarray,
    last_error: np.ndarray,
    kp: np.ndarray | float,
    ki: np.ndarray | float,
    down: np.ndarray | float,
    push: np.ndarray | float,
    top: np.ndarray | float,
    low: np.ndarray | float = 0.0,
) -> np.ndarray:
    """One velocity-form step: v' = v + kp·Δe + ki·e + push, clamped to [low, top] (which is the anti-windup).

    All arguments broadcast to (…, L). ``error`` is log(CPU / target), ``down`` the factor of both gains while CPU is under
    its target, ``push`` the feed-forward. A NaN error (lost reading) leaves only the feed-forward.
    """
    factor = np.where(error < 0, down, 1.0)
    move = factor * (ki * error + kp * np.nan_to_num(error - last_error))
    return np.asarray(np.clip(state + np.nan_to_num(move) + push, low, top))
