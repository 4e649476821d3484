"""Parts of a learned table: true means put in place of learned ones, and departures from both."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.capture_parts import departures, with_profile

WEIGHT = np.array([0.25, 0.75])


def test_a_profile_is_put_on_and_departures_are_kept() -> None:
    scores, value = np.array([[1.0, 4.0], [2.0, 2.0]]), np.array([[3.0, 1.0], [1.0, 5.0]])
    found = with_profile(scores, value, WEIGHT)
    # means of the scores 1.75 and 2.5, of the value 1.5 and 4
    assert found == pytest.approx(scores * np.array([1.5 / 1.75, 4 / 2.5]))
    assert WEIGHT @ found == pytest.approx(WEIGHT @ value)
    assert departures(found, WEIGHT) == pytest.approx(departures(scores, WEIGHT))


def test_departures_by_hand() -> None:
    found = departures(np.exp([[0.0, 2.0], [1.0, 1.0]]), WEIGHT)
    # shapes −1, 1 and 0, 0; their weighted mean −1/4, 1/4
    assert found == pytest.approx(np.array([[-0.75, 0.75], [0.25, -0.25]]))
    assert departures(np.exp([[0.0, 2.0], [5.0, 7.0]]), WEIGHT) == pytest.approx(np.zeros((2, 2)))
