"""Buckets of predictions, by hand."""

from __future__ import annotations

import numpy as np
import pytest

from marca_measures.calibration import bucket_spearman, calibration, prediction_errors


def test_prediction_errors_by_hand() -> None:
    curve = calibration(np.array([1.0, 1.0, 2.0, 2.0]), np.array([2.0, 2.0, 1.0, 3.0]), 2)
    assert curve.to_numpy().tolist() == [[1.0, 2.0, 2.0], [2.0, 2.0, 2.0]]
    errors = prediction_errors(curve)  # buckets: 1 → 2, 2 → 2
    assert errors["pe"] == pytest.approx((-0.5 + 0.0) / 2)
    assert errors["absolute_pe"] == pytest.approx((1.0 + 0.0) / 2)


def test_buckets_that_earned_nothing_have_no_error() -> None:
    errors = prediction_errors(calibration(np.ones(4), np.zeros(4), 2))
    assert np.isnan(errors["pe"])
    assert np.isnan(errors["absolute_pe"])


def test_buckets_see_through_noise() -> None:
    generator = np.random.default_rng(2)
    predicted = generator.gamma(2, 1, 20_000)
    observed = predicted * generator.exponential(10, 20_000) * (generator.random(20_000) < 0.1)
    assert bucket_spearman(predicted, observed, 50) > 0.9
    assert abs(bucket_spearman(generator.random(20_000), observed, 50)) < 0.5


def test_rows_of_equal_prediction_fill_buckets_in_their_order() -> None:
    generator = np.random.default_rng(3)
    predicted, observed = generator.integers(0, 3, 400).astype(float), generator.permutation(np.arange(400.0))
    curve = calibration(predicted, observed, 200)
    assert list(curve.columns) == ["predicted", "observed", "rows"]
    order = sorted(range(400), key=lambda i: predicted[i])
    assert curve["observed"].tolist() == observed[order].reshape(200, 2).mean(1).tolist()
    assert curve["rows"].tolist() == [2] * 200
    assert calibration(np.ones(3), np.ones(3), 50)["rows"].tolist() == [1] * 3


@pytest.mark.parametrize("unit", [1e-6, 1.0])
def test_prediction_errors_leave_out_buckets_without_money(unit: float) -> None:
    predicted, observed = np.array([0.0, 0.5, 1.0, 2.0, 4.0]) * unit, np.array([1.0, 0.25, 0.0, 4.0, 5.0]) * unit
    errors = prediction_errors(calibration(predicted, observed, 5))
    assert errors == pytest.approx({"pe": (1 - 0.5 - 0.2) / 3, "absolute_pe": (1 + 1 + 0.25) / 3})


def test_flat_buckets_have_no_order() -> None:
    rising = np.arange(1.0, 101.0)
    assert bucket_spearman(rising, rising, 10) == pytest.approx(1.0)
    assert bucket_spearman(rising, -rising, 10) == pytest.approx(-1.0)
    assert bucket_spearman(1.0 + 1e-9 * rising, rising, 10) == 0.0
    assert bucket_spearman(rising, 1.0 + 1e-9 * rising, 10) == 0.0
    assert bucket_spearman(1.0 + 1e-3 * rising, rising, 10) == pytest.approx(1.0)
