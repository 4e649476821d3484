"""Decisions stage by stage: by hand, and never better than the joint choice."""

from __future__ import annotations

import numpy as np
import pytest

from awrq_mixer.serving.stagewise import decide_by_stage, stagewise_lost
from marca_common.requests import RequestSpec

SPEC = RequestSpec(
    state={"x": "category"},
    agents={"first": ["b1"], "second": ["b2"]},
    sizes={"b1": 2, "b2": 2},
    results=[],
    reward="r",
)


def test_the_first_stage_sees_only_the_average_of_the_second():
    q, c = np.array([[0.0, 10.0, 6.0, 6.0]]), np.zeros((1, 4, 1))
    even = np.full(4, 0.25)
    assert decide_by_stage(q, c, np.zeros(1), SPEC, even).tolist() == [2]  # 6 on average beats 5; the joint choice is 1
    assert stagewise_lost(q, c, np.zeros(1), SPEC, even, np.ones(1)) == pytest.approx(0.4)
    rarely_first = np.array([0.05, 0.45, 0.25, 0.25])
    assert decide_by_stage(q, c, np.zeros(1), SPEC, rarely_first).tolist() == [1]


def test_additive_values_lose_nothing_and_others_never_gain():
    rng = np.random.default_rng(0)
    first, second = rng.random((50, 2)), rng.random((50, 2))
    additive = (first[:, :, None] + second[:, None, :]).reshape(50, 4)
    cost = np.tile(np.array([1.0, 2.0, 2.0, 3.0])[:, None], (50, 1, 1))
    assert stagewise_lost(additive, cost, np.array([0.3]), SPEC, np.full(4, 0.25), np.ones(50)) == pytest.approx(0)
    for _ in range(20):
        q, c = rng.random((50, 4)), rng.random((50, 4, 2))
        assert stagewise_lost(q, c, rng.random(2), SPEC, rng.dirichlet(np.ones(4)), rng.random(50)) >= 0
