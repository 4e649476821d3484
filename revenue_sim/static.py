"""The strategy without personalisation: one mixture of fixed joint actions for every request, with a downgrade rule.

It is what a platform does before it prices computation: sized for the peak, the same for all, and stepped down by a
rule when CPUs run over. Every claim of uplift is against this strategy, so it is chosen as well as the logs allow.
"""

from __future__ import annotations

import numpy as np
from scipy.optimize import linprog

from common.errors import UserError
from common.protocols import Measurement


def best_mixture(values: np.ndarray, costs: np.ndarray, budgets: np.ndarray) -> np.ndarray:
    """Weights (A,) of the mixture of joint actions that is worth most within the budgets.

    ``values`` (A,) mean money per request, ``costs`` (A, services) mean core-ms per request, ``budgets`` (services,)
    core-ms per request. At most services + 1 actions have weight. Raises UserError where nothing fits.
    """
    if values.ndim != 1 or costs.shape != (len(values), len(budgets)):
        raise ValueError(f"shapes do not fit: values {values.shape}, costs {costs.shape}, budgets {budgets.shape}")
    # Scaled to order one: HiGHS' tolerances are absolute.
    scale = float(np.abs(values).max()) or 1.0
    solution = linprog(
        -values / scale,
        A_ub=(costs / budgets).T,
        b_ub=np.ones(len(budgets)),
        A_eq=np.ones((1, len(values))),
        b_eq=[1.0],
    )
    if solution.status == 2:
        least = costs.min(axis=0)
        raise UserError(
            f"static mixture: budgets {np.round(budgets, 3)} core-ms per request; the least possible is {np.round(least, 3)}"
        )
    if solution.status != 0:
        raise RuntimeError(f"static mixture: {solution.message}")
    weights = np.clip(solution.x, 0, None)
    return weights / weights.sum()


class StaticPolicy:
    """Draws every request's joint action from the mixture of the level in force; states are not looked at."""

    def __init__(self, mixtures: np.ndarray, generator: np.random.Generator) -> None:
        """``mixtures`` (levels, A): weights per downgrade level, level 0 first."""
        self.cumulative = np.cumsum(mixtures, axis=1)
        self.generator = generator

    def decide(self, states: np.ndarray, lambda_: np.ndarray) -> np.ndarray:
        """Joint action per state, int64 (M,); ``lambda_`` carries the level, as StaticRule sets it."""
        edges = self.cumulative[int(lambda_[0])]
        draws = self.generator.random(len(states)) * edges[-1]
        return np.searchsorted(edges, draws, side="right").astype(np.int64)


class StaticRule:
    """The downgrade rule: one level down after a minute over budget, one up after ``patience`` minutes well under it."""

    def __init__(self, budgets_percent: np.ndarray, levels: int, patience: int, headroom: float) -> None:
        """``budgets_percent`` (services,) CPU budget; *well under* means below ``headroom`` × budget on every service."""
        self.budgets = budgets_percent
        self.levels = levels
        self.patience = patience
        self.headroom = headroom
        self.level = 0
        self.calm = 0

    def step(self, measurement: Measurement) -> np.ndarray:
        """The level for the next minute, once per service, (services,); lost measurements change nothing."""
        load = measurement.cpu / self.budgets
        if np.isfinite(load).any():
            worst = float(np.nanmax(load))
            self.calm = self.calm + 1 if worst < self.headroom else 0
            if worst > 1.0:
                self.level = min(self.level + 1, self.levels - 1)
            elif self.calm >= self.patience:
                self.level, self.calm = max(self.level - 1, 0), 0
        return np.full(len(self.budgets), float(self.level))
