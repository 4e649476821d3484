"""Small parts of the revenue simulation: Return%, correlations, mixtures, tree scores, action mix."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from marca_common.requests import RequestSpec
from revenue_sim.ground_truth.trees import TreesConfig, fit_trees
from revenue_sim.judging import return_pct as returns
from revenue_sim.judging.action_mix import MOST_VALUES, action_mix


def test_return_pct_by_hand() -> None:
    assert returns.return_pct(np.array([3.0, 1.0]), np.array([3.0, 2.0])) == pytest.approx(80.0)


def test_interval_over_states_and_seeds() -> None:
    generator = np.random.default_rng(0)
    truth = generator.gamma(2, 1, 400)
    models = [truth * share for share in (0.8, 0.9)]
    low, high = returns.return_interval(models, truth, generator, draws=500, confidence=0.95)
    assert (low, high) == pytest.approx((80, 90))  # only the choice of seeds moves these ratios
    one = truth * generator.uniform(0.6, 1, 400)
    low, high = returns.return_interval([one], truth, generator, draws=500, confidence=0.9)
    assert 0.5 < low - returns.return_pct(one, truth) + 2 < high - returns.return_pct(one, truth) + 2 < 3.5


SPEC = RequestSpec(
    state={"u": "category", "x": "numeric"}, agents={"g": ["a1", "a2"], "h": ["a3"]}, sizes={"a1": 4, "a2": 3, "a3": 5}
)


def test_box_scores_are_the_trees_predictions() -> None:
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


def test_action_mix_by_hand() -> None:
    spec = RequestSpec(state={"u": "category"}, agents={"g": ["a1", "a2"]}, sizes={"a1": 2, "a2": 2})
    states = pd.DataFrame({"u": ["x", "y"]})
    mix = action_mix(spec, states, np.array([0, 0, 1]), np.array([0, 3, 1]), np.array([3, 1, 2]), "m", "quota")
    share = mix.set_index(["by", "value", "sub_action", "choice"])["share"]
    assert share["u", "x", "a1", 1] == 0.25
    assert share["u", "y", "a2", 1] == 1.0
    assert share["all", "all", "a2", 1] == 0.5


def test_a_long_tail_of_values_is_summed_up() -> None:
    spec = RequestSpec(state={"u": "category"}, agents={"g": ["a1"]}, sizes={"a1": 2})
    states = pd.DataFrame({"u": [f"s{i:03d}" for i in range(150)]})
    rows = np.arange(150)
    mix = action_mix(spec, states, rows, rows % 2, rows + 1, "m", "quota")
    part = mix[mix["by"] == "u"]
    assert part["value"].nunique() == MOST_VALUES
    assert part["requests"].sum() == 11325
