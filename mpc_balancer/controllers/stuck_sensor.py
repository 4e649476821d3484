"""Is a sensor stuck, or is the load just steady? Told per service from how often its readings repeat when all is well."""

from __future__ import annotations

import numpy as np

_RARE = 1e-4  # a row of equal readings less likely than this is no luck
_REPEATS = 0.01  # presumed share of repeated readings
_REPEATS_WHOLE = 0.3  # the same of whole numbers, as a rounding sensor gives
_PRESUMED = 2.0  # readings that this presumption counts as
_MEMORY = 0.98  # how fast old evidence fades, per change of the reading
_FULL = 99.9  # percent; a machine may truly stay at its limit, and at 0 without traffic


class StuckSensors:
    """Follows CPU readings (D,); one is stuck when its row of repeats is longer than its own past makes likely."""

    def __init__(self, services: int, frozen_minutes: int) -> None:
        self.least = frozen_minutes - 1  # repeats before a sensor can be called stuck
        self._last, self.run = np.full(services, np.nan), np.zeros(services, np.int64)  # run: repeats so far
        self.stuck = np.zeros(services, bool)
        self._repeats, self._changes = np.zeros(services), np.zeros(services)
        self._whole = np.ones(services, bool)  # whether all readings so far were whole numbers

    def update(self, cpu: np.ndarray) -> np.ndarray:
        """Take in readings (D,), NaN where lost; returns where they are stuck, bool (D,)."""
        usual = (cpu > 0) & (cpu < _FULL)
        same = usual & (cpu == self._last)
        self._whole &= ~np.isfinite(cpu) | (cpu == np.round(cpu))
        self._learn(~same & usual & np.isfinite(self._last), np.abs(cpu - self._last) <= 1)
        self.run = np.where(same, self.run + 1, 0)
        self._last = cpu.copy()
        self.stuck = np.asarray(self.run >= self._needed())
        return self.stuck

    def _needed(self) -> np.ndarray:
        """Repeats in a row (D,) that are too many to be luck."""
        presumed = np.where(self._whole, _REPEATS_WHOLE, _REPEATS)
        share = (self._repeats + presumed * _PRESUMED) / (self._repeats + self._changes + _PRESUMED)
        return np.asarray(np.maximum(np.log(_RARE) / np.log(share), self.least))

    def _learn(self, changed: np.ndarray, little: np.ndarray) -> None:
        """Count the repeats of rows that ended: those too short to be stuck, and long ones of a rounding sensor that ended with
        the least step. A stuck sensor comes back with a leap."""
        believed = (self.run < self._needed()) | (self._whole & little)
        keep = np.where(changed, _MEMORY, 1.0)
        self._repeats = keep * self._repeats + np.where(changed & believed, self.run, 0)
        self._changes = keep * self._changes + changed
