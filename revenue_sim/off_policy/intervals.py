"""Intervals for means of skewed, heavy-tailed and sparse terms, and what tells when there can be none.

Student's interval misses on one side: a log that has not seen the rare large payment has a mean that is too low *and* a
spread that is too small. Three things are added here.

1. Skewness: the quantiles of Hall (1992, "On the removal of skewness by transformation"), where they reach further than the normal ones.
2. The unseen: what happens ``ln(2/δ)/2`` times in M requests on average stays unseen with probability √(δ/2), one in six at δ = .05.
   Payments of that rate, as large as the largest term seen, would add ``ln(2/δ)/2·max/M``. The interval reaches that much further.
   The half was chosen on development worlds.
3. The missed: large payments that the log saw, and by chance not with the actions of the policy (``missed_payments``).
"""

from __future__ import annotations

import numpy as np
from scipy.stats import norm

NO_SPREAD = 1e-6  # of the scale: smaller differences are rounding
TAIL_SHARE = 0.1  # of the paying requests: the tail that Hill's estimator looks at
TAIL_ROWS = 10  # at least


def reach(influence: np.ndarray, confidence: float, scale: float) -> tuple[float, float] | None:
    """How far an interval goes below and above its estimate; None where all requests say the same.

    ``influence`` (M,): mean 0, as in ``estimators.Found``. ``scale``: the size of what was averaged.
    """
    largest = float(np.abs(influence).max())
    if largest <= NO_SPREAD * scale:
        return None
    terms = influence / largest  # no overflow in the third power
    terms = terms - terms.mean()
    rows, spread = len(terms), float(terms.std())
    skewness = float((terms**3).mean()) / spread**3 / np.sqrt(rows)
    z = float(norm.ppf(0.5 + confidence / 2))
    error = float(terms.std(ddof=1)) / np.sqrt(rows)
    unseen = np.log(2 / (1 - confidence)) / 2 / rows
    below = max(z, hall_quantile(z, skewness)) * error - unseen * float(terms.min())
    above = max(z, -hall_quantile(-z, skewness)) * error + unseen * float(terms.max())
    return float(below * largest), float(above * largest)


def missed_payments(reward: np.ndarray, weight: np.ndarray, confidence: float) -> float:
    """What the policy may have missed of the log's rarest payments, money per request; ``reward`` (M,) counts where above 0.

    Rare are the largest ``ln(2/δ)/m`` of the payments, with m the effective number of them that the policy sees: so few may all
    be missed. Returned is how much less the policy got from them than a payment of the log did on average. As m grows this goes to 0.
    """
    paid = reward > 0
    size, seen = reward[paid], weight[paid]
    effective, total = effective_rows(seen), float(seen.sum())
    if total == 0:
        return 0.0
    share = min(1.0, float(np.log(2 / (1 - confidence))) / effective)
    rare = np.where(size > np.quantile(size, 1 - share), size, 0.0)
    return max(0.0, float(rare.mean()) - float(seen @ rare) / total) * total / len(reward)


def hall_quantile(z: float, skewness: float) -> float:
    """Quantile of a studentised mean; ``skewness`` is that of the terms over √M. Inverse of Hall's cubic, monotone."""
    if abs(skewness) < 1e-9:
        return z
    return float(3 / skewness * (np.cbrt(1 + skewness * (z - skewness / 6)) - 1))


def effective_rows(weight: np.ndarray) -> float:
    """Kish's effective sample size, (Σw)² / Σw²."""
    return float(weight.sum() ** 2 / max((weight**2).sum(), 1e-300))


def tail_index(reward: np.ndarray) -> float | None:
    """Hill's (1975) index α of the largest tenth of the rewards that are not 0, at least ten of them.

    Above 2 a power tail of that index has a variance, above 1 a mean. None: fewer than 20 such rewards, or no tail (the largest
    are all equal).
    """
    paid = np.sort(np.abs(reward[reward != 0]))[::-1]
    if len(paid) < 2 * TAIL_ROWS:
        return None
    count = max(TAIL_ROWS, round(TAIL_SHARE * len(paid)))
    excess = float(np.log(paid[:count] / paid[count]).mean())
    return 1 / excess if excess > 1e-9 else None
