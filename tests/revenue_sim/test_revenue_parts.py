"""Small parts of the revenue simulation: Return%, correlations, mixtures, tree scores, action mix."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy.stats import spearmanr

from marca_common.errors import UserError
from marca_common.requests import RequestSpec
from marca_measures.static_mixture import static_mixture
from revenue_sim.ground_truth.trees import TreesConfig, fit_trees
from revenue_sim.judging import return_pct as returns
from revenue_sim.judging.action_mix import MOST_VALUES, action_mix


def test_return_pct_by_hand():
    assert returns.return_pct(np.array([3.0, 1.0]), np.array([3.0, 2.0])) == pytest.approx(80.0)


def test_interval_over_states_and_seeds():
    generator = np.random.default_rng(0)
    truth = generator.gamma(2, 1, 400)
    models = [truth * share for share in (0.8, 0.9)]
    low, high = returns.return_interval(models, truth, generator, draws=500, confidence=0.95)
    assert (low, high) == pytest.approx((80, 90))  # only the choice of seeds moves these ratios
    one = truth * generator.uniform(0.6, 1, 400)
    low, high = returns.return_interval([one], truth, generator, draws=500, confidence=0.9)
    assert 0.5 < low - returns.return_pct(one, truth) + 2 < high - returns.return_pct(one, truth) + 2 < 3.5


def test_rank_correlations():
    generator = np.random.default_rng(1)
    first, second = generator.integers(0, 6, (30, 20)).astype(float), generator.random((30, 20))
    assert returns.spearman(first, second) == pytest.approx(spearmanr(first.ravel(), second.ravel()).statistic)
    rows = [spearmanr(a, b).statistic for a, b in zip(first, second)]
    assert returns.spearman_within(first, second) == pytest.approx(np.mean(rows))
    assert returns.spearman(np.ones(5), np.arange(5)) == 0
    flat = np.vstack([second, np.ones((1, 20))])  # a state without differences in truth says nothing
    assert returns.spearman_within(np.vstack([first, first[:1]]), flat) == pytest.approx(np.mean(rows))
    assert returns.spearman_within(np.ones((2, 4)), generator.random((2, 4))) == 0


def test_correlation_needs_three_models():
    assert np.isnan(returns.pearson([1.0, 2.0], [1.0, 2.0]))
    assert returns.pearson([1.0, 2.0, 3.0], [2.0, 4.0, 6.0]) == pytest.approx(1)


def test_buckets_see_through_noise():
    generator = np.random.default_rng(2)
    predicted = generator.gamma(2, 1, 20_000)
    observed = predicted * generator.exponential(10, 20_000) * (generator.random(20_000) < 0.1)
    assert returns.bucketed_spearman(predicted, observed, 50) > 0.9
    assert abs(returns.bucketed_spearman(generator.random(20_000), observed, 50)) < 0.5


def test_mixture_by_hand():
    # Hull of (1, 1), (2, 2), (4, 3); (3, 2.2) lies below it.
    values, costs = np.array([1.0, 2.0, 3.0, 2.2]), np.array([1.0, 2.0, 4.0, 3.0])
    mixed = static_mixture(values, costs, 3.0)
    assert (mixed.actions.tolist(), mixed.weights.tolist()) == ([1, 2], [0.5, 0.5])
    assert (mixed.value, mixed.cost.tolist(), mixed.lambda_.tolist()) == (2.5, [3.0], [0.5])
    free = static_mixture(values, costs, 9.0)
    assert (free.actions.tolist(), free.lambda_.tolist()) == ([2], [0.0])
    assert np.bincount(mixed.draw(np.linspace(0, 0.999, 1000)), minlength=4).tolist() == [0, 500, 500, 0]


def test_mixture_under_two_budgets():
    values, costs = np.array([0.0, 4.0, 4.0]), np.array([[0.0, 0.0], [4.0, 0.0], [0.0, 4.0]])
    mixed = static_mixture(values, costs, [1.0, 2.0])
    assert mixed.value == pytest.approx(3.0)
    assert mixed.cost == pytest.approx([1.0, 2.0])


@pytest.mark.parametrize("budget", [0.5, -1.0, float("nan"), [1.0, 2.0]])
def test_mixture_refuses(budget):
    with pytest.raises(UserError, match="budget"):
        static_mixture(np.array([1.0, 2.0]), np.array([1.0, 2.0]), budget)


SPEC = RequestSpec(
    state={"u": "category", "x": "numeric"}, agents={"g": ["a1", "a2"], "h": ["a3"]}, sizes={"a1": 4, "a2": 3, "a3": 5}
)


def test_box_scores_are_the_trees_predictions():
    generator = np.random.default_rng(3)
    frame = pd.DataFrame({"u": generator.choice(list("abcdef"), 4000), "x": generator.normal(size=4000)})
    for name in SPEC.sub_actions:
        frame[name] = generator.integers(0, SPEC.sizes[name], 4000)
    frame["revenue"] = generator.exponential(1 + frame["a1"] * frame["a3"] * (frame["x"] > 0))
    model = fit_trees(frame, SPEC, TreesConfig(trees=20, min_rows=20), seed=0, threads=1)
    states = pd.DataFrame({"u": ["a", "f", "never seen"], "x": [0.3, -1.0, 9.0]})
    every = states.loc[np.repeat(np.arange(3), SPEC.n_joint)].reset_index(drop=True)
    every[list(SPEC.sub_actions)] = np.tile(SPEC.joint_table(), (3, 1))
    np.testing.assert_allclose(model.values(states).ravel(), model.rows(every, SPEC), rtol=1e-6)


def test_action_mix_by_hand():
    spec = RequestSpec(state={"u": "category"}, agents={"g": ["a1", "a2"]}, sizes={"a1": 2, "a2": 2})
    states = pd.DataFrame({"u": ["x", "y"]})
    mix = action_mix(spec, states, np.array([0, 0, 1]), np.array([0, 3, 1]), np.array([3, 1, 2]), "m", "quota")
    share = mix.set_index(["by", "value", "sub_action", "choice"])["share"]
    assert share["u", "x", "a1", 1] == 0.25
    assert share["u", "y", "a2", 1] == 1.0
    assert share["all", "all", "a2", 1] == 0.5


def test_a_long_tail_of_values_is_summed_up():
    spec = RequestSpec(state={"u": "category"}, agents={"g": ["a1"]}, sizes={"a1": 2})
    states = pd.DataFrame({"u": [f"s{i:03d}" for i in range(100)]})
    rows = np.arange(100)
    mix = action_mix(spec, states, rows, rows % 2, rows + 1, "m", "quota")
    part = mix[mix["by"] == "u"]
    assert part["value"].nunique() == MOST_VALUES
    assert part["requests"].sum() == 5050
