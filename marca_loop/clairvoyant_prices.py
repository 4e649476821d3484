"""Prices that only hindsight can name: each minute's traffic, states and costs are known when its price is set.

For a minute that N requests of a pool of states arrive in, the prices solve: mean over the pool of the chosen actions' costs =
what the budget allows per request. A price is 0 where even free computation stays within it.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from awrq_mixer.serving.policy import HullPolicy
from cascade_world.data_centre.world_plant import WorldPlant
from marca_common.protocols import Measurement

_HIGHEST, _ROUNDS, _HALVINGS = 1e6, 40, 26


class Schedule:
    """A controller that reads prices off a list: row t is in force in minute t, ``delay`` minutes after it is named."""

    def __init__(self, prices: np.ndarray, delay: int) -> None:
        """``prices`` (T, D), money per core-millisecond."""
        self.prices, self.delay = prices, delay
        self.lambda_: np.ndarray = prices[min(delay, len(prices) - 1)]

    def step(self, measurement: Measurement) -> np.ndarray:
        """The price that acts ``delay`` minutes after the next minute's start."""
        self.lambda_ = self.prices[min(int(measurement.minute) + 1 + self.delay, len(self.prices) - 1)]
        return self.lambda_


def clairvoyant_prices(plant: WorldPlant, policy: HullPolicy, arrivals: np.ndarray) -> np.ndarray:
    """Prices of every minute (T, D) that put the mean CPU of ``plant`` on its budget, for arrivals (T, I)."""
    allowed = plant.allowed_cost(arrivals.sum(axis=1))  # (T, D)
    prices = np.zeros_like(allowed)
    last = np.zeros(allowed.shape[1])
    for minute in range(len(arrivals)):
        pool = plant.pool(minute)
        last = balance(pool, policy.first, policy.q, policy.c, allowed[minute], last)
        prices[minute] = last
    return prices


@njit(cache=True, nogil=True)
def balance(
    pool: np.ndarray, first: np.ndarray, q: np.ndarray, c: np.ndarray, allowed: np.ndarray, start: np.ndarray
) -> np.ndarray:
    """Prices (D,) at which the mean cost of the pool's best candidates is ``allowed`` (D,), each 0 where free is cheap enough.

    ``pool`` (M,) ids within ``first`` (S + 1,); ``q`` (V,) and ``c`` (V, D) are the policy's candidates. Coordinate-wise
    bisection, repeated because prices act across services.
    """
    price = start.copy()
    for _ in range(_ROUNDS):
        moved = 0.0
        for d in range(len(price)):
            before = price[d]
            price[d] = 0.0
            if _mean_cost(pool, first, q, c, price, d) > allowed[d]:
                price[d] = _bisected(pool, first, q, c, price, d, allowed[d], before)
            moved = max(moved, abs(price[d] - before) / max(price[d], before, 1e-12))
        if moved < 1e-3:
            break
    return price


@njit(cache=True, nogil=True)
def _bisected(
    pool: np.ndarray, first: np.ndarray, q: np.ndarray, c: np.ndarray, price: np.ndarray, d: int, allowed: float,
    before: float,
) -> float:  # fmt: skip
    """The price of service ``d`` at which its mean cost comes down to ``allowed``; bracketed from ``before``."""
    high = max(before, 1e-9) * 1.1
    price[d] = high
    while _mean_cost(pool, first, q, c, price, d) > allowed and high < _HIGHEST:
        high *= 2.0
        price[d] = high
    low = high / 2.0
    price[d] = low
    while low > 1e-12 and _mean_cost(pool, first, q, c, price, d) <= allowed:
        high = low
        low /= 2.0
        price[d] = low
    for _ in range(_HALVINGS):
        if high - low < 1e-3 * high:
            break
        price[d] = 0.5 * (low + high)
        if _mean_cost(pool, first, q, c, price, d) > allowed:
            low = price[d]
        else:
            high = price[d]
    return high


@njit(cache=True, nogil=True)
def _mean_cost(pool: np.ndarray, first: np.ndarray, q: np.ndarray, c: np.ndarray, price: np.ndarray, d: int) -> float:
    total = 0.0
    for i in range(len(pool)):
        best, where = -np.inf, first[pool[i]]
        for k in range(first[pool[i]], first[pool[i] + 1]):
            score = q[k]
            for j in range(len(price)):
                score -= price[j] * c[k, j]
            if score > best:
                best, where = score, k
        total += c[where, d]
    return total / len(pool)
