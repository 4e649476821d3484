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
