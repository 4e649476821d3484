"""What a budget makes of scores, by hand and against a scan over prices."""

from __future__ import annotations

import numpy as np
import pytest

from marca_measures.frontier import capture_curve, frontier, static_frontier


def test_frontier_and_capture_by_hand() -> None:
    # two states, two actions: cost 1 or 2; the dear one adds 3 in the first state and 1 in the second
    truth, cost = np.array([[1.0, 4.0], [1.0, 2.0]]), np.array([[1.0, 2.0], [1.0, 2.0]])
    best = frontier(truth, cost, truth, np.ones(2))
    assert best.cost.tolist() == [1.0, 1.5, 2.0]
    assert best.value.tolist() == [1.0, 2.5, 3.0]
    assert best.at(1.25) == pytest.approx((1.75, 1.25))
    static = static_frontier(cost, truth, np.ones(2))
    assert static.at(1.5)[0] == pytest.approx(2.0)
    rows = capture_curve(truth, cost, truth, np.ones(2), [0.5])
    assert rows[0]["capture"] == pytest.approx(1.0)
    assert rows[0]["regret"] == pytest.approx(0.0)
    wrong = capture_curve(truth[::-1], cost, truth, np.ones(2), [0.5])[0]
    assert wrong["value"] == pytest.approx(1.5)  # the dear action where it adds little
    assert wrong["capture"] == pytest.approx(-1.0)


def test_scores_flat_in_actions_cannot_spend() -> None:
    truth, cost = np.array([[1.0, 4.0], [1.0, 2.0]]), np.array([[1.0, 2.0], [1.0, 2.0]])
    row = capture_curve(np.ones((2, 2)), cost, truth, np.ones(2), [0.5])[0]
    assert row["spend"] == pytest.approx(1 / 1.5)
    assert row["value"] == pytest.approx(1.0)


def test_frontier_meets_the_scan_over_prices() -> None:
    rng = np.random.default_rng(0)
    q, c, v = rng.random((30, 20)), rng.random((30, 20)), rng.random((30, 20))
    weight = rng.integers(1, 5, 30).astype(float)
    curve = frontier(q, c, v, weight)
    for price in rng.gamma(1, 1, 20):
        chosen = np.argmax(q - price * c, axis=1)
        spend, value = (np.average(x[np.arange(30), chosen], weights=weight) for x in (c, v))
        assert curve.at(spend)[0] == pytest.approx(value)


def test_capture_row_by_hand_where_requests_differ() -> None:
    # three quarters of the requests are in the second state: the static mixture's dear action adds .25·3 + .75·1 = 1.5
    truth, cost = np.array([[1.0, 4.0], [1.0, 2.0]]), np.array([[1.0, 2.0], [1.0, 2.0]])
    first, second = capture_curve(2 * truth, cost, truth, np.array([10.0, 30.0]), [0.25, 0.5])
    assert first == pytest.approx(
        {"budget": 1.25, "value": 1.75, "spend": 1.0, "clairvoyant": 1.75, "static": 1.375, "capture": 1.0, "regret": 0}
    )
    assert second == pytest.approx(
        {"budget": 1.5, "value": 2.0, "spend": 1.0, "clairvoyant": 2.0, "static": 1.75, "capture": 1.0, "regret": 0}
    )
    dear = capture_curve(truth, 4 * cost, truth, np.array([10.0, 30.0]), [0.25])[0]
    assert (dear["budget"], dear["value"]) == pytest.approx((5.0, 1.75))
    flat = capture_curve(np.ones((2, 2)), cost, truth, np.array([10.0, 30.0]), [0.25])[0]
    assert flat == pytest.approx(
        {
            "budget": 1.25,
            "value": 1.0,
            "spend": 0.8,
            "clairvoyant": 1.75,
            "static": 1.375,
            "capture": -1.0,
            "regret": 1 - 1 / 1.75,
        }
    )
    same = capture_curve(truth[:1], cost[:1], truth[:1], np.ones(1), [0.5])[0]  # one state: the static mixture is best
    assert same["capture"] == 0


def test_beyond_its_ends_a_frontier_stays_where_it_is() -> None:
    truth, cost = np.array([[1.0, 4.0]]), np.array([[1.0, 2.0]])
    best = frontier(truth, cost, truth, np.ones(1))
    assert best.at(0.5) == (1.0, 1.0)
    assert best.at(9.0) == (4.0, 2.0)


def test_states_that_climb_at_the_same_price_climb_in_their_order() -> None:
    generator = np.random.default_rng(0)
    worth, gain = 100.0 + generator.permutation(300), generator.integers(1, 4, 300).astype(float)
    q, cost = np.stack([np.zeros(300), gain], 1), np.tile([1.0, 2.0], (300, 1))
    curve = frontier(q, cost, np.stack([np.zeros(300), worth], 1), np.ones(300))
    order = sorted(range(300), key=lambda s: -gain[s])
    assert curve.value == pytest.approx(np.r_[0, np.cumsum(worth[order])] / 300)


def test_capture_where_there_is_nothing_to_share() -> None:
    cost = np.array([[0.0, 2.0], [0.0, 2.0]])
    none = capture_curve(np.ones((2, 2)), cost, np.zeros((2, 2)), np.ones(2), [0.5])[0]
    assert (none["budget"], none["spend"], none["capture"], none["regret"]) == (0.0, 1.0, 0.0, 0.0)
    truth = np.array([[1.0, 4.0], [1.0, 4.0 + 1e-12]])  # an uplift over the static mixture by rounding alone
    assert capture_curve(truth, cost, truth, np.ones(2), [0.5])[0]["capture"] == 0.0
    losses = capture_curve(-truth, cost, -truth, np.ones(2), [0.5])[0]
    assert losses["regret"] == 0.0
