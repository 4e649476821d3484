"""Measures of columns that are flat up to rounding, and shares of nothing."""

from __future__ import annotations

import numpy as np

from marca_measures.calibration import bucket_spearman
from marca_measures.frontier import capture_curve
from marca_measures.rank_correlation import pearson, reference_scores


def test_buckets_of_equal_single_precision_predictions_have_no_order() -> None:
    predicted = np.full(1003, 0.1, np.float32)
    predicted[::2] = np.nextafter(np.float32(0.1), np.float32(1))
    observed = np.random.default_rng(0).random(1003)
    assert bucket_spearman(predicted, observed, 50) == 0.0
    assert bucket_spearman(observed, predicted.astype(np.float64), 50) == 0.0
    assert bucket_spearman(observed, observed, 50) == 1.0


def test_a_correlation_with_rounding_is_no_number() -> None:
    assert np.isnan(pearson([14.62, 14.62 + 2e-15, 14.62], [1.0, 2.0, 3.0]))
    assert abs(pearson([1.0, 2.0, 3.0], [10.0, 20.0, 30.0]) - 1) < 1e-12


def test_capture_of_nothing_is_0_and_divides_by_nothing() -> None:
    zero, weight = np.zeros((2, 3)), np.ones(2)
    row = capture_curve(zero, zero, zero, weight, [0.5])[0]
    assert (row["capture"], row["regret"], row["spend"]) == (0.0, 0.0, 1.0)
    cost = np.array([[1.0, 2.0, 3.0]] * 2)
    equal = capture_curve(cost, cost, np.full((2, 3), 0.1), weight, [0.1, 0.5])
    assert all(row["capture"] == 0.0 and abs(row["regret"]) < 1e-12 for row in equal)


def test_a_state_worth_nothing_does_not_spoil_the_profile_of_the_others() -> None:
    truth = np.array([[1.0, 3.0], [0.0, 0.0]], np.float32)
    made = reference_scores(truth, np.array([1.0, 1.0]))["state_times_profile"]
    assert made.tolist() == [[0.5, 1.5], [0.0, 0.0]]  # profile: the mean of (0.5, 1.5) and (0, 0); state means 2 and 0
