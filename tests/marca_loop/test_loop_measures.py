"""What a simulated period says of each strategy, by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest

from marca_loop.measures import (
    SUMS,
    Rivals,
    attribution,
    bootstrap_ratios,
    compare,
    interval,
    measure,
    oracle_share,
    uplift,
    uplift_at_equal_cpu,
)

SERVICES = ("a", "b")
BUDGET = 60.0
# strategy, minute, revenue, cpu of a and b, λ of a and b, core-ms of a and b, level of degradation
MINUTES = [
    ("fixed", 0, 10.0, 30, 60, 0.0, 0.0, 100, 200, 0.0),
    ("fixed", 1, 20.0, 60, 72, 0.0, 0.0, 100, 200, 0.1),
    ("fixed", 1440, 30.0, 60, 60, 0.0, 0.0, 100, 100, 0.0),
    ("fixed", 1441, 40.0, 60, 60, 0.0, 0.0, 100, 100, 0.0),
    ("priced", 0, 20.0, 60, 60, 0.1, 0.3, 150, 200, 0.0),
    ("priced", 1, 25.0, 60, 60, 0.3, 0.3, 150, 220, 0.0),
    ("priced", 1440, 45.0, 60, 60, 0.2, 0.2, 150, 100, 0.0),
    ("priced", 1441, 50.0, 60, 90, 0.2, 0.6, 100, 100, 0.0),
]


def table() -> pd.DataFrame:
    columns = [f"{what}_{name}" for what in ("cpu", "lambda", "core_ms") for name in SERVICES]
    frame = pd.DataFrame(MINUTES, columns=["strategy", "minute", "revenue", *columns, "degradation"])
    counts = {"spend": 2.0, "gmv": 8.0, "clicks": 5.0, "impressions": 50.0, "timeouts": 1.0, "requests": 10.0}
    return frame.assign(seed=7, group="north", **counts)


def by_day(**revenues: Any) -> pd.DataFrame:
    """Measured days, revenue only: strategy = revenues of (seed 1, day 0), (seed 1, day 1), … in turn, two days a seed."""
    rows = [
        {"strategy": name, "seed": 1 + k // 2, "day": k % 2, "revenue": float(one)}
        for name, days in revenues.items()
        for k, one in enumerate(days)
    ]
    return pd.DataFrame(rows)


def test_a_day_by_hand() -> None:
    days = measure(table(), SERVICES, BUDGET).set_index(["strategy", "seed", "day"])
    assert len(days) == 4
    first = days.loc[("fixed", 7, 0)]
    assert first["revenue"] == 30
    assert first["core_ms"] == 600
    assert (first["core_ms_a"], first["core_ms_b"]) == (200, 400)
    assert first["mu"] == pytest.approx((0.5 + 1 + 1 + 1) / 4)
    assert first["nu"] == pytest.approx(12 / 60 / 4)
    assert first["cpu_mean"] == pytest.approx((30 + 60 + 60 + 72) / 4)
    assert first["degraded_minutes"] == 1
    assert [first[name] for name in SUMS[1:]] == [4, 16, 10, 100, 2, 20]
    priced = days.loc[("priced", 7, 0)]
    assert (priced["price_a"], priced["price_b"]) == pytest.approx((0.2, 0.3))
    assert priced["price"] == pytest.approx(0.25)
    assert priced["price_moves"] == pytest.approx((0 + 0.1) / 2)  # |Δλ| of 0.2 and 0, then the mean over minutes
    second = days.loc[("priced", 7, 1)]  # λ moves from day to day, too
    assert second["price_moves"] == pytest.approx((0.1 + 0.2) / 2)


def test_moves_of_a_price_never_cross_from_one_run_to_the_next() -> None:
    north = table()
    south = north.assign(group="south", lambda_a=9.0, lambda_b=9.0)
    days = measure(pd.concat([north, south]), SERVICES, BUDGET).set_index(["strategy", "seed", "day"])
    alone = measure(north, SERVICES, BUDGET).set_index(["strategy", "seed", "day"])
    np.testing.assert_allclose(days["price_moves"], alone["price_moves"] / 2)
    np.testing.assert_allclose(days["revenue"], 2 * alone["revenue"])


def test_two_strategies_compared_by_hand() -> None:
    found = compare(measure(table(), SERVICES, BUDGET), Rivals("fixed", None, "fixed", "priced"))
    fixed, priced = found["fixed"], found["priced"]
    assert list(found) == ["fixed", "priced"]
    assert (fixed["revenue"], priced["revenue"]) == (50, 70)  # a day, of two
    assert (fixed["uplift_pct"], priced["uplift_pct"]) == pytest.approx((0, 40))
    assert priced["uplift_over_blind_pct"] == pytest.approx(40)
    assert priced["uplift_over_hourly_pct"] is None
    assert (fixed["oracle_share_pct"], priced["oracle_share_pct"]) == pytest.approx((0, 100))
    assert fixed["spend_core_ms"] == 500  # a day
    assert priced["ctr"] == pytest.approx(0.1)
    assert priced["roi"] == pytest.approx(4)
    assert priced["timeouts"] == 2
    assert fixed["degraded_minutes"] == 0.5
    assert fixed["price_moves"] is None  # no price, no move
    assert priced["price_moves"] == pytest.approx((0.05 + 0.15) / (0.25 + 0.3))
    # 30 + 45 is +50 % of the first day, 70 + 25 is +36 % of the second: days drawn twice are the ends.
    assert priced["ci_low"] == pytest.approx(100 * 25 / 70)
    assert priced["ci_high"] == pytest.approx(50)
    assert (fixed["ci_low"], fixed["ci_high"]) == (None, None)


def test_at_equal_cpu_a_lead_pays_for_its_core_ms_by_hand() -> None:
    days = measure(table(), SERVICES, BUDGET)
    # day 0: 100 more of a at 0.2 and 20 more of b at 0.3 cost 26; day 1: 50 more of a at 0.2 cost 10. 140 − 36 = 104.
    assert uplift_at_equal_cpu(days, "priced", "fixed") == pytest.approx(4)
    # fixed has no price: it is paid for what it saves at the rival's, 100 + 36 = 136 against 140.
    assert uplift_at_equal_cpu(days, "fixed", "priced") == pytest.approx(100 * (136 / 140 - 1))
    assert uplift_at_equal_cpu(days, "priced", "priced") == pytest.approx(0)


@pytest.mark.parametrize("rival", [None, "failed"])
def test_a_rival_that_is_missing_gives_no_number(rival: str | None) -> None:
    days = measure(table(), SERVICES, BUDGET)
    assert uplift(days, "priced", rival) is None
    assert uplift_at_equal_cpu(days, "priced", rival) is None
    assert interval(days, "priced", rival) == (None, None)
    assert oracle_share(days, "priced", Rivals("fixed", None, rival, "priced")) is None
    assert oracle_share(days, "priced", Rivals("fixed", None, "fixed", rival)) is None
    numbers = compare(days, Rivals("fixed", rival, rival, rival))["priced"]
    assert numbers["uplift_pct"] == pytest.approx(40)
    assert [numbers[name] for name in ("uplift_over_hourly_pct", "uplift_over_blind_pct", "ci_low", "ci_high")] == [
        None
    ] * 4


def test_no_share_of_a_lead_that_is_none() -> None:
    days = by_day(blind=[10, 10], oracle=[9, 9], mine=[11, 11])
    assert oracle_share(days, "mine", Rivals("blind", None, "blind", "oracle")) is None


def test_the_waterfalls_gains_add_up_to_the_last_uplift() -> None:
    days = by_day(fixed=[100, 200], hourly=[110, 210], blind=[105, 225], oracle=[130, 240])
    steps = {"clock": "hourly", "feedback": "blind", "true Q": "failed", "clairvoyant λ": "oracle"}
    found = attribution(days, "fixed", steps)
    assert found["strategy"].tolist() == ["fixed", "hourly", "blind", "oracle"]
    assert found["step"].tolist() == ["fixed", "clock", "feedback", "clairvoyant λ"]
    np.testing.assert_allclose(found["uplift_pct"], [0, 100 * 20 / 300, 10, 100 * 70 / 300])
    np.testing.assert_allclose(found["gain_points"], [0, 100 * 20 / 300, 100 * 10 / 300, 100 * 40 / 300])
    np.testing.assert_allclose(found["gain_points"].cumsum(), found["uplift_pct"])
    # clock: +10 of 100 and +10 of 200; the lowest draw is the second day twice, the highest the first twice
    assert found.loc[1, ["ci_low", "ci_high"]].tolist() == pytest.approx([5, 10])
    assert (found["ci_low"] <= found["gain_points"] + 1e-9).all()
    assert (found["gain_points"] <= found["ci_high"] + 1e-9).all()


def test_with_one_day_the_waterfall_has_gains_and_no_intervals() -> None:
    days = by_day(fixed=[100, 200], hourly=[110, 220]).query("day == 0")
    found = attribution(days, "fixed", {"clock": "hourly"})
    np.testing.assert_allclose(found["gain_points"], [0, 10])
    assert found[["ci_low", "ci_high"]].isna().all(axis=None)
    assert interval(days, "hourly", "fixed") == (None, None)


def test_a_constant_ratio_has_an_interval_of_no_width() -> None:
    generator = np.random.default_rng(0)
    rival = generator.uniform(50, 150, 14)
    low, high = interval(by_day(rival=rival, mine=1.07 * rival), "mine", "rival")
    assert low == pytest.approx(7)
    assert high == pytest.approx(7)


def test_rows_out_of_order_are_paired_by_their_day() -> None:
    generator = np.random.default_rng(0)
    rival = generator.uniform(50, 150, 14)
    days = by_day(rival=rival, mine=1.07 * rival).sample(frac=1, random_state=0)
    assert interval(days, "mine", "rival") == pytest.approx((7, 7))
    assert uplift(days, "mine", "rival") == pytest.approx(7)
    assert attribution(days, "rival", {"a lead": "mine"}).loc[1, "ci_low"] == pytest.approx(7)


def test_days_are_drawn_within_their_seed() -> None:
    # seed 1 earns 100 a day and seed 2 1,000; with two days each the sums are the same in every draw.
    pair = np.array([[110, 100], [110, 100], [1200, 1000], [1200, 1000]], dtype=float)
    ratios = bootstrap_ratios(pair, np.array([1, 1, 2, 2]), seed=0)
    assert ratios is not None
    np.testing.assert_allclose(ratios, 2620 / 2200)
    assert bootstrap_ratios(pair, np.array([1, 1, 1, 2]), seed=0) is None  # a seed of one day says nothing of days


def test_the_interval_covers_the_truth_about_as_often_as_it_says() -> None:
    generator, covered, width = np.random.default_rng(5), 0, []
    for trial in range(200):
        rival = generator.uniform(80, 120, 28)
        mine = rival * (1.05 + 0.02 * generator.standard_normal(28))
        days = by_day(rival=rival, mine=mine).assign(seed=1, day=[*range(28), *range(28)])
        low, high = interval(days, "mine", "rival", seed=trial)
        assert low is not None
        assert high is not None
        covered += low <= 5 <= high
        width.append(high - low)
    assert 0.85 <= covered / 200 <= 0.99
    assert np.mean(width) == pytest.approx(100 * 2 * 1.96 * 0.02 / np.sqrt(28), rel=0.1)  # and not the traffic's spread
