"""Rank correlations, by hand and against scipy."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import spearmanr

from marca_measures.rank_correlation import TruthRanks, pearson, reference_scores, spearman, spearman_within


def test_correlation_of_each_state_by_hand() -> None:
    truth = np.array([[1.0, 2.0, 3.0], [1.0, 2.0, 3.0], [1.0, 2.0, 3.0]])
    q = np.array([[10.0, 20.0, 30.0], [3.0, 2.0, 1.0], [5.0, 5.0, 5.0]])
    ranks = TruthRanks(truth, np.array([1.0, 2.0, 1.0]))
    assert ranks.by_state(q).tolist() == pytest.approx([1.0, -1.0, 0.0])
    assert ranks.spearman_within(q) == pytest.approx((1 * 1 - 2 * 1) / 4)  # each state counts with its requests


@pytest.mark.filterwarnings("error")
def test_states_without_requests_or_with_a_flat_truth_say_nothing() -> None:
    truth, q = np.array([[1.0, 2.0], [3.0, 3.0], [1.0, 2.0]]), np.array([[1.0, 2.0], [1.0, 2.0], [2.0, 1.0]])
    assert spearman_within(q, truth, np.array([1.0, 5.0, 0.0])) == pytest.approx(1.0)
    assert spearman_within(q, truth, np.array([0.0, 5.0, 0.0])) == 0.0


def test_rank_correlations() -> None:
    generator = np.random.default_rng(1)
    first, second = generator.integers(0, 6, (30, 20)).astype(float), generator.random((30, 20))
    assert spearman(first, second) == pytest.approx(spearmanr(first.ravel(), second.ravel()).statistic)
    rows = [spearmanr(a, b).statistic for a, b in zip(first, second)]
    assert spearman_within(first, second, np.ones(30)) == pytest.approx(np.mean(rows))
    assert spearman(np.ones(5), np.arange(5)) == 0
    flat = np.vstack([second, np.ones((1, 20))])  # a state without differences in truth says nothing
    assert spearman_within(np.vstack([first, first[:1]]), flat, np.ones(31)) == pytest.approx(np.mean(rows))
    assert spearman_within(np.ones((2, 4)), generator.random((2, 4)), np.ones(2)) == 0


def test_correlation_needs_three_models() -> None:
    assert np.isnan(pearson([1.0, 2.0], [1.0, 2.0]))
    assert pearson([1.0, 2.0, 3.0], [2.0, 4.0, 6.0]) == pytest.approx(1)
    assert pearson([1, 2, 3], [1, 0, 0]) == pytest.approx(-np.sqrt(3) / 2)  # whole numbers, a range of one
    assert np.isnan(pearson([1.0, 2.0, 3.0], [2.0, 2.0, 2.0]))
    assert np.isnan(pearson([2.0, 2.0, 2.0], [1.0, 2.0, 3.0]))
    assert pearson([1e-6, 2e-6, 3e-6], [2e-6, 4e-6, 5e-6]) == pytest.approx(pearson([1.0, 2.0, 3.0], [2.0, 4.0, 5.0]))


def test_one_truth_ranks_many_scores() -> None:
    generator = np.random.default_rng(4)
    truth, scores = generator.random((7, 5)), generator.integers(0, 4, (7, 5)).astype(float)
    ranks = TruthRanks(truth, np.ones(7))
    assert ranks.spearman(scores) == pytest.approx(spearmanr(scores.ravel(), truth.ravel()).statistic)
    assert ranks.spearman(truth) == pytest.approx(1)
    assert ranks.spearman(np.ones((7, 5))) == 0


def test_references_by_hand() -> None:
    truth = np.array([[1.0, 3.0], [4.0, 4.0], [0.0, 0.0]])
    found = reference_scores(truth, np.array([1.0, 2.0, 1.0]))
    # profiles of the states: (.5, 1.5), (1, 1), and (0, 0) where nothing is earned; weighted (.625, .875)
    assert set(found) == {"state_value", "state_times_profile"}
    assert found["state_value"].tolist() == [[2.0, 2.0], [4.0, 4.0], [0.0, 0.0]]
    assert found["state_times_profile"].tolist() == [[1.25, 1.75], [2.5, 3.5], [0.0, 0.0]]
    small = reference_scores(truth * 2.0**-30, np.array([1.0, 2.0, 1.0]))
    assert small["state_times_profile"].tolist() == (found["state_times_profile"] * 2.0**-30).tolist()
