"""Table 4's arithmetic, by hand."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from benchmarks.table4 import CONFIGS, oracle_share, resampled, uplift, waterfall
from marca_common.config import load_config
from marca_loop.settings import Orchestration


def days(**revenue: list[float]) -> pd.DataFrame:
    return pd.DataFrame(revenue)


TWO_WORLDS = {
    100: days(static=[1.0, 3.0], priced_blind=[2.0, 3.0], plus_feedback=[2.0, 4.0], oracle=[3.0, 5.0]),
    101: days(static=[10.0, 10.0], priced_blind=[10.0, 10.0], plus_feedback=[15.0, 15.0], oracle=[20.0, 20.0]),
}


def test_an_uplift_is_the_mean_over_worlds_of_ratios_of_sums() -> None:
    # World 100: 6/4 − 1 = 50 %; world 101: 30/20 − 1 = 50 %, whatever the size of its revenue.
    value, low, high = uplift(TWO_WORLDS, "plus_feedback", "static")
    assert value == pytest.approx(50)
    assert low < 50 < high
    assert np.isnan(uplift(TWO_WORLDS, "plus_feedback", None)).all()
    assert np.isnan(uplift(TWO_WORLDS, "plus_feedback", "no_such")).all()


def test_strategies_share_their_days_so_a_constant_ratio_has_no_interval() -> None:
    rng = np.random.default_rng(0)
    base = rng.lognormal(size=28)
    drawn = resampled([np.stack([1.2 * base, base]), np.stack([1.2 * base, base])])
    assert drawn == pytest.approx(np.full(len(drawn), 20.0))


def test_worlds_are_resampled_too() -> None:
    """Two worlds whose days agree but whose uplifts differ: the interval spans from one to the other."""
    drawn = resampled([np.array([[1.1, 1.1], [1.0, 1.0]]), np.array([[1.3, 1.3], [1.0, 1.0]])])
    assert np.percentile(drawn, [2.5, 97.5]) == pytest.approx([10.0, 30.0])
    assert np.mean(drawn) == pytest.approx(20, abs=1)


def test_the_oracles_lead_is_shared_world_by_world() -> None:
    # World 100: (6 − 5)/(8 − 5) = 1/3; world 101: (30 − 20)/(40 − 20) = 1/2.
    share = oracle_share(TWO_WORLDS, "plus_feedback", "priced_blind", "oracle")
    assert share == pytest.approx(100 * (1 / 3 + 1 / 2) / 2)
    assert np.isnan(oracle_share(TWO_WORLDS, "plus_feedback", "priced_blind", None))


def test_the_steps_of_the_waterfall_add_up() -> None:
    config = load_config(Orchestration, CONFIGS["base"])
    falls = waterfall(TWO_WORLDS, config)
    assert falls["strategy"].tolist() == ["static", "priced_blind", "plus_feedback", "oracle"]
    np.testing.assert_allclose(falls["gain_points"].cumsum(), falls["uplift_pct"])
    assert falls["uplift_pct"].tolist() == pytest.approx([0, 12.5, 50, 100])


@pytest.mark.parametrize("world", list(CONFIGS))
def test_every_world_has_a_config(world: str) -> None:
    day = load_config(Orchestration, CONFIGS[world]).day
    assert day.baseline in day.strategies
