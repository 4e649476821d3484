"""A period's budget spent on a stream of requests, none of which is known before it comes.

The period has intervals. Each interval has one price λ, set from what came before; a request takes ``argmax Q − λC`` at once. The
budget is hard: a request takes the dearest action below the one that λ wants, where that one would use what is set aside to serve
the requests still expected at their cheapest. One whose cheapest action would exceed the budget is refused. How λ follows the
stream is a ``Pricing``; ``PrimalDual`` is ours, ``Resolving`` and ``Constant`` are its rivals.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numba import njit

from marca_common.arrays import require_range, require_shape
from marca_common.errors import UserError
from marca_common.hull_shards import Hulls
from revenue_sim.checks import check_budget

WARM = 0.01  # share of the expected requests, the first, that the first price is found from
STEP = 1.0  # of ``PrimalDual``; chosen on development seeds by benchmarks.online_lambda --tune
WINDOW = 1000  # requests that ``Resolving`` looks back on; chosen there, too
MOST = 1.0  # largest change of ln λ in one interval


class Pricing(Protocol):
    """Sets the price of the next interval."""

    lambda_: float  # money per unit of cost

    def after(self, seen: np.ndarray, spent: float, planned: float, per_request: float) -> None:
        """Learn from an interval.

        ``seen``: hulls of all requests so far, as rows, the latest last. ``spent``: what the interval cost; ``planned``: what an even
        pace would have spent; ``per_request``: what is left per request that is still expected.
        """


@dataclass
class Constant:
    """The first price for ever."""

    lambda_: float

    def after(self, seen: np.ndarray, spent: float, planned: float, per_request: float) -> None:
        """Learns nothing."""


@dataclass
class PrimalDual:
    """Mirror descent on the dual: λ grows while more is spent than an even pace allows, and falls while less is."""

    lambda_: float
    step: float = STEP

    def after(self, seen: np.ndarray, spent: float, planned: float, per_request: float) -> None:
        """λ · exp(step · (spent / planned − 1)), the change of ln λ bounded."""
        excess = spent / planned - 1.0 if planned > 0 else math.inf
        self.lambda_ *= math.exp(min(max(self.step * excess, -MOST), MOST))


@dataclass
class Resolving:
    """The exact price of the latest requests at the pace that is left, anew after each interval."""

    lambda_: float
    hulls: Hulls
    window: int = WINDOW

    def after(self, seen: np.ndarray, spent: float, planned: float, per_request: float) -> None:
        """Solve the window."""
        self.lambda_ = exact_price(self.hulls, seen[-self.window :], per_request)


@dataclass(frozen=True)
class StreamResult:
    """What a stream earned."""

    value: float
    cost: float  # never above the budget
    prices: np.ndarray  # float64 (intervals after the warm start,): λ of each
    lowered: int  # requests whose action was lowered to keep the budget
    refused: int  # requests that not even the cheapest action was left for


def serve_stream(
    hulls: Hulls,
    rows: np.ndarray,
    ends: np.ndarray,
    forecast: np.ndarray,
    budget: float,
    pricing: Callable[[float], Pricing],
) -> StreamResult:
    """Serve the requests ``rows`` (N,), places in ``hulls``, in their order.

    ``ends`` (T,): requests that have come by the end of each interval, rising to N; ``forecast`` (T,): how many were expected to.
    What is still expected is the forecast's, times how many have come for each that was expected. ``budget``: total cost of the
    period. The first requests (``WARM``) have no price yet: each takes the dearest action within an even share of the budget. The
    exact price of these requests is the first one, and what ``pricing`` begins with.

    Raises UserError for arrays that do not fit.
    """
    budget, forecast = check_budget(budget), np.asarray(forecast, np.float64)
    _check(hulls, rows, ends, forecast)
    arrays, state, expected = (hulls.first, hulls.c, hulls.q, rows), np.zeros(5), float(forecast[-1])
    warm, even = min(max(int(WARM * expected), 1), len(rows)), budget / expected
    _serve(*arrays, 0, warm, 0.0, even, budget, expected, state)
    price = pricing(exact_price(hulls, rows[:warm], even))
    prices, start = [], warm
    for end, planned in zip(ends[ends > warm], forecast[ends > warm]):
        before, left = state[0], _left(budget, state[0], expected, start)
        _serve(*arrays, start, end, price.lambda_, math.inf, budget, expected, state)
        prices.append(price.lambda_)
        expected = forecast[-1] * end / planned
        price.after(rows[:end], state[0] - before, left * (end - start), _left(budget, state[0], expected, end))
        start = end
    return StreamResult(float(state[1]), float(state[0]), np.array(prices), int(state[3]), int(state[4]))


def exact_price(hulls: Hulls, rows: np.ndarray, per_request: float) -> float:
    """λ where the linear relaxation of these requests meets a budget; within the slopes that they have.

    0 only where no request has a choice.
    """
    size = np.diff(hulls.first)[rows]
    at = np.repeat(hulls.first[rows] - np.concatenate([[0], np.cumsum(size)[:-1]]), size) + np.arange(size.sum())
    inside = np.ones(len(at), bool)
    inside[np.cumsum(size) - 1] = False
    edge = at[inside]
    if not len(edge):
        return 0.0
    dc, dq = (one[edge + 1].astype(np.float64) - one[edge] for one in (hulls.c, hulls.q))
    order = np.argsort(-dq / dc, kind="stable")
    reached = float(hulls.c[hulls.first[rows]].sum(dtype=np.float64)) + np.cumsum(dc[order])
    place = min(int(np.searchsorted(reached, per_request * len(rows), side="right")), len(order) - 1)
    return float((dq / dc)[order[place]])


def _check(hulls: Hulls, rows: np.ndarray, ends: np.ndarray, forecast: np.ndarray) -> None:
    require_shape("rows", rows, (None,))
    require_range("rows", rows, len(hulls.first) - 1)
    require_shape("forecast", forecast, ends.shape)
    for name, counts in (("ends", ends), ("forecast", forecast)):
        if not (len(counts) and counts[0] >= 0 and (np.diff(counts) >= 0).all() and 0 < counts[-1] < math.inf):
            raise UserError(
                f"{name}: got {counts.tolist()!s:.60}; expected numbers of requests, rising to at least one"
            )
    if ends[-1] != len(rows) or ((forecast == 0) & (ends > 0)).any():
        raise UserError(
            f"ends: got {ends.tolist()!s:.60}; expected {len(rows)} in the end, and none where none are forecast"
        )


def _left(budget: float, spent: float, expected: float, served: int) -> float:
    """Budget per request that is still expected; at the end, as if one were."""
    return (budget - spent) / max(expected - served, 1)


@njit(nogil=True, cache=True)
def _serve(
    first: np.ndarray, c: np.ndarray, q: np.ndarray, rows: np.ndarray, start: int, stop: int, price: float, most: float,
    budget: float, expected: float, state: np.ndarray,
) -> None:  # fmt: skip
    """Serve requests ``start`` … ``stop`` at a price, each for at most ``most``.

    ``state`` (5,): spent, value, sum of the cheapest costs so far, requests lowered and requests refused.
    """
    for n in range(start, stop):
        cheapest, last = first[rows[n]], first[rows[n] + 1] - 1
        state[2] += c[cheapest]
        reserve = max(expected - n - 1.0, 0.0) * state[2] / (n + 1)
        k = cheapest
        while k < last and np.float64(q[k + 1]) - q[k] > price * (np.float64(c[k + 1]) - c[k]):
            k += 1
        while k > cheapest and c[k] > most:
            k -= 1
        wanted = k
        while k > cheapest and state[0] + reserve + c[k] > budget:
            k -= 1
        state[3] += k < wanted
        if state[0] + c[k] > budget:
            state[4] += 1
            continue
        state[0] += c[k]
        state[1] += q[k]
