"""λ's box and its coordinate: λ spans orders of magnitude, so solvers and controllers work on a log scale in [0, 1]."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from marca_common.errors import UserError


@dataclass(frozen=True)
class PriceScale:
    """u = log(1 + λ/ref) / log(1 + high/ref), per price; nothing here assumes a currency or a typical size."""

    low: np.ndarray  # (L,) money per core-ms
    high: np.ndarray  # (L,)
    ref: np.ndarray  # (L,) where the coordinate turns from linear to logarithmic

    def __post_init__(self) -> None:
        ends = np.all(np.isfinite(self.high)) and np.all(self.high > self.low) and np.all(self.low >= 0)
        if not (ends and np.all(self.ref > 0) and np.all(np.isfinite(self.ref))):
            raise UserError(f"λ's box: got low {self.low.tolist()}, high {self.high.tolist()}; expected 0 ≤ low < high")

    @classmethod
    def from_data(cls, prices: np.ndarray, high: Sequence[float] | None = None, margin: float = 1.0) -> PriceScale:
        """Box and scale from prices (T, L), ref at the median positive one.

        The box goes up to ``high``, or to the largest price seen times ``margin``; outliers do not count.
        """
        seen = np.array([without_outliers(column) for column in np.asarray(prices, np.float64).T])
        top = seen * margin if high is None else np.asarray(high, np.float64)
        if top.shape != (prices.shape[1],):
            raise UserError(f"price_high: got {top.size} values; expected one per price, {prices.shape[1]}")
        if not np.all(top > 0):
            raise UserError("λ's box: a price in the table is never above 0; give price_high")
        positive = np.where(prices > 0, prices, np.nan)
        median = np.array([np.nanmedian(c) if np.isfinite(c).any() else np.nan for c in positive.T])
        ref = np.clip(np.where(np.isfinite(median), median, top / 10), top / 1000, top)
        return cls(np.zeros_like(top), top, ref)

    @property
    def size(self) -> int:
        """Number of prices L."""
        return len(self.high)

    @property
    def unit_low(self) -> np.ndarray:
        """Lower end of the box in the coordinate, (L,); the upper end is 1."""
        return self.to_unit(self.low)

    def to_unit(self, prices: np.ndarray) -> np.ndarray:
        """λ (…, L) → u (…, L)."""
        return np.asarray(np.log1p(np.asarray(prices) / self.ref) / np.log1p(self.high / self.ref))

    def from_unit(self, unit: np.ndarray) -> np.ndarray:
        """u (…, L) → λ (…, L), inside the box to the last bit."""
        prices = self.ref * np.expm1(np.asarray(unit, np.float64) * np.log1p(self.high / self.ref))
        return np.asarray(np.clip(prices, self.low, self.high))

    def clip(self, prices: np.ndarray) -> np.ndarray:
        """Finite prices inside the box; NaN goes to the upper end, the safe side."""
        prices = np.asarray(prices, np.float64)
        return np.clip(np.where(np.isnan(prices), self.high, prices), self.low, self.high)

    def to_dict(self) -> dict[str, list[float]]:
        """Plain values for a checkpoint."""
        return {"low": self.low.tolist(), "high": self.high.tolist(), "ref": self.ref.tolist()}

    @classmethod
    def from_dict(cls, values: dict[str, list[float]]) -> PriceScale:
        """The scale that ``to_dict`` described."""
        return cls(*(np.array(values[name], np.float64) for name in ("low", "high", "ref")))


_OUTLIER = 3.0  # prices above this many times the 99.9 % quantile are outliers


def without_outliers(prices: np.ndarray) -> float:
    """The largest of prices (T,) that is no outlier: one slip of a sensor must not stretch λ's box."""
    known = prices[np.isfinite(prices)]
    limit = _OUTLIER * np.quantile(known, 0.999, method="lower")
    return float(known[known <= limit].max() if limit > 0 else known.max())
