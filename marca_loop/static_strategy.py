"""The static strategy: one mixture of joint actions for every request, with a downgrade rule.

It is what a platform does before it prices computation: sized for the peak, the same for all, and stepped down by a
rule when CPUs run over. Uplifts are stated against this strategy, so it is chosen as well as the logs allow.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from marca_common.protocols import Measurement
from marca_measures.static_mixture import StaticMixture


class StaticPolicy:
    """Draws every request's joint action from the mixture of the level in force; states are not looked at."""

    def __init__(self, mixtures: Sequence[StaticMixture], generator: np.random.Generator) -> None:
        """``mixtures``: one per downgrade level, level 0 first."""
        self.mixtures, self.generator = mixtures, generator

    def decide(self, states: np.ndarray, lambda_: np.ndarray) -> np.ndarray:
        """Joint action per state, int64 (M,); ``lambda_`` carries the level, as StaticRule sets it."""
        return self.mixtures[int(lambda_[0])].draw(self.generator.random(len(states)))


class StaticRule:
    """The downgrade rule: a level down after a minute over budget, one up after ``patience`` minutes well under it."""

    def __init__(self, budget_percent: np.ndarray, levels: int, patience: int, headroom: float) -> None:
        """``budget_percent`` (services,): C_m. *Well under* means below ``headroom`` × C_m on every service."""
        self.budget_percent = budget_percent
        self.levels, self.patience, self.headroom = levels, patience, headroom
        self.level, self.calm = 0, 0
        self.lambda_ = np.zeros(len(budget_percent))

    def step(self, measurement: Measurement) -> np.ndarray:
        """The level of the next minute, once per service, (services,); a lost measurement changes nothing."""
        load = measurement.cpu / self.budget_percent
        if np.isfinite(load).any():
            worst = float(np.nanmax(load))
            self.calm = self.calm + 1 if worst < self.headroom else 0
            if worst > 1.0:
                self.level = min(self.level + 1, self.levels - 1)
            elif self.calm >= self.patience:
                self.level, self.calm = max(self.level - 1, 0), 0
        self.lambda_ = np.full(len(self.budget_percent), float(self.level))
        return self.lambda_
