"""How far below the budget must the target lie? Learnt from the over-use that was seen.

Noise, forecasts and delays differ from plant to plant and from hour to hour, so a margin fixed at training time is too wide on
one and too thin on the next. Each step moves it by a share of how far over-use was from what is wanted (stochastic approximation).
"""

from __future__ import annotations

import numpy as np

_WIDEST = 0.25  # of the budget


class Margin:
    """CPU points (D,) between budget and target; starts at ``points`` and stays where ``wanted`` is null."""

    def __init__(self, points: np.ndarray, budget: np.ndarray, wanted: float | None, rate: float) -> None:
        """``wanted``: mean over-use in percent of the budget; ``rate``: points moved per point of over-use."""
        self.points, self.budget, self.wanted, self.rate = points.copy(), budget, wanted, rate

    def update(self, cpu: np.ndarray, steered: np.ndarray) -> None:
        """Take in an interval's CPU (D,), NaN where lost. Only services that are ``steered`` (D,) teach: the price of the others is at an
        end of its box, and no margin would change their CPU."""
        if self.wanted is None:
            return
        over = np.maximum(cpu - self.budget, 0.0) - self.wanted / 100 * self.budget
        moved = self.points + self.rate * np.where(steered & np.isfinite(cpu), over, 0.0)
        self.points = np.clip(moved, 0.0, _WIDEST * self.budget)
