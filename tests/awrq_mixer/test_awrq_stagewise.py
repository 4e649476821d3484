"""Decisions stage by stage: by hand, and never better than the joint choice."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest

from awrq_mixer.evaluate import TruthSample, lost_by_stage
from awrq_mixer.serving.stagewise import decide_by_stage, stagewise_lost
from marca_common.errors import UserError
from marca_common.requests import RequestSpec

SPEC = RequestSpec(
    state={"x": "category"},
    agents={"first": ["b1"], "second": ["b2"]},
    sizes={"b1": 2, "b2": 2},
    results=[],
    reward="r",
)


def test_the_first_stage_sees_only_the_average_of_the_second() -> None:
    q, c = np.array([[0.0, 10.0, 6.0, 6.0]]), np.zeros((1, 4, 1))
    even = np.full(4, 0.25)
    assert decide_by_stage(q, c, np.zeros(1), SPEC, even).tolist() == [2]  # 6 on average beats 5; the joint choice is 1
    assert stagewise_lost(q, c, np.zeros(1), SPEC, even, np.ones(1)) == pytest.approx(0.4)
    rarely_first = np.array([0.05, 0.45, 0.25, 0.25])
    assert decide_by_stage(q, c, np.zeros(1), SPEC, rarely_first).tolist() == [1]


def test_additive_values_lose_nothing_and_others_never_gain() -> None:
    rng = np.random.default_rng(0)
    first, second = rng.random((50, 2)), rng.random((50, 2))
    additive = (first[:, :, None] + second[:, None, :]).reshape(50, 4)
    cost = np.tile(np.array([1.0, 2.0, 2.0, 3.0])[:, None], (50, 1, 1))
    assert stagewise_lost(additive, cost, np.array([0.3]), SPEC, np.full(4, 0.25), np.ones(50)) == pytest.approx(0)
    for _ in range(20):
        q, c = rng.random((50, 4)), rng.random((50, 4, 2))
        assert stagewise_lost(q, c, rng.random(2), SPEC, rng.dirichlet(np.ones(4)), rng.random(50)) >= 0


def test_the_price_is_the_one_at_which_the_scores_spend_the_budget() -> None:
    spec = SPEC.model_copy(update={"sizes": {"b1": 2, "b2": 3}})
    q, cost = np.array([[5.0, 7.0, -1.0, 5.0, 5.0, 5.0]]), np.array([[1.0, 2.0, 4.0, 1.5, 1.5, 1.5]])
    truth, even = TruthSample(pd.DataFrame({"x": ["a"]}), q, cost[..., None], np.ones(1)), np.full(6, 1 / 6)
    # a budget of 1.5 lies on the climb from cost 1 to cost 2, at price 2: Q − 2C = 3, 3, −9 | 2, 2, 2
    assert lost_by_stage(q, truth, even, spec, 1.5) == pytest.approx(1 / 3)
    # more than the scores can spend: Q itself decides, by stage 5 instead of 7
    assert lost_by_stage(q, truth, even, spec, 9.0) == pytest.approx(2 / 7)


@pytest.mark.parametrize(
    "shapes",
    [((5, 4), (5, 4, 1), 2, 4), ((5, 4), (4, 4, 2), 2, 4), ((5, 3), (5, 3, 2), 2, 4), ((5, 4), (5, 4, 2), 2, 1)],
)
def test_shapes_that_do_not_fit_are_refused(shapes: Any) -> None:
    q, c, prices, profile = shapes
    with pytest.raises(UserError, match="expected"):
        decide_by_stage(np.ones(q), np.ones(c), np.ones(prices), SPEC, np.full(profile, 1 / profile))
