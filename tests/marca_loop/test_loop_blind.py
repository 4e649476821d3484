"""One profile of values and costs for all states, under a price."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from marca_common.errors import UserError
from marca_loop.blind_policy import BlindPolicy

VALUES = np.array([0.0, 5.0, 8.0, 9.0])
COSTS = np.array([[[0.0, 1], [2, 1], [4, 3], [5, 9]], [[0.0, 1], [1, 1], [2, 2], [3, 4]]])  # two data centres
GROUPS = np.array([0, 1, 0, 1])


def policy(spread: float) -> BlindPolicy:
    return BlindPolicy(VALUES, COSTS, spread, GROUPS)


@pytest.mark.parametrize("seed", range(20))
def test_without_spread_it_is_the_plain_argmax(seed: int) -> None:
    generator = np.random.default_rng(seed)
    values, costs = generator.uniform(0, 9, 12), generator.uniform(0.1, 5, (2, 12, 2))
    one = BlindPolicy(values, costs, 0.0, GROUPS)
    price, states = generator.uniform(0, 2, 2), generator.integers(0, 4, 50)
    expected = [int(np.argmax(values - costs[GROUPS[state]] @ price)) for state in states]
    assert one.decide(states, price).tolist() == expected


def test_by_hand() -> None:
    blind = policy(0.0)
    assert blind.decide(np.array([0, 1]), np.zeros(2)).tolist() == [3, 3]
    # in the first data centre 5 − 3, 8 − 7 and 9 − 14 against −1; in the second 5 − 2, 8 − 4 and 9 − 7
    assert blind.decide(np.array([0, 1]), np.ones(2)).tolist() == [1, 2]
    assert blind.decide(np.array([0, 1]), np.full(2, 100.0)).tolist() == [0, 0]
    values, costs = blind.expected(np.array([0, 1]), np.array([1, 2]))
    assert values.tolist() == [5, 8]
    assert costs.tolist() == [[2, 1], [2, 2]]


def test_the_data_centre_is_all_it_knows_of_a_state() -> None:
    blind, price = policy(0.2), np.array([0.7, 0.3])
    one, other = blind.decide(np.tile([0, 1], 500), price), blind.decide(np.tile([2, 3], 500), price)
    assert one.tolist() == other.tolist()
    alone = BlindPolicy(VALUES, COSTS[:1], 0.2, np.zeros(4, int))
    assert alone.decide(np.arange(4), price).tolist() == alone.decide(np.arange(4)[::-1], price).tolist()


def shares(blind: BlindPolicy, price: np.ndarray, requests: int = 2000) -> np.ndarray:
    return np.bincount(blind.decide(np.zeros(requests, int), price), minlength=4) / requests


def test_shares_answer_smoothly_to_the_price() -> None:
    steps = np.linspace(0.2, 4, 400)
    smooth = np.array([shares(policy(0.2), np.full(2, one)) for one in steps])
    abrupt = np.array([shares(policy(0.0), np.full(2, one)) for one in steps])
    assert np.abs(np.diff(abrupt, axis=0)).max() == 1  # all requests change at once
    assert np.abs(np.diff(smooth, axis=0)).max() < 0.1
    # half of the requests meet a dearer price than the one named, whatever their number
    turning = np.full(2, 5 / 2)  # where 5 − 2λ = 0 in the first data centre: λ for retrieval alone
    for requests in (10, 100, 5000):
        taken = shares(policy(0.2), turning * [1, 0], requests)
        assert taken[0] == pytest.approx(0.5, abs=0.06)


@pytest.mark.parametrize("spread", [0.0, 0.2, 1.0])
def test_dearer_never_costs_more(spread: float) -> None:
    generator = np.random.default_rng(3)
    values, costs = generator.uniform(0, 9, 30), generator.uniform(0.1, 5, (1, 30, 2))
    blind, states = BlindPolicy(values, costs, spread, np.zeros(1, int)), np.zeros(400, int)

    def spent(price: Any) -> Any:
        return blind.expected(states, blind.decide(states, np.array(price)))[1].mean(axis=0)

    for service in range(2):
        price = np.array([0.2, 0.2])
        paid = []
        for price[service] in np.linspace(0, 5, 60):
            paid.append(spent(price)[service])
        assert (np.diff(paid) <= 1e-9).all()
        assert paid[-1] < paid[0]


def test_every_stretch_of_requests_sees_the_same_mixture() -> None:
    joint = policy(0.2).decide(np.zeros(1000, int), np.array([2.5, 0.0]))
    stretches = (joint.reshape(20, 50) == 0).mean(axis=1)
    np.testing.assert_allclose(stretches, 0.5, atol=0.05)


@pytest.mark.parametrize("price", [[np.nan, 1], [-0.1, 1], [np.inf, 1], [1.0], [1.0, 1, 1], 1.0, [[1.0, 1]]])
def test_prices_that_are_none_are_refused(price: Any) -> None:
    with pytest.raises(UserError, match="expected 2 finite prices of at least 0"):
        policy(0.2).decide(np.zeros(3, int), np.asarray(price))


def test_no_request_is_no_decision() -> None:
    assert policy(0.2).decide(np.zeros(0, int), np.ones(2)).tolist() == []
