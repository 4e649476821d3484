"""Strategies of somebody else's that go wrong in every way, for worker processes to import."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import numpy as np

from awrq_mixer.serving.policy import HullPolicy
from marca_common.protocols import Controller, Measurement, Policy
from marca_loop.scene import Scene
from marca_loop.strategies import Strategy


class Fixed:
    """A controller that never changes its price, until it is to raise."""

    def __init__(self, raises_at: int = -1) -> None:
        self.lambda_, self.raises_at = np.full(2, 1e-4), raises_at

    def step(self, measurement: Measurement) -> np.ndarray:
        if measurement.minute == self.raises_at:
            raise ZeroDivisionError("no traffic")
        return self.lambda_


class Always:
    """A policy that returns one thing for every request."""

    def __init__(self, joint: Any) -> None:
        self.joint = joint

    def decide(self, states: np.ndarray, lambda_: np.ndarray) -> np.ndarray:
        return np.full(len(states), self.joint)


class Acts(Strategy):
    """Takes one joint action for everybody, whether there is such a one or not."""

    joint: float | None  # None: NaN

    def serve(self, scene: Scene, group: str) -> tuple[Policy, Controller]:
        return Always(np.nan if self.joint is None else self.joint), Fixed()


class Loads(Strategy):
    """Serves a policy that was prepared elsewhere."""

    file: Path

    def serve(self, scene: Scene, group: str) -> tuple[Policy, Controller]:
        return HullPolicy.load(self.file), Fixed()


class Raises(Strategy):
    """Fails on one data centre, in several lines."""

    group: str = "south"

    def serve(self, scene: Scene, group: str) -> tuple[Policy, Controller]:
        if group == self.group:
            raise RuntimeError("out of ideas:\n  none\n  is left")
        return Always(0), Fixed()


class Steers(Strategy):
    """Its controller raises after some minutes."""

    def serve(self, scene: Scene, group: str) -> tuple[Policy, Controller]:
        return Always(0), Fixed(raises_at=5)


class Nothing(Strategy):
    """Forgets to return anything."""

    def serve(self, scene: Scene, group: str) -> tuple[Policy, Controller]:
        return None  # type: ignore[return-value]


class Dies(Strategy):
    """Takes its process with it, the first time."""

    once: Path

    def serve(self, scene: Scene, group: str) -> tuple[Policy, Controller]:
        if not self.once.exists():
            self.once.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return Always(0), Fixed()
