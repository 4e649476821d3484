"""What a policy would have earned: all estimators on one log, each with an interval that holds, or the reason for none.

Three questions in this order. Does the log support the policy? Then there are values. Can its payments be averaged? Then there
are intervals. Is an estimator biased by construction? Then its interval is the doubly robust one, stretched to hold its own
value. The difference of the two is its bias, and the log knows that bias no better.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike

from marca_common.errors import UserError
from revenue_sim.off_policy import estimators
from revenue_sim.off_policy.estimators import Found
from revenue_sim.off_policy.intervals import effective_rows, missed_payments, reach, tail_index
from revenue_sim.off_policy.logged import Logged, checked
from revenue_sim.off_policy.support import LEAST_ROWS, missing_support, no_interval

WEIGHTED = ("ips", "snips")
BIASED = ("direct", "switch_dr", "shrunk_dr")
WITH_MODEL = ("direct", "doubly_robust", "switch_dr", "shrunk_dr")
NO_SPREAD = "no interval: all requests say the same, which is no proof that others would"
SAMPLING_ONLY = (
    "the interval is for the sampling of requests only; it leaves out the model's error, which needs propensities"
)
UNCHECKED = "no interval: the log cannot tell the model's error"


@dataclass(frozen=True)
class Estimate:
    """Mean revenue per request of a policy and its difference to the log's, or the reason why the log cannot tell."""

    method: str
    value: float | None
    low: float | None
    high: float | None
    effective_rows: float  # (Σw)² / Σw²; without propensities: rows
    warning: str | None
    uplift: float | None = None  # value − mean reward of the log
    uplift_low: float | None = None  # an interval of its own, from paired differences
    uplift_high: float | None = None
    largest_weight: float | None = None  # share of the largest weight in their sum
    tail_index: float | None = None  # Hill's α of the log's rewards; None: no tail, or too few of them


def estimate(
    policy: ArrayLike,
    state: ArrayLike,
    joint: ArrayLike,
    reward: ArrayLike,
    propensity: ArrayLike | None,
    direct: ArrayLike | None = None,
    *,
    confidence: float = 0.95,
    least_rows: float = LEAST_ROWS,
) -> dict[str, Estimate]:
    """Estimates ``ips``, ``snips`` and, with a model ``direct`` (S, A), ``direct``, ``doubly_robust``, ``switch_dr``, ``shrunk_dr``.

    ``policy`` (S, A) probabilities; per logged request: ``state`` row (M,), ``joint`` action (M,), ``reward`` (M,) and ``propensity``
    (M,) of the logged action, or None. ``least_rows``: effective rows below which only the direct method has a value.
    Raises UserError for arrays that do not fit together, or hold what they should not.
    """
    if not 0 < confidence < 1:
        raise UserError(f"confidence: got {confidence}; expected a number above 0, below 1")
    logged = checked(policy, state, joint, reward, propensity, direct)
    tail = tail_index(logged.reward)
    if logged.weight is None:
        blank = Estimate("", None, None, None, float(len(logged.reward)), None, tail_index=tail)
        return _model_only(logged, blank, "the log has no propensities", confidence)
    effective = effective_rows(logged.weight)
    largest = float(logged.weight.max() / max(logged.weight.sum(), 1e-300))
    blank = Estimate("", None, None, None, effective, None, largest_weight=largest, tail_index=tail)
    reason = missing_support(logged.weight, effective, least_rows)
    if reason is not None:
        return _model_only(logged, blank, reason, None)
    return _weighted(logged, logged.weight, blank, confidence)


def _model_only(logged: Logged, blank: Estimate, reason: str, confidence: float | None) -> dict[str, Estimate]:
    """No weights to go by: a reason for each method but the direct one."""
    names = WEIGHTED if logged.direct is None else WEIGHTED + WITH_MODEL
    found = {name: replace(blank, method=name, warning=f"no estimate: {reason}") for name in names}
    if logged.direct is not None:
        found["direct"] = _direct_alone(logged, blank, reason, confidence)
    return found


def _direct_alone(logged: Logged, blank: Estimate, reason: str, confidence: float | None) -> Estimate:
    """The direct method on its own. ``confidence`` None: there are propensities, and they say that the model is unchecked."""
    found = estimators.direct(logged)
    inside = _around(found, confidence, abs(found.value)) if confidence is not None else None
    alone = _filled(blank, "direct", found.value, float(logged.reward.mean()), inside, None)
    if confidence is not None:
        return replace(alone, warning=SAMPLING_ONLY if inside is not None else NO_SPREAD)
    return replace(alone, warning=f"{UNCHECKED}: {reason}")


def _weighted(logged: Logged, weight: np.ndarray, blank: Estimate, confidence: float) -> dict[str, Estimate]:
    found = {"ips": estimators.ips(logged.reward, weight), "snips": estimators.snips(logged.reward, weight)}
    if logged.direct is not None:
        found |= {
            "direct": estimators.direct(logged),
            "doubly_robust": estimators.doubly_robust(logged, weight),
            "switch_dr": estimators.switch_dr(logged, weight),
            "shrunk_dr": estimators.shrunk_dr(logged, weight),
        }
    reason = no_interval(logged.reward, weight, blank.tail_index)
    if reason is not None:
        mean = float(logged.reward.mean())
        blank = replace(blank, warning=f"no interval: {reason}")
        return {name: _filled(blank, name, one.value, mean, None, None) for name, one in found.items()}
    missed = tuple(missed_payments(side, weight, confidence) for side in (-logged.reward, logged.reward))
    return {name: _one(name, found, logged.reward, blank, confidence, missed) for name in found}


def _one(
    name: str,
    found: dict[str, Found],
    reward: np.ndarray,
    blank: Estimate,
    confidence: float,
    missed: tuple[float, ...],
) -> Estimate:
    own, mean, scale = found[name].value, float(reward.mean()), float(np.abs(reward).max())
    base = found["doubly_robust" if name in BIASED else name]
    inside = _around(base, confidence, scale, missed)
    change = _around(Found(base.value - mean, base.influence - (reward - mean)), confidence, scale, missed)
    one = _filled(blank, name, own, mean, inside, change)
    if inside is None:
        return replace(one, warning=NO_SPREAD)
    if name in BIASED and not inside[0] <= own <= inside[1]:
        return replace(
            one, warning=f"outside the doubly robust interval, {inside[0]:g} to {inside[1]:g}: biased by its model"
        )
    return one


def _around(
    found: Found, confidence: float, scale: float, missed: tuple[float, ...] = (0.0, 0.0)
) -> tuple[float, float] | None:
    sides = reach(found.influence, confidence, scale)
    return None if sides is None else (found.value - sides[0] - missed[0], found.value + sides[1] + missed[1])


def _filled(
    blank: Estimate,
    name: str,
    value: float,
    mean: float,
    inside: Iterable[float] | None,
    change: Iterable[float] | None,
) -> Estimate:
    """``blank`` with a value, its uplift and their intervals, stretched to hold them."""
    low, high = _ends(inside, value)
    uplift_low, uplift_high = _ends(change, value - mean)
    return replace(
        blank,
        method=name,
        value=value,
        low=low,
        high=high,
        uplift=value - mean,
        uplift_low=uplift_low,
        uplift_high=uplift_high,
    )


def _ends(interval: Iterable[float] | None, value: float) -> tuple[float | None, float | None]:
    return (None, None) if interval is None else (min(value, *interval), max(value, *interval))
