"""How late commands act: learnt from the λ that the plant reports as being in force, or else from what CPU does.

An adapter that echoes each command reports a delay of 0, whatever the truth. So, while reports say 0, a model is asked what CPU
would have been had commands acted 1, 2, … intervals late; a delay that foretells CPU much better is taken for the true one.
"""

from __future__ import annotations

from collections import deque

import numpy as np

from mpc_balancer.price_scale import PriceScale
from mpc_balancer.stateful import Stateful

_MEMORY = 0.85  # how fast old evidence fades
_SAME = 1e-4  # price coordinates closer than this are the same price
_SHARE, _IN_A_ROW = 0.1, 10  # smoothing of surprises, and how many intervals another delay must lead
_BETTER, _SMALL = 0.5, 0.06**2  # leads: squared surprise below this share of the present one's, and below this


class DelayDetector(Stateful):
    """Compares each reported λ with the commands of 0, 1, … intervals earlier; the best match is the delay."""

    STATE = ["reported", "inferred", "_surprise", "_compared", "_led", "_misses", "_commands"]

    def __init__(self, scale: PriceScale, longest: int, declared: int | None = None) -> None:
        """``longest``: the latest action that is looked for; a ``declared`` delay is taken for true instead."""
        self.scale, self.declared = scale, declared
        self.longest = longest if declared is None else declared
        longest = self.longest
        self.reported, self.inferred = 0, 0
        self._surprise, self._compared, self._led = np.zeros(longest + 1), 0, 0
        self._misses = np.zeros(longest + 1)
        self._commands: deque[np.ndarray] = deque(maxlen=longest + 1)

    @property
    def delay(self) -> int:
        """Intervals by which commands act late."""
        return (self.reported or self.inferred) if self.declared is None else self.declared

    def command(self, lambda_: np.ndarray) -> None:
        """Note a command just given."""
        self._commands.append(self.scale.to_unit(lambda_))

    def replace(self, lambda_: np.ndarray) -> None:
        """Somebody else set another price than the last command."""
        self._commands[-1] = self.scale.to_unit(lambda_)

    def observe(self, lambda_: np.ndarray) -> None:
        """Note the λ (L,) in force in the interval that followed the last command."""
        if self.declared is not None or len(self._commands) <= self.longest:
            return
        recent = np.array(self._commands)[::-1]  # newest first: delay 0, 1, …
        if np.abs(np.diff(recent, axis=0)).max(initial=0.0) < 10 * _SAME:
            return  # a constant price says nothing
        miss = np.abs(recent - self.scale.to_unit(lambda_)).max(axis=1) > _SAME
        if miss.all():
            return  # not applied at all: a fault, not a delay
        self._misses = _MEMORY * self._misses + miss
        best = int(np.argmin(self._misses))
        if self._misses[best] + 0.5 < self._misses[self.reported]:
            self.reported = best

    def candidates(self) -> np.ndarray:
        """Commands (longest + 1, L) that would be in force at delays of 0, 1, …, price coordinate; none while these can't be told apart
        or reports show a delay."""
        recent = np.array(self._commands)[::-1].reshape(-1, self.scale.size)
        if (
            self.declared is not None
            or self.reported
            or len(recent) <= self.longest
            or np.ptp(recent, axis=0).max(initial=0.0) < 10 * _SAME
        ):
            return recent[:0]
        return recent

    def compare(self, surprise: np.ndarray) -> None:
        """Take in how far off CPU (squared log error) was from what each of ``candidates`` (longest + 1,) made expect."""
        self._compared += 1
        self._surprise += max(_SHARE, 1 / self._compared) * (np.minimum(surprise, 1.0) - self._surprise)
        best = int(np.argmin(self._surprise))
        leads = self._surprise[best] < min(_BETTER * self._surprise[self.inferred], _SMALL)
        self._led = self._led + 1 if leads else 0
        if self._led >= _IN_A_ROW:
            self.inferred, self._led = best, 0

    def acting(self, lambda_: np.ndarray) -> np.ndarray:
        """λ (L,) that acted in the interval just ended, where ``lambda_`` was reported."""
        late = self.inferred if self.declared is None else self.declared
        if self.reported or not late or len(self._commands) <= late:
            return lambda_
        return self.scale.from_unit(self._commands[-1 - late])

    def pending(self) -> np.ndarray:
        """Commands given but not yet in force, oldest first, price coordinate (delay, L)."""
        held = list(self._commands)[-self.delay :] if self.delay else []
        return np.array(held).reshape(-1, self.scale.size)
