"""Prices that only hindsight can name, against a linear program; and the minute that each of them is in force in."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import pytest
from scipy.optimize import linprog
from scipy.sparse import block_diag, csr_matrix, vstack

from marca_common.protocols import Measurement
from marca_loop.clairvoyant_prices import Schedule, balance, clairvoyant_prices


class Pool(NamedTuple):
    """A pool of requests and their states' candidates, as a policy keeps them."""

    ids: np.ndarray
    first: np.ndarray
    q: np.ndarray
    c: np.ndarray


def random_pool(seed: int, services: int, size: int = 150) -> Pool:
    """States whose dearer candidates are worth more, at falling rates; the first candidate is cheap in all services."""
    generator = np.random.default_rng(seed)
    counts = generator.integers(1, 9, 60)
    first = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
    c = generator.uniform(0.5, 10, (first[-1], services))
    c[first[:-1]] = 0.4
    q = generator.uniform(0.5, 3) * (c**0.6).sum(axis=1) * generator.uniform(0.7, 1.3, len(c))
    return Pool(generator.integers(0, 60, size), first, q, c)


def choices(pool: Pool, price: np.ndarray) -> np.ndarray:
    """Where each request's best candidate lies, one request after another."""
    ranges = [np.arange(pool.first[one], pool.first[one + 1]) for one in pool.ids]
    return np.array([rows[np.argmax(pool.q[rows] - pool.c[rows] @ price)] for rows in ranges])


def best_mixture(pool: Pool, allowed: np.ndarray) -> float:
    """The most that the pool's requests can be worth on average within ``allowed``, shares of candidates permitted."""
    ranges = [np.arange(pool.first[one], pool.first[one + 1]) for one in pool.ids]
    rows = np.concatenate(ranges)
    one_each = block_diag([np.ones((1, len(one))) for one in ranges])
    solved = linprog(
        -pool.q[rows] / len(ranges),
        A_ub=vstack([csr_matrix(pool.c[rows].T / len(ranges))]),
        b_ub=allowed,
        A_eq=one_each,
        b_eq=np.ones(len(ranges)),
    )
    assert solved.status == 0
    return float(-solved.fun)


@pytest.mark.parametrize("services", [1, 2, 3])
@pytest.mark.parametrize("share", [0.25, 0.5, 0.8])
@pytest.mark.parametrize("seed", range(6))
def test_prices_balance_costs_as_a_linear_program_would(seed: int, share: float, services: int) -> None:
    pool = random_pool(seed, services)
    free = pool.c[choices(pool, np.zeros(services))].mean(axis=0)
    least = np.full(services, 0.4)
    allowed = least + share * (free - least)
    price = np.zeros(services)
    for _ in range(3):  # minutes go on from the minute before
        price = balance(*pool, allowed, price)
    spent = pool.c[choices(pool, price)].mean(axis=0)
    step = pool.c.max(axis=0) / len(pool.ids)
    assert (price >= 0).all()
    assert (spent <= allowed + 3 * step).all()
    assert (spent[price > 0] >= (allowed - 6 * step)[price > 0]).all()
    most = (pool.q[choices(pool, price)] - pool.c[choices(pool, price)] @ price).mean() + allowed @ price
    best = best_mixture(pool, allowed)
    assert best <= most + 1e-9  # whatever the prices: weak duality
    assert most == pytest.approx(best, rel=5e-3 if services == 3 else 1e-3)  # only the right ones come near


@pytest.mark.parametrize("before", [0.0, 1e-7, 0.3, 50.0])
def test_where_the_search_starts_changes_little(before: float) -> None:
    pool = random_pool(1, 2)
    allowed = 0.5 * pool.c[choices(pool, np.zeros(2))].mean(axis=0)
    cold, warm = (pool.c[choices(pool, balance(*pool, allowed, np.full(2, one)))].mean(axis=0) for one in (0.0, before))
    np.testing.assert_allclose(warm, cold, rtol=0.05)
    assert (warm <= allowed * 1.02).all()


def test_computation_that_fits_is_free() -> None:
    pool = random_pool(2, 2)
    free = pool.c[choices(pool, np.zeros(2))].mean(axis=0)
    assert balance(*pool, free * 1.001, np.array([0.5, 0.5])).tolist() == [0, 0]
    one_short = balance(*pool, free * np.array([10, 0.7]), np.array([0.5, 0.5]))
    assert one_short[0] == 0
    assert one_short[1] > 0


def test_one_request_by_hand() -> None:
    # free it takes 4 core-ms for 9; 1 core-ms brings 3: it pays up to 2 per core-ms.
    pool = Pool(np.array([0]), np.array([0, 2]), np.array([3.0, 9.0]), np.array([[1.0], [4.0]]))
    assert balance(*pool, np.array([2.0]), np.zeros(1)) == pytest.approx(2, rel=2e-3)
    assert balance(*pool, np.array([4.0]), np.zeros(1)) == 0


def test_what_nothing_fits_gets_a_price_that_ends_the_search() -> None:
    pool = random_pool(3, 2)
    price = balance(*pool, np.array([0.1, 0.1]), np.zeros(2))
    assert np.isfinite(price).all()
    np.testing.assert_allclose(pool.c[choices(pool, price)].mean(axis=0), 0.4)


class FakePlant:
    """A plant that puts prices in force ``delay`` minutes late, as ``WorldPlant`` does, and writes down which."""

    def __init__(self, delay: int) -> None:
        self.delay, self.pending, self.in_force = delay, [], []  # type: ignore[var-annotated]

    def step(self, price: np.ndarray) -> Measurement:
        self.pending = self.pending or [price] * self.delay
        self.pending.append(price)
        self.in_force.append(float(self.pending.pop(0)[0]))
        minute = len(self.in_force) - 1
        return Measurement(minute, np.datetime64("2026-01-01"), "north", 1.0, np.zeros(1), 0.0, price)


@pytest.mark.parametrize(
    ("delay", "expected"), [(0, [0, 1, 2, 3, 4]), (1, [1, 1, 2, 3, 4]), (2, [2, 2, 2, 3, 4]), (9, [4] * 5)]
)
def test_the_row_of_a_minute_is_in_force_in_that_minute(delay: int, expected: list[int]) -> None:
    schedule, plant = Schedule(np.arange(5.0)[:, None], delay), FakePlant(delay)
    price = schedule.lambda_
    for _ in range(5):
        measurement = plant.step(price)
        price = schedule.step(measurement)
        assert price is schedule.lambda_
    assert plant.in_force == expected


class Minutes:
    """A data centre with one state per minute, and what it allows."""

    def allowed_cost(self, requests: np.ndarray) -> np.ndarray:
        assert requests.tolist() == [30, 70]
        return np.array([[4.0], [2.0]])

    def pool(self, minute: int) -> np.ndarray:
        return np.array([minute])


def test_every_minute_has_the_price_of_its_own_requests() -> None:
    policy: Any = Pool(np.array([]), np.array([0, 2, 4]), np.array([3.0, 9.0, 1.0, 2.5]), np.array([[1.0, 4, 1, 4]]).T)
    plant: Any = Minutes()
    prices = clairvoyant_prices(plant, policy, np.array([[10, 20], [30, 40]]))
    assert prices.shape == (2, 1)
    assert prices[0] == 0  # 4 core-ms are allowed
    assert prices[1] == pytest.approx(0.5, rel=2e-3)  # the second state pays 1.5 for 3
