"""MPC that is told the traffic up to the interval its price will act in: what a perfect short forecast would be worth."""

from __future__ import annotations

import numpy as np

from mpc_balancer.controllers.mpc import MpcController


class KnowsNextMinuteController(MpcController):
    """Identical to MPC but for the traffic of the coming 1 + delay intervals."""

    future: np.ndarray | None = None  # requests per second of the coming intervals, set by the loop

    def foresee(self, future_qps: np.ndarray) -> None:
        """The true traffic of the coming intervals (n,)."""
        self.future = np.asarray(future_qps, np.float64)

    def forecast(self, steps: int) -> np.ndarray:
        """The truth for the coming 1 + delay intervals, the usual forecast scaled to it beyond."""
        ahead = super().forecast(steps)
        if self.future is None or not len(self.future):
            return ahead
        known = min(1 + self.delay.delay, len(self.future), steps)
        scale = self.future[known - 1] / max(ahead[known - 1], 1e-9)
        return np.concatenate([self.future[:known], ahead[known:] * scale])
