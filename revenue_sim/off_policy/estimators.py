"""The estimators: each a value and what every logged request adds to its error.

With weights ``w = π(a|s) / p`` of the logged actions and a model q̂:

- ``ips``: mean of ``w·r``; ``snips``: the same over the mean of w.
- ``direct``: mean of ``E_π q̂(s, ·)``; ``doubly_robust``: plus the mean of ``w·(r − q̂)`` (Dudík, Langford & Li 2011).
- ``switch_dr``: doubly robust with w set to 0 where it is above τ (Wang, Agarwal & Dudík 2017).
- ``shrunk_dr``: doubly robust with w shrunk to ``λ·w / (w² + λ)`` (Su, Dimakopoulou, Krishnamurthy & Dudík 2020).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from revenue_sim.off_policy.logged import Logged

STEPS = 20  # values of τ and λ that are compared


@dataclass(frozen=True)
class Found:
    """An estimate and its influence: a request's share of the error times M, mean 0, (M,) float64."""

    value: float
    influence: np.ndarray


def ips(reward: np.ndarray, weight: np.ndarray) -> Found:
    return _mean(weight * reward)


def snips(reward: np.ndarray, weight: np.ndarray) -> Found:
    """A ratio of means; its influence is that of the delta method."""
    total = max(float(weight.sum()), 1e-300)
    value = float(weight @ reward) / total
    return Found(value, weight * (reward - value) * (len(reward) / total))


def direct(logged: Logged) -> Found:
    """Needs the model only; its influence is the sampling of states, not the error of the model."""
    return _mean(_expected(logged))


def doubly_robust(logged: Logged, weight: np.ndarray) -> Found:
    return _mean(_expected(logged) + weight * _residual(logged))


def switch_dr(logged: Logged, weight: np.ndarray) -> Found:
    """τ among quantiles of the weights, and none, by ``least_error``."""
    limits = np.unique(np.quantile(weight, np.linspace(0.5, 1.0, STEPS)))
    return _mean(least_error(logged, weight, (np.where(weight <= limit, weight, 0.0) for limit in limits)))


def shrunk_dr(logged: Logged, weight: np.ndarray) -> Found:
    """λ on a grid around the largest squared weight, and infinite, by ``least_error``."""
    largest = float(weight.max()) ** 2
    shrunk = (strength * weight / (weight**2 + strength) for strength in largest * np.geomspace(1e-4, 1e2, STEPS))
    return _mean(least_error(logged, weight, [*shrunk, weight] if largest > 0 else [weight]))


def least_error(logged: Logged, weight: np.ndarray, rivals: Iterable[np.ndarray]) -> np.ndarray:
    """Terms (M,) of the rival weights with the least estimated mean squared error.

    That is the variance plus the squared bias, where the bias of weights v is estimated by the mean of ``(w − v)·(r − q̂)``.
    Ties: the later rival.
    """
    expected, residual = _expected(logged), _residual(logged)
    best, least = expected, np.inf
    for rival in rivals:
        terms, lost = expected + rival * residual, (weight - rival) * residual
        error = terms.var() / len(terms) + lost.mean() ** 2
        if error <= least:
            best, least = terms, error
    return best


def _expected(logged: Logged) -> np.ndarray:
    """The model's reward under the policy in each request's state, (M,)."""
    assert logged.direct is not None
    return np.asarray((logged.policy * logged.direct).sum(axis=1)[logged.state])


def _residual(logged: Logged) -> np.ndarray:
    assert logged.direct is not None
    return np.asarray(logged.reward - logged.direct[logged.state, logged.joint])


def _mean(terms: np.ndarray) -> Found:
    value = float(terms.mean())
    return Found(value, terms - value)
