"""Off-policy estimates at the very limits of what is allowed, policies from scores, and messages word by word."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from marca_common.errors import UserError
from revenue_sim.off_policy.estimators import least_error, shrunk_dr, snips, switch_dr
from revenue_sim.off_policy.intervals import reach
from revenue_sim.off_policy.logged import checked, policy_probabilities
from revenue_sim.off_policy.support import LEAST_TAIL_INDEX, missing_support, no_interval
from revenue_sim.ope import OpeConfig, estimate

SCORES = np.array([[1.0, 3.0, 2.0], [5.0, 4.0, 0.0]])
LOG: dict[str, Any] = {
    "policy": [[0.5, 0.5], [1.0, 0.0]],
    "state": [0, 0, 1, 1],
    "joint": [0, 1, 0, 1],
    "reward": [1.0, 2.0, 3.0, 4.0],
    "propensity": [0.5, 0.5, 0.25, 0.75],
    "direct": [[1.0, 1.0], [2.0, 5.0]],
}


def test_policies_of_scores_by_hand() -> None:
    assert policy_probabilities(SCORES).tolist() == [[0, 1, 0], [1, 0, 0]]
    assert policy_probabilities(SCORES, mix=0.3) == pytest.approx(np.array([[0.1, 0.8, 0.1], [0.8, 0.1, 0.1]]))
    costs = np.array([[0.0, 4.0, 1.0], [0.0, 0.0, 0.0]])
    assert policy_probabilities(SCORES, costs=costs, lambda_=0.5).tolist() == [[0, 0, 1], [1, 0, 0]]
    soft = policy_probabilities(SCORES, costs=costs, lambda_=0.5, temperature=2.0, mix=0.25)
    worth = np.exp(np.array([[1.0, 1.0, 1.5], [5.0, 4.0, 0.0]]) / 2)
    assert soft == pytest.approx(0.75 * worth / worth.sum(1, keepdims=True) + 0.25 / 3)
    assert soft.dtype == np.float32
    whole = policy_probabilities(SCORES.astype(int), costs=costs.astype(int), lambda_=0.5)
    assert whole.tolist() == [[0, 0, 1], [1, 0, 0]]
    assert policy_probabilities(np.array([[-np.inf, -7.0]])).tolist() == [[0, 1]]


@pytest.mark.parametrize(
    "change, complaint",
    [
        ({"policy": [[0.5, 0.5], [1.0, 2e-4]]}, "policy: expected probabilities (states, actions), rows that sum to 1; row 2 sums to 1.0002"),
        ({"policy": [[0.5, 0.5], [1.0, np.inf]]}, "policy: expected probabilities (states, actions), rows that sum to 1"),
        ({"reward": np.ones((4, 1))}, "reward: got shape (4, 1); expected one number per logged request"),
        ({"reward": [1.0]}, "log: got 1 requests in the policy's states; expected at least 2"),
        ({"reward": ["1"] * 4}, "reward: got an array of type <U1; expected numbers"),
        ({"reward": [1.0, 2.0, -1.1e100, 0.0]}, "reward: row 3: got -1.1e+100; expected a finite number, at most 1e+100 in size"),
        ({"state": [0, 0, 1]}, "state: got shape (3,); expected (4,), one per logged request"),
        ({"state": [0, 0, 1, 2]}, "state: row 4: got 2; expected a whole number from 0 to 1, a place in the policy"),
        ({"joint": ["0"] * 4}, "joint: got an array of type <U1; expected numbers"),
        ({"propensity": [0.5] * 3}, "propensity: got shape (3,); expected (4,), one per logged request"),
        ({"propensity": ["x"] * 4}, "propensity: got an array of type <U1; expected numbers"),
        (
            {"propensity": [0.5, 0.9e-12, 1.0, 1.0]},
            "propensity: row 2: got 9e-13; expected a number above 0 (at least 1e-12), at most 1",
        ),
        ({"direct": [[1.0, 1.0]]}, "direct: got shape (1, 2); expected (2, 2), that of the policy"),
        ({"direct": [["x", "y"]] * 2}, "direct: got an array of type <U1; expected numbers"),
        ({"direct": [[1.0], [2.0, 3.0]]}, "direct: got rows of different lengths; expected an array of numbers"),
        (
            {"direct": [[1.0, 1.0], [1.0, np.nan]]},
            "direct: state 1, joint action 1: got nan; expected a finite number, at most 1e+100 in size",
        ),
    ],
)  # fmt: skip
def test_refusals_word_by_word(change: dict[str, Any], complaint: str) -> None:
    with pytest.raises(UserError) as refused:
        checked(**{**LOG, **change})
    assert str(refused.value) == complaint


def test_numbers_at_the_limits_are_taken() -> None:
    log = checked(
        **{
            **LOG,
            "policy": [[0.5, 0.5], [1.0, 0.9e-4]],
            "reward": [1e100, -1e100, 0.0, True],
            "propensity": [1e-12, 1.0, 1.0, 1.0],
            "direct": [[1e100, -1e100], [0, 0]],
        }
    )
    assert log.weight is not None
    assert log.weight.tolist() == pytest.approx([0.5e12, 0.5, 1.0, 0.9e-4])
    assert (
        len(checked(**{**LOG, **{name: LOG[name][:2] for name in ("state", "joint", "reward", "propensity")}}).reward)
        == 2
    )
    plain = checked(**{**LOG, "propensity": None, "direct": None})
    assert plain.weight is None
    assert plain.direct is None
    assert [one.dtype.name for one in (plain.state, plain.joint, plain.reward)] == ["int64", "int64", "float64"]


def test_the_fewest_rows_and_payments_that_will_do() -> None:
    assert OpeConfig(requests="r.csv", scores="s.csv").least_rows == 80
    ones = np.ones(80)
    assert missing_support(ones, 80.0, 80.0) is None
    assert missing_support(ones, 79.99, 80.0) == "the weights amount to 80.0 rows; at least 80 are needed"
    paid = np.ones(50)
    assert no_interval(paid, np.arange(50) < 10, None) is None
    assert (
        no_interval(paid, np.arange(50) < 9, None)
        == "9 requests with actions of the policy paid; at least 10 are needed"
    )
    assert no_interval(-paid, np.arange(50) < 10, None) is None  # losses are payments, too
    assert no_interval(paid, paid, LEAST_TAIL_INDEX) is None
    assert (
        no_interval(paid, paid, 1.3)
        == "the rewards' tail index is 1.30; below 1.33 means are ruled by payments not yet seen"
    )
    assert no_interval(paid, 1.0 * (np.arange(50) < 19), 1.5) == (
        "the rewards' tail index is 1.50, and those that paid amount to 19.0 rows; at least 20 are needed up to an index of 2"
    )


def test_weights_whose_mean_is_one_but_for_chance() -> None:
    # Ones and threes: the mean's standard error is 1/√rows; the log may be off by four of them.
    def spread(mean: float, rows: int) -> np.ndarray:
        return mean + np.where(np.arange(rows) % 2, 1.0, -1.0)

    assert missing_support(spread(1 - 0.39, 100), 99.0, 80.0) is None
    assert missing_support(spread(1 - 0.41, 100), 99.0, 80.0) == (
        "the log never takes actions that hold about 41 % of the policy's probability"
    )
    assert missing_support(spread(1 + 0.39, 100), 99.0, 80.0) is None
    assert missing_support(spread(1 + 0.41, 100), 99.0, 80.0) == (
        "the weights' mean is 1.41 where it should be 1: the propensities are not those of the logged actions"
    )
    assert missing_support(np.full(100, 1 + 0.9e-4), 99.0, 80.0) is None  # rounding of the policy
    assert missing_support(np.full(100, 1 - 0.9e-4), 99.0, 80.0) is None


def test_estimates_where_weights_are_small_or_none() -> None:
    log = checked(**LOG)
    weight = np.array([1.0, 1.0, 4.0, 0.0])
    large, small = snips(log.reward, weight), snips(log.reward, weight / 1024)
    assert small.value == pytest.approx(large.value)
    assert small.influence == pytest.approx(large.influence)
    assert snips(log.reward, np.zeros(4)).value == 0
    assert shrunk_dr(log, weight / 1024).value == pytest.approx(1.5, abs=0.02)
    assert shrunk_dr(log, np.zeros(4)).value == 1.5  # the model's expectations 1, 1, 2, 2


def test_the_later_of_equal_rivals_is_taken() -> None:
    log = checked(**{**LOG, "reward": [1.0, 1.0, 2.0, 5.0]})  # the model is right: no residual, all rivals alike
    first, second = np.ones(4), np.array([1.0, 1.0, 4.0, 0.0])
    assert least_error(log, second, [first, second]).tolist() == [1, 1, 2, 2]
    # Residuals 0, 0, 1, −1: rivals of the same variance and the same bias, whose terms differ.
    log = checked(**{**LOG, "reward": [1.0, 1.0, 3.0, 4.0]})
    one, other = np.array([1.0, 1, 1, 0]), np.array([1.0, 1, 0, -1])
    assert least_error(log, np.ones(4), [one, other]).tolist() == [1, 1, 2, 3]
    assert least_error(log, np.ones(4), [other, one]).tolist() == [1, 1, 3, 2]


def test_a_spread_of_just_the_rounding_is_none() -> None:
    terms = np.array([2.0**-20, -(2.0**-20)])
    assert reach(terms, 0.95, 2.0**-20 / 1e-6) is None
    assert reach(terms, 0.95, 0.999 * 2.0**-20 / 1e-6) is not None


def test_confidence_at_its_ends() -> None:
    for confidence in (0.0, 1.0, -0.1, 1.1):
        with pytest.raises(UserError) as refused:
            estimate(**LOG, confidence=confidence)
        assert str(refused.value) == f"confidence: got {confidence}; expected a number above 0, below 1"


METHODS = ["ips", "snips", "direct", "doubly_robust", "switch_dr", "shrunk_dr"]
SAMPLING = (
    "the interval is for the sampling of requests only; it leaves out the model's error, which needs propensities"
)


def test_what_a_log_without_propensities_tells() -> None:
    found = estimate(**{**LOG, "propensity": None}, confidence=0.9)
    assert sorted(found) == sorted(METHODS)
    assert all(name == one.method for name, one in found.items())
    assert {one.effective_rows for one in found.values()} == {4.0}
    for name in set(METHODS) - {"direct"}:
        one = found[name]
        assert (one.value, one.low, one.high, one.uplift, one.largest_weight) == (None,) * 5
        assert one.warning == "no estimate: the log has no propensities"
    one = found["direct"]  # the model expects 1, 1, 2, 2; the log's mean is 2.5
    below, above = reach(np.array([-0.5, -0.5, 0.5, 0.5]), 0.9, 1.5) or (0.0, 0.0)
    assert (one.value, one.low, one.high) == pytest.approx((1.5, 1.5 - below, 1.5 + above))
    assert (one.uplift, one.uplift_low, one.uplift_high) == (-1.0, None, None)
    assert one.warning == SAMPLING
    flat = estimate(**{**LOG, "propensity": None, "direct": [[7.0, 7.0], [7.0, 7.0]]})["direct"]
    assert (flat.value, flat.low, flat.high) == (7.0, None, None)
    assert flat.warning == "no interval: all requests say the same, which is no proof that others would"
    assert sorted(estimate(**{**LOG, "propensity": None, "direct": None})) == ["ips", "snips"]


def test_what_a_log_without_support_tells() -> None:
    found = estimate(**LOG)
    reason = "the weights amount to 2.0 rows; at least 80 are needed"
    assert sorted(found) == sorted(METHODS)
    for name in set(METHODS) - {"direct"}:
        assert found[name].warning == f"no estimate: {reason}"
        assert found[name].value is None
    one = found["direct"]
    assert (one.method, one.value, one.low, one.high, one.uplift) == ("direct", 1.5, None, None, -1.0)
    assert one.warning == f"no interval: the log cannot tell the model's error: {reason}"
    assert (one.effective_rows, one.largest_weight) == pytest.approx((2.0, 4 / 6))
    assert sorted(estimate(**{**LOG, "direct": None})) == ["ips", "snips"]


def test_what_a_log_that_pays_too_rarely_tells() -> None:
    generator = np.random.default_rng(0)
    rows = 400
    log: dict[str, Any] = {
        "state": generator.integers(0, 2, rows),
        "joint": generator.integers(0, 2, rows),
        "propensity": np.full(rows, 0.5),
    }
    reward = np.where(np.arange(rows) < 5, 8.0, 0.0)
    found = estimate([[0.5, 0.5], [0.5, 0.5]], reward=reward, direct=[[0.1, 0.1], [0.2, 0.2]], **log)
    assert [one.method for one in found.values()] == list(found)
    assert sorted(found) == sorted(METHODS)
    for one in found.values():
        assert one.warning == "no interval: 5 requests with actions of the policy paid; at least 10 are needed"
        assert one.value is not None
        assert one.uplift == pytest.approx(one.value - 0.1)
        assert (one.low, one.high, one.uplift_low, one.uplift_high) == (None,) * 4
    assert found["ips"].value == pytest.approx(0.1)
    assert (found["ips"].effective_rows, found["ips"].largest_weight) == pytest.approx((rows, 1 / rows))


def test_switching_looks_at_twenty_quantiles_from_the_median_up() -> None:
    rows, generator, picked = 401, np.random.default_rng(1), set()
    weight = np.arange(1.0, 402.0)  # quantiles of twenty levels: 201, 211.53 …, 401
    rivals = [np.where(weight <= limit, weight, 0.0) for limit in 1 + 400 * np.linspace(0.5, 1.0, 20)]
    for mean in np.linspace(0.0, 1.5, 20):
        reward = mean + generator.normal(0, 4, rows)
        log = checked([[1.0]], np.zeros(rows), np.zeros(rows), reward, np.full(rows, 0.5), [[0.0]])
        errors = [(one * reward).var() / rows + ((weight - one) * reward).mean() ** 2 for one in rivals]
        picked.add(int(np.argmin(errors)))
        assert switch_dr(log, weight).value == pytest.approx((rivals[int(np.argmin(errors))] * reward).mean())
    assert len(picked) > 3
