"""Off-policy estimates and their interval by definition: one request at a time, derivatives and roots by numbers."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
from scipy.optimize import brentq
from scipy.stats import norm

Rows = Sequence[int]


def estimates(
    policy: np.ndarray,
    state: Rows,
    joint: Rows,
    reward: Sequence[float],
    propensity: Sequence[float],
    model: np.ndarray,
) -> dict[str, Callable[[Sequence[float]], float]]:
    """Each estimate as a function of how often every request counts."""
    rows = range(len(reward))
    weight = [policy[state[i], joint[i]] / propensity[i] for i in rows]
    expected = [sum(policy[state[i], a] * model[state[i], a] for a in range(policy.shape[1])) for i in rows]
    residual = [reward[i] - model[state[i], joint[i]] for i in rows]

    def mean(terms: Sequence[float]) -> Callable[[Sequence[float]], float]:
        return lambda count: sum(count[i] * terms[i] for i in rows) / sum(count)

    def ratio(count: Sequence[float]) -> float:
        paid = sum(count[i] * weight[i] * reward[i] for i in rows)
        return float(paid / sum(count[i] * weight[i] for i in rows))

    return {
        "ips": mean([weight[i] * reward[i] for i in rows]),
        "snips": ratio,
        "direct": mean(expected),
        "doubly_robust": mean([expected[i] + weight[i] * residual[i] for i in rows]),
    }


def influence(value: Callable[[Sequence[float]], float], rows: int, step: float = 1e-6) -> list[float]:
    """Derivative of an estimate by how often a request counts, times the number of requests."""
    found = []
    for i in range(rows):
        more, less = [1.0] * rows, [1.0] * rows
        more[i], less[i] = 1 + step, 1 - step
        found.append(rows * (value(more) - value(less)) / (2 * step))
    return found


def reach(terms: Sequence[float], confidence: float) -> tuple[float, float]:
    """How far the interval goes below and above."""
    rows, mean = len(terms), sum(terms) / len(terms)
    second = sum((x - mean) ** 2 for x in terms)
    third = sum((x - mean) ** 3 for x in terms) / rows / (second / rows) ** 1.5
    error = math.sqrt(second / (rows - 1) / rows)
    slope = third / math.sqrt(rows)
    z = norm.ppf(0.5 + confidence / 2)
    unseen = math.log(2 / (1 - confidence)) / 2 / rows

    def quantile(p: float) -> float:
        return float(
            brentq(lambda t: t + slope * t**2 / 3 + slope**2 * t**3 / 27 + slope / 6 - p, -1e6, 1e6, xtol=1e-13)
        )

    below = max(z, quantile(z)) * error + unseen * (mean - min(terms))
    above = max(z, -quantile(-z)) * error + unseen * (max(terms) - mean)
    return below, above


def missed(reward: Sequence[float], weight: Sequence[float], confidence: float) -> float:
    """What rare payments of the log would add if the policy got them as often as a payment of the log is one."""
    payments = [(r, w) for r, w in zip(reward, weight) if r > 0]
    total = sum(w for _, w in payments)
    effective = total**2 / sum(w**2 for _, w in payments)
    share = min(1.0, math.log(2 / (1 - confidence)) / effective)
    ordered = sorted(r for r, _ in payments)
    place = (1 - share) * (len(ordered) - 1)  # linear between order statistics
    low = math.floor(place)
    bound = ordered[low] + (place - low) * (ordered[min(low + 1, len(ordered) - 1)] - ordered[low])
    log_gets = sum(r for r, _ in payments if r > bound) / len(payments)
    policy_gets = sum(w * r for r, w in payments if r > bound) / total
    return max(0.0, log_gets - policy_gets) * total / len(reward)
