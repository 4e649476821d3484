"""Have these numbers any spread, and is it the spread of more than one of them?

Every limit is relative to the numbers themselves: rounding leaves 4e-15 of a constant 14.62, and revenue may be counted in
millionths or in millions.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction

import numpy as np

from marca_common.errors import UserError

ROUNDING = 1e-12  # a spread below this share of the largest value is what rounding leaves of a constant
_SINGLE = np.finfo(np.float32)
_FEW = 0.01  # share of the values that may be extreme
_DROWNED = 1e-6  # of the largest distance: what single precision hardly resolves


def is_flat(values: np.ndarray, tolerance: float = ROUNDING) -> bool:
    """True where the values (any shape) differ by no more than ``tolerance`` times the largest of them; none are flat."""
    values = np.asarray(values)
    if values.size == 0:
        return True
    low, high = float(values.min()), float(values.max())
    return high - low <= tolerance * max(abs(low), abs(high))


@dataclass(frozen=True)
class Moments:
    """Mean, spread and range of numbers; those of parts add up to those of the whole, exactly the same in any order.

    Sums are kept as fractions whose denominators are powers of two: adding them rounds nothing.
    """

    count: int
    total: Fraction
    squares: Fraction
    low: float
    high: float

    @classmethod
    def of(cls, values: np.ndarray) -> Moments:
        """Of finite numbers (M,)."""
        if not len(values):
            return cls(0, Fraction(0), Fraction(0), np.inf, -np.inf)
        mean = float(values.mean())
        about = Fraction(float(np.square(values - mean).sum()))
        rest = Fraction(float((values - mean).sum()))  # what rounding left of the mean, of all rows together
        total = len(values) * Fraction(mean) + rest
        squares = about + 2 * Fraction(mean) * rest + len(values) * Fraction(mean) ** 2
        return cls(len(values), total, squares, float(values.min()), float(values.max()))

    def __add__(self, other: Moments) -> Moments:
        low, high = min(self.low, other.low), max(self.high, other.high)
        return Moments(self.count + other.count, self.total + other.total, self.squares + other.squares, low, high)

    @property
    def mean(self) -> float:
        """Of at least one number."""
        return float(self.total / self.count)

    @property
    def spread(self) -> float:
        """Standard deviation, of all numbers there are (no degree of freedom is taken off)."""
        variance = self.squares / self.count - (self.total / self.count) ** 2
        return math.sqrt(max(variance, Fraction(0)))


def require_usable(values: np.ndarray, place: str) -> None:
    """A UserError where single precision cannot hold the values (M,), or a few of them drown all others.

    Drowned: the 1 % farthest from the median (at least one value) lie a million times as far as any other that differs
    from it. What is learned from such numbers is learned from those few rows.
    """
    values = np.asarray(values, np.float64)
    largest = float(np.abs(values).max(initial=0.0))
    if not largest < float(_SINGLE.max) / 1e6:  # sums over rows must fit, too
        raise UserError(f"{place}: got {_extreme(values)}; expected numbers below {float(_SINGLE.max) / 1e6:.0e}")
    if 0 < largest < float(_SINGLE.tiny) * 1e6:
        raise UserError(f"{place}: the largest value is {largest:g}; too small for single precision, use a larger unit")
    middle = float(np.median(values)) if len(values) else 0.0
    distance = np.abs(values - middle)
    distance = np.sort(distance[distance > ROUNDING * abs(middle)])
    others = distance[: len(distance) - max(1, round(_FEW * len(distance)))]
    if len(others) and others[-1] < _DROWNED * distance[-1]:
        raise UserError(
            f"{place}: got {_extreme(values)}, a million times as far from the median as "
            f"{1 - _FEW:.0%} of the values; mend or leave out the row, or use the column's logarithm"
        )


def require_earned(values: np.ndarray, place: str) -> None:
    """A UserError where amounts (M,) of at least 0 are all 0, or cannot be learned from together (``require_usable``)."""
    require_some(float(np.max(values, initial=0.0)), len(values), place)
    require_usable(values, place)


def require_some(largest: float, rows: int, place: str) -> None:
    """A UserError where the largest of the amounts of at least 0 in ``rows`` rows is 0."""
    if largest <= 0:
        raise UserError(f"{place}: is 0 in all {rows} rows; expected some above 0, or there is nothing to learn")


def _extreme(values: np.ndarray) -> str:
    return f"{values[np.argmax(np.abs(values - np.median(values)))]:g}"
