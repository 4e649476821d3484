"""Sanity of the whole: what must come out when the parts are perfect."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from awrq_mixer.serving.policy import HullPolicy
from cascade_world.world import load_truth
from revenue_sim.allocation.one_budget import allocate


def test_true_q_and_c_at_the_clairvoyant_price_earn_the_lp_value(small_world: Path) -> None:
    truth = load_truth(small_world)
    states = pd.read_parquet(small_world / "truth/states.parquet")
    counts = states["count"].to_numpy()
    states = states[list(truth.request_spec().state)]
    values, costs = truth.values(states), truth.costs(states)
    total = costs.sum(axis=2)
    budget = float(counts @ total.mean(axis=1))
    best = allocate(values, total, budget, counts)
    policy = HullPolicy.build(states, truth.values, truth.costs, quiet=True)
    chosen = policy.decide(np.arange(len(states)), np.full(len(truth.services), best.lambda_))
    rows = np.arange(len(states))
    earned, spent = counts @ values[rows, chosen].astype(float), counts @ total[rows, chosen].astype(float)
    # λ alone leaves or overspends at most the fractional state's step; its worth per cost is λ.
    assert earned - best.lambda_ * spent == pytest.approx(best.bound - best.lambda_ * budget, rel=1e-5)
    step = counts.max() * (values.max(axis=1) - values.min(axis=1)).max()
    assert abs(earned - best.bound) <= step
    assert best.value <= best.bound
