"""PI with dead-time compensation (Smith's predictor): commands on their way are taken into account, not given twice."""

from __future__ import annotations

from typing import Any

import numpy as np

from mpc_balancer.controllers.checked_reading import Reading
from mpc_balancer.controllers.delay_detector import DelayDetector
from mpc_balancer.controllers.pi_forecast import PiForecastController


class PiDeadTimeController(PiForecastController):
    """Subtracts from the log CPU error the relief that was commanded but does not act yet; the traffic it forecasts is that of
    the interval in which its price will act."""

    STATE = ["delay"]

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        own = self.config.mpc
        self.delay = DelayDetector(self.scale, own.max_delay, own.delay)
        self.delay.command(self.lambda_)

    def decide(self, reading: Reading) -> np.ndarray:
        """One PI step on the error that will be left when all commands act."""
        self.delay.observe(reading.lambda_)
        self._in_force = reading.lambda_
        return super().decide(reading)

    def applied(self, lambda_: np.ndarray) -> None:
        """Note the command."""
        super().applied(lambda_)
        self.delay.command(lambda_)

    def coming_relief(self) -> np.ndarray | float:
        """Log relief (L,) of the last command beyond that of the price in force."""
        commanded, acting = (self.curve.to_relief(self.scale.to_unit(one)) for one in (self.lambda_, self._in_force))
        return np.asarray(commanded - acting)

    @property
    def late(self) -> int:
        """The detected delay."""
        return self.delay.delay
