"""Intervals of off-policy estimates: numbers by hand, a slow reference, what they do not depend on, and bad input."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks import ope_coverage
from marca_common.errors import UserError
from revenue_sim.off_policy.estimators import least_error, shrunk_dr, switch_dr
from revenue_sim.off_policy.intervals import effective_rows, hall_quantile, missed_payments, reach, tail_index
from revenue_sim.off_policy.logged import Logged, checked
from revenue_sim.off_policy.support import missing_support, no_interval
from revenue_sim.ope import Estimate, estimate, policy_probabilities
from tests.reference import off_policy_reference as reference

WEIGHT = np.array([1.0, 1.0, 4.0, 0.0])


def example(reward: list[float]) -> Logged:
    """Four requests; the model expects 1, 1, 2, 2 under the policy, the weights are ``WEIGHT``."""
    policy, direct = [[0.5, 0.5], [1.0, 0.0]], [[1.0, 1.0], [2.0, 5.0]]
    return checked(policy, [0, 0, 1, 1], [0, 1, 0, 1], reward, [0.5, 0.5, 0.25, 0.75], direct)


def draw(seed: int, rows: int = 400, states: int = 4, actions: int = 3, sigma: float = 1.0) -> dict[str, Any]:
    """Arguments of ``estimate``: a log of that many requests, half of which pay."""
    generator = np.random.default_rng(seed)
    logging = policy_probabilities(generator.normal(size=(states, actions)), temperature=1.0, mix=0.2).astype(float)
    logging /= logging.sum(axis=1, keepdims=True)
    state = generator.integers(0, states, rows)
    joint = (logging.cumsum(axis=1)[state] <= generator.random((rows, 1))).sum(axis=1).clip(max=actions - 1)
    mean = generator.random((states, actions)) + 0.5
    paid = generator.random(rows) < 0.5
    return {
        "policy": policy_probabilities(mean, temperature=0.3, mix=0.2),
        "state": state,
        "joint": joint,
        "reward": paid * 2 * mean[state, joint] * generator.lognormal(-(sigma**2) / 2, sigma, rows),
        "propensity": logging[state, joint],
        "direct": mean * 1.2,
    }


def test_the_reach_by_hand() -> None:
    # Four terms ±1: standard error sqrt(4/3/4) = .57735; no skewness. ln 40 / 2 / 4 = .46111 for what was not seen.
    below, above = reach(np.array([-1.0, 1.0, -1.0, 1.0]), 0.95, 1.0) or (0, 0)
    assert below == pytest.approx(1.959964 * 0.577350 + 0.461110, rel=1e-5)
    assert above == pytest.approx(below)
    # Terms −1, −1, −1, 3: skewness 2/√3, over √4 .57735; the upper quantile is Hall's, the lower one Student's.
    below, above = reach(np.array([-1.0, -1.0, -1.0, 3.0]), 0.95, 1.0) or (0, 0)
    upper = 3 / 0.577350 * (np.cbrt(1 + 0.577350 * (-1.959964 - 0.577350 / 6)) - 1)
    assert below == pytest.approx(1.959964 * 1.0 + 0.461110 * 1, rel=1e-5)
    assert above == pytest.approx(-upper * 1.0 + 0.461110 * 3, rel=1e-5)
    assert -upper > 1.959964


def test_missed_payments_by_hand() -> None:
    # ln(2/δ) = 1 at this confidence. Two effective payments of 1 and 2: the larger half of the log's, 3 and 4, may be missed.
    one = 1 - 2 / np.e
    reward = np.array([1.0, 2.0, 3.0, 4.0])
    assert missed_payments(reward, np.array([2.0, 2.0, 0.0, 0.0]), one) == pytest.approx((3 + 4) / 4)
    # Rows that paid nothing only thin it out.
    assert missed_payments(np.append(reward, [0.0] * 4), np.array([2.0, 2, 0, 0, 9, 9, 9, 9]), one) == pytest.approx(
        7 / 8
    )
    # A policy that got its share of the largest quarter missed nothing; one that got more neither.
    assert missed_payments(reward, np.ones(4), one) == pytest.approx(0)
    assert missed_payments(reward, np.array([1.0, 1.0, 1.0, 1.5]), one) == 0
    assert missed_payments(np.ones(4), np.array([1.0, 0.0, 0.0, 0.0]), one) == 0  # equal payments have no rare ones
    assert missed_payments(-reward, np.ones(4), one) == 0
    assert missed_payments(reward, np.zeros(4), one) == 0
    # Three effective payments and ln(2/δ) = 1.5: the larger half; the log gets 7/4 from it, the policy 3/3.
    assert missed_payments(reward, np.array([1.0, 1, 1, 0]), 1 - 2 / np.exp(1.5)) == pytest.approx(0.75 * 3 / 4)
    # What ties with the bound is not rare.
    assert missed_payments(np.array([1.0, 2.0, 2.0, 2.0]), np.array([1.0, 1.0, 0.0, 0.0]), one) == 0


def test_no_spread_is_no_certificate() -> None:
    assert reach(np.zeros(10), 0.95, 1.0) is None
    assert reach(np.array([1e-9, -1e-9]), 0.95, 1.0) is None
    assert reach(np.array([1e-9, -1e-9]), 0.95, 1e-9) is not None


def test_halls_quantile_is_the_root_of_his_cubic() -> None:
    for z, skewness in ((1.96, 0.5), (-1.96, 0.5), (-1.96, 2.0), (1.0, -0.7)):
        t = hall_quantile(z, skewness)
        assert t + skewness * t**2 / 3 + skewness**2 * t**3 / 27 + skewness / 6 == pytest.approx(z)
    assert hall_quantile(1.5, 0.0) == 1.5


def test_tail_index_by_hand() -> None:
    # 20 rewards: the ten largest are e times the next, so Hill's mean log excess is 1.
    assert tail_index(np.array([np.e] * 10 + [1.0] * 10 + [0.0] * 50)) == pytest.approx(1.0)
    assert tail_index(-np.array([np.e**0.5] * 10 + [1.0] * 10)) == pytest.approx(2.0)
    assert tail_index(np.ones(100)) is None  # no tail
    assert tail_index(np.arange(1.0, 20.0)) is None  # too few
    sample = 1 + np.random.default_rng(0).pareto(1.5, 200_000)
    assert tail_index(sample) == pytest.approx(1.5, rel=0.03)


def test_effective_rows_by_hand() -> None:
    assert effective_rows(WEIGHT) == pytest.approx(36 / 18)
    assert effective_rows(np.zeros(3)) == 0


def test_switching_and_shrinking_by_hand() -> None:
    # Expected 1, 1, 2, 2; residuals 0, 1, .4, −1. With all weights: terms 1, 2, 3.6, 2, variance/4 = .216875.
    # Without the weight of 4: terms 1, 2, 2, 2, variance/4 = .046875, bias 4·.4/4 = .4, together .206875: less.
    logged = example([1.0, 2.0, 2.4, 4.0])
    assert switch_dr(logged, WEIGHT).value == pytest.approx(1.75)
    assert least_error(logged, WEIGHT, [WEIGHT, WEIGHT * (WEIGHT < 4)]).tolist() == pytest.approx([1, 2, 2, 2])
    # A residual of 1 there: 3.6875/4 = .921875 against .046875 + 1.
    assert switch_dr(example([1.0, 2.0, 3.0, 4.0]), WEIGHT).value == pytest.approx(2.75)
    # One strength λ = 4: 4w/(w² + 4) = .8, .8, .8, 0.
    shrunk = least_error(logged, WEIGHT, [4 * WEIGHT / (WEIGHT**2 + 4)])
    assert shrunk.tolist() == pytest.approx([1, 1.8, 2.32, 2])
    grid = [strength * WEIGHT / (WEIGHT**2 + strength) for strength in 16 * np.geomspace(1e-4, 1e2, 20)]
    best = least_error(logged, WEIGHT, [*grid, WEIGHT])
    assert shrunk_dr(logged, WEIGHT).value == pytest.approx(best.mean())
    assert 1.5 < best.mean() < 2.15


def test_support() -> None:
    assert "amount to 2.0 rows" in (missing_support(WEIGHT, 2.0, 3.0) or "")
    assert missing_support(np.ones(50), 50.0, 3.0) is None
    assert "about 60 %" in (missing_support(np.full(50, 0.4), 50.0, 3.0) or "")
    assert "mean is 2.00 where it should be 1" in (missing_support(np.full(50, 2.0), 50.0, 3.0) or "")


def test_payments_that_carry_no_interval() -> None:
    paid, ones = np.ones(50), np.ones(50)
    assert no_interval(paid, ones, None) is None
    assert no_interval(paid, ones, 1.4) is None
    assert "tail index is 1.20" in (no_interval(paid, ones, 1.2) or "")
    few = ones * (np.arange(50) < 19)
    assert no_interval(paid, few, 2.1) is None
    assert "amount to 19.0 rows; at least 20" in (no_interval(paid, few, 2.0) or "")
    assert no_interval(paid, ones * (np.arange(50) < 20), 2.0) is None
    assert "amount to 15.0 rows" in (no_interval(paid * (np.arange(50) < 15), ones, 2.0) or "")  # of those that paid
    assert "9 requests" in (no_interval(paid * (np.arange(50) < 9), ones, None) or "")
    assert "9 requests" in (no_interval(paid, ones * (np.arange(50) < 9), None) or "")


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("confidence", [0.5, 0.9, 0.99])
def test_agrees_with_the_slow_reference(seed: int, confidence: float) -> None:
    log = draw(seed, rows=120, sigma=0.3)
    found = estimate(**log, confidence=confidence, least_rows=5)
    slow = reference.estimates(*log.values())
    ones, mean = [1.0] * 120, float(np.mean(log["reward"]))
    weight = log["policy"][log["state"], log["joint"]] / log["propensity"]
    missed = reference.missed(log["reward"], weight, confidence)
    for name in ("ips", "snips", "doubly_robust"):
        one, terms = found[name], reference.influence(slow[name], 120)
        assert one.value == pytest.approx(slow[name](ones), rel=1e-12)
        below, above = reference.reach(terms, confidence)
        assert (one.low, one.high) == pytest.approx((one.value - below, one.value + above + missed), rel=1e-6)  # type: ignore[operator]
        paired = [x - (r - mean) for x, r in zip(terms, log["reward"])]
        below, above = reference.reach(paired, confidence)
        ends = (one.value - mean - below, one.value - mean + above + missed)  # type: ignore[operator]
        assert (one.uplift_low, one.uplift_high) == pytest.approx(ends, rel=1e-6)
    assert found["direct"].value == pytest.approx(slow["direct"](ones), rel=1e-12)


def test_biased_estimates_have_the_interval_of_doubly_robust_stretched() -> None:
    found = estimate(**draw(3))
    robust = found["doubly_robust"]
    assert robust.low is not None
    assert robust.high is not None
    for name in ("direct", "switch_dr", "shrunk_dr"):
        one = found[name]
        assert one.value is not None
        assert (one.low, one.high) == (min(one.value, robust.low), max(one.value, robust.high))
    far = draw(3)
    found = estimate(**{**far, "direct": far["direct"] * 10})
    assert found["direct"].high == found["direct"].value
    assert "outside the doubly robust interval" in (found["direct"].warning or "")
    found = estimate(**{**far, "direct": far["direct"] / 10})
    assert found["direct"].low == found["direct"].value
    assert (found["direct"].value or 0) < (found["doubly_robust"].low or 0)


def numbers(one: Estimate) -> list[float]:
    values = [one.value, one.low, one.high, one.uplift, one.uplift_low, one.uplift_high]
    return [np.nan if value is None else value for value in values]


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10_000), exponent=st.integers(-60, 60))
def test_money_in_another_unit_scales_everything(seed: int, exponent: int) -> None:
    log = draw(seed)
    unit = 10.0**exponent
    scaled = estimate(**{**log, "reward": log["reward"] * unit, "direct": log["direct"] * unit})
    for name, one in estimate(**log).items():
        assert numbers(scaled[name]) == pytest.approx(
            [x * unit for x in numbers(one)], rel=1e-7, abs=1e-10 * unit, nan_ok=True
        )
        assert scaled[name].tail_index == pytest.approx(one.tail_index)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10_000))
def test_losses_mirror_gains(seed: int) -> None:
    log = draw(seed)
    mirrored = estimate(**{**log, "reward": -log["reward"], "direct": -log["direct"]})
    for name, one in estimate(**log).items():
        value, low, high, uplift, uplift_low, uplift_high = numbers(mirrored[name])
        turned = [-value, -high, -low, -uplift, -uplift_high, -uplift_low]
        assert turned == pytest.approx(numbers(one), rel=1e-9, nan_ok=True)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10_000))
def test_the_order_of_requests_does_not_matter(seed: int) -> None:
    log = draw(seed)
    order = np.random.default_rng(seed).permutation(400)
    turned = {key: log[key][order] for key in ("state", "joint", "reward", "propensity")}
    other = estimate(**{**log, **turned})
    for name, one in estimate(**log).items():
        assert numbers(other[name]) == pytest.approx(numbers(one), rel=1e-9, abs=1e-12, nan_ok=True)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10_000))
def test_the_logging_policy_itself_earns_what_the_log_says(seed: int) -> None:
    generator = np.random.default_rng(seed)
    policy = generator.dirichlet([3.0, 3.0, 3.0], 4)
    state, joint = generator.integers(0, 4, 300), generator.integers(0, 3, 300)
    reward = generator.exponential(1.0, 300)
    found = estimate(policy, state, joint, reward, policy[state, joint])
    for name in ("ips", "snips"):
        assert found[name].value == pytest.approx(reward.mean(), rel=1e-12)
        assert found[name].uplift == pytest.approx(0, abs=1e-12)
        assert found[name].uplift_low is None  # no spread: nothing to be unsure about, and no certificate


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10_000), less=st.floats(0.5, 0.9), more=st.floats(0.91, 0.999))
def test_more_confidence_is_a_wider_interval(seed: int, less: float, more: float) -> None:
    log = draw(seed)
    wide = estimate(**log, confidence=more)
    for name, one in estimate(**log, confidence=less).items():
        if one.low is not None and one.high is not None:
            other = wide[name]
            assert other.low is not None
            assert other.high is not None
            assert other.low <= one.low <= one.high <= other.high


def test_heavy_tails_get_values_and_no_interval() -> None:
    log = draw(0, rows=4000, sigma=3.0)
    for one in estimate(**log).values():
        assert one.value is not None
        assert (one.low, one.high, one.uplift_low, one.uplift_high) == (None, None, None, None)
        assert "tail index" in (one.warning or "")
        assert one.tail_index is not None
        assert one.tail_index < 4 / 3


def test_no_revenue_and_equal_revenue_are_no_certificates() -> None:
    log = draw(0)
    for reward in (np.zeros(400), np.zeros(400) + (np.arange(400) == 7)):
        for one in estimate(**{**log, "reward": reward}).values():
            assert one.low is None
            assert "paid" in (one.warning or "")
    equal = estimate(**{**log, "reward": np.ones(400)})
    assert equal["snips"].value == pytest.approx(1)
    assert equal["snips"].low is None
    assert "all requests say the same" in (equal["snips"].warning or "")


def test_a_sharp_policy_that_the_log_never_follows() -> None:
    log = draw(0)
    sharp = np.zeros((4, 4))
    sharp[:, 3] = 1.0  # an action that was never taken
    found = estimate(sharp, log["state"], log["joint"], log["reward"], log["propensity"], np.ones((4, 4)))
    for name, one in found.items():
        assert (one.value is None) == (name != "direct")
        assert one.low is None
        assert "amount to 0.0 rows" in (one.warning or "")


BAD: list[tuple[str, Any, str]] = [
    ("policy", np.full((4, 3), 0.5), "rows that sum to 1"),
    ("policy", np.full((4, 3), np.nan), "policy: expected probabilities"),
    ("policy", np.array([[2.0, -1.0, 0.0]] * 4), "policy: expected probabilities"),
    ("policy", np.zeros((0, 3)), "policy: expected probabilities"),
    ("policy", np.ones(3), "policy: expected probabilities"),
    ("policy", [[1.0], [0.5, 0.5]], "policy: got rows of different lengths"),
    ("policy", "soft", "policy: got an array of type"),
    ("policy", None, "policy: got an array of type object"),
    ("state", np.full(400, 4), "state: row 1: got 4; expected a whole number from 0 to 3"),
    ("state", np.full(400, -1), "state: row 1: got -1"),
    ("state", np.full(400, 0.5), "state: row 1: got 0.5"),
    ("state", np.full(400, np.nan), "state: row 1: got nan"),
    ("joint", np.arange(400), "joint: row 4: got 3; expected a whole number from 0 to 2"),
    ("joint", np.zeros(399), r"joint: got shape \(399,\); expected \(400,\)"),
    ("joint", np.array(["0"] * 400), "joint: got an array of type"),
    ("reward", np.where(np.arange(400) == 2, np.nan, 1.0), "reward: row 3: got nan"),
    ("reward", np.where(np.arange(400) == 2, np.inf, 1.0), "reward: row 3: got inf"),
    ("reward", np.where(np.arange(400) == 2, 1e300, 1.0), "reward: row 3: got 1e\\+300; expected a finite number"),
    ("reward", np.ones((400, 1)), "reward: got shape"),
    ("reward", 3.0, "reward: got shape"),
    ("reward", [], "log: got 0 requests"),
    ("reward", [1.0], "log: got 1 requests"),
    ("reward", np.array([None] * 400), "reward: got an array of type object"),
    ("propensity", np.where(np.arange(400) == 1, 0.0, 0.5), "propensity: row 2: got 0; expected a number above 0"),
    ("propensity", np.where(np.arange(400) == 1, -0.5, 0.5), "propensity: row 2"),
    ("propensity", np.where(np.arange(400) == 1, 1.01, 0.5), "propensity: row 2: got 1.01"),
    ("propensity", np.where(np.arange(400) == 1, np.nan, 0.5), "propensity: row 2: got nan"),
    ("propensity", np.where(np.arange(400) == 1, 1e-300, 0.5), "propensity: row 2: got 1e-300"),
    ("propensity", 0.5, r"propensity: got shape \(\); expected \(400,\)"),
    ("direct", np.where(np.arange(12).reshape(4, 3) == 4, np.nan, 1.0), "direct: state 1, joint action 1: got nan"),
    ("direct", np.ones((3, 4)), r"direct: got shape \(3, 4\); expected \(4, 3\)"),
    ("direct", np.full((4, 3), 1e200), "direct: state 0, joint action 0: got 1e\\+200"),
    ("confidence", 1.0, "confidence: got 1.0"),
    ("confidence", np.nan, "confidence: got nan"),
]


@pytest.mark.parametrize(("name", "value", "said"), BAD)
def test_bad_input_is_one_line(name: str, value: Any, said: str) -> None:
    with pytest.raises(UserError, match=said) as stopped:
        estimate(**{**draw(0), name: value})
    assert "\n" not in str(stopped.value)


def test_scores_that_are_no_numbers_make_no_policy() -> None:
    with pytest.raises(UserError, match="scores: state 0, joint action 1: got nan"):
        policy_probabilities(np.array([[1.0, np.nan]]))


def test_the_rival_interval_by_hand() -> None:
    # Terms 2, 0, 4, 0: mean 1.5, spread √(11/3) = 1.914854; Student's quantile for three degrees of freedom is 3.182446.
    found = ope_coverage.student(WEIGHT, np.array([2.0, 0.0, 1.0, 5.0]))
    assert (found.value, found.warning) == (1.5, None)
    assert [found.low, found.high] == pytest.approx([1.5 - 3.182446 * 0.957427, 1.5 + 3.182446 * 0.957427])
    nothing = ope_coverage.student(WEIGHT, np.zeros(4))
    assert (nothing.low, nothing.high) == (0.0, 0.0)  # it refuses no log


@pytest.mark.parametrize(("method", "ended"), [("student", 0), ("ips", "below .90: 4 of 48 rows")])
def test_the_rival_does_not_decide_how_the_benchmark_ends(
    method: str, ended: int | str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def cell(world: ope_coverage.World, policy: str, kind: str, rows: int, logs: int) -> list[dict[str, Any]]:
        where = {"policy": policy, "reward": kind, "requests": rows}
        own = ("ips", "snips", "direct", "student")
        return [where | {"method": one, "coverage": 0.5 if one == method else 0.95} for one in own]

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(ope_coverage, "cell", cell)
    monkeypatch.setattr(ope_coverage, "draw", lambda table, path: None)
    monkeypatch.setattr("sys.argv", ["ope_coverage", "--quick"])
    (tmp_path / "runs/benchmarks/results").mkdir(parents=True)
    with pytest.raises(SystemExit) as stopped:
        ope_coverage.main()
    assert stopped.value.code == ended


@pytest.mark.slow
@pytest.mark.parametrize("reward", ["binary", "lognormal_1.5"])
@pytest.mark.parametrize("policy", ["soft", "argmax"])
def test_intervals_cover_in_the_world_of_the_benchmark(policy: str, reward: str) -> None:
    for row in ope_coverage.cell(ope_coverage.make_world(14), policy, reward, 2000, 150):
        if row["method"] == ope_coverage.RIVAL:
            assert row["intervals"] == 1.0
            continue
        assert row["coverage"] >= 0.90, row["method"]
        assert row["intervals"] > (0.85 if reward == "binary" else 0.3)
