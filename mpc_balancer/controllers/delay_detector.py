"""How late commands act, learnt from the λ that the plant reports as being in force."""

from __future__ import annotations

from collections import deque

import numpy as np

from mpc_balancer.price_scale import PriceScale
from mpc_balancer.stateful import Stateful

_MEMORY = 0.85  # how fast old evidence fades
_SAME = 1e-4  # price coordinates closer than this are the same price


class DelayDetector(Stateful):
    """Compares each reported λ with the commands of 0, 1, … intervals earlier; the best match is the delay."""

    STATE = ["delay", "_misses", "_commands"]

    def __init__(self, scale: PriceScale, longest: int) -> None:
        self.scale, self.longest = scale, longest
        self.delay = 0
        self._misses = np.zeros(longest + 1)
        self._commands: deque[np.ndarray] = deque(maxlen=longest + 1)

    def command(self, lambda_: np.ndarray) -> None:
        """Note a command just given."""
        self._commands.append(self.scale.to_unit(lambda_))

    def observe(self, lambda_: np.ndarray) -> None:
        """Note the λ (L,) in force in the interval that followed the last command."""
        if len(self._commands) <= self.longest:
            return
        recent = np.array(self._commands)[::-1]  # newest first: delay 0, 1, …
        if np.abs(np.diff(recent, axis=0)).max(initial=0.0) < 10 * _SAME:
            return  # a constant price says nothing
        miss = np.abs(recent - self.scale.to_unit(lambda_)).max(axis=1) > _SAME
        if miss.all():
            return  # not applied at all: a fault, not a delay
        self._misses = _MEMORY * self._misses + miss
        best = int(np.argmin(self._misses))
        if self._misses[best] + 0.5 < self._misses[self.delay]:
            self.delay = best

    def pending(self) -> np.ndarray:
        """Commands given but not yet in force, oldest first, price coordinate (delay, L)."""
        held = list(self._commands)[-self.delay :] if self.delay else []
        return np.array(held).reshape(-1, self.scale.size)
