"""MPC that is told the traffic up to the interval its price will act in: what a perfect short forecast would be worth."""

from __future__ import annotations

import numpy as np

from marca_common.plain_numbers import attribute, plain_numbers
from marca_common.protocols import Coming
from mpc_balancer.controllers.mpc import MpcController


class KnowsNextMinuteController(MpcController):
    """Identical to MPC but for the traffic of the coming 1 + delay intervals. Has Foresight."""

    STATE = ["coming_qps"]
    coming_qps: np.ndarray | None = None  # requests per second of the coming intervals

    def foresee(self, coming: Coming) -> None:
        """Keep the true traffic of the coming intervals; what is no traffic is counted and forgotten."""
        qps = plain_numbers(attribute(coming, "qps"))
        sound = qps is not None and np.isfinite(qps).all() and (qps >= 0).all()
        self.refused["coming"] += not sound
        self.coming_qps = qps if sound else None

    def forecast(self, steps: int) -> np.ndarray:
        """The truth for the coming 1 + delay intervals, the usual forecast scaled to it beyond."""
        ahead = super().forecast(steps)
        if self.coming_qps is None:
            return ahead
        known = min(1 + self.delay.delay, len(self.coming_qps), steps)
        scale = self.coming_qps[known - 1] / max(ahead[known - 1], 1e-9)
        return np.concatenate([self.coming_qps[:known], ahead[known:] * scale])
