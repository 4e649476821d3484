"""How λ may move: a limit per minute, a period between moves, a few levels. Kept to by every controller, planned with by MPC."""

from __future__ import annotations

import numpy as np

from mpc_balancer.config import MovesConfig
from mpc_balancer.price_scale import PriceScale
from mpc_balancer.stateful import Stateful


class Moves(Stateful):
    """Turns the price that a rule wants into the one that may be set."""

    STATE = ["until", "held"]

    def __init__(self, config: MovesConfig, scale: PriceScale, step_seconds: int) -> None:
        self.config, self.scale = config, scale
        rate = np.inf if config.most_per_minute is None else config.most_per_minute
        self.most = rate * config.period * step_seconds / 60  # price coordinate, at a step that may move
        self.until = 0  # control steps until λ may move again
        self.held = np.zeros(scale.size, bool)  # was the last move (L,) upwards, and as far as may be?

    def allowed(self, wanted: np.ndarray, last: np.ndarray) -> np.ndarray:
        """Prices (L,) of this step, as near to ``wanted`` as may be; the price stays where it is between periods."""
        if self.until > 0:
            self.until -= 1
            return last
        self.until = self.config.period - 1
        if not self.config.limited and self.config.levels is None:
            return wanted
        before, unit = self.scale.to_unit(last), self.scale.to_unit(wanted)
        self.held = unit >= before + self.most - 1e-9
        unit = np.clip(unit, before - self.most, before + self.most)
        if self.config.levels is not None:
            unit = self._level(unit, before)
        return self.scale.clip(self.scale.from_unit(unit))

    def _level(self, unit: np.ndarray, before: np.ndarray) -> np.ndarray:
        """The nearest levels (L,), price coordinate; the ones on this side where those are further than λ may move."""
        steps = (self.config.levels or 2) - 1
        nearest = np.round(unit * steps)
        too_far = np.abs(nearest / steps - before) > self.most + 1e-9
        return np.asarray((nearest - np.where(too_far, np.sign(nearest / steps - before), 0)) / steps)

    def reach(self, pending: int, steps: int) -> np.ndarray | None:
        """Largest move into each of ``steps`` coming steps (N,), price coordinate, of which ``pending`` are given already; null = any."""
        if not self.config.limited:
            return None
        ahead = np.arange(steps - pending)
        may = (ahead >= self.until) & ((ahead - self.until) % self.config.period == 0)
        return np.concatenate([np.full(pending, np.inf), np.where(may, self.most, 0.0)])
