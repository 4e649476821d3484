"""Off-policy estimates: numbers by hand, support, and agreement with the world's truth."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from marca_common.errors import UserError
from revenue_sim.ope import Estimate, estimate, policy_probabilities

STATE, JOINT = np.array([0, 0, 1, 1]), np.array([0, 1, 0, 1])
REWARD, PROPENSITY = np.array([1.0, 2.0, 3.0, 4.0]), np.array([0.5, 0.5, 0.25, 0.75])
POLICY = np.array([[0.5, 0.5], [1.0, 0.0]])
DIRECT = np.array([[1.0, 1.0], [2.0, 5.0]])


def test_by_hand() -> None:
    # w = 1, 1, 4, 0; w·r = 1, 2, 12, 0.
    found = estimate(POLICY, STATE, JOINT, REWARD, PROPENSITY, DIRECT, least_rows=1.5)
    assert found["ips"].value == pytest.approx(15 / 4)
    assert found["snips"].value == pytest.approx(15 / 6)
    assert found["direct"].value == pytest.approx((1 + 1 + 2 + 2) / 4)
    assert found["doubly_robust"].value == pytest.approx(1.5 + (0 + 1 + 4 * 1 + 0) / 4)
    assert found["ips"].effective_rows == pytest.approx(36 / 18)


def test_the_logging_policy_itself_is_the_mean_of_the_log() -> None:
    policy = np.array([[0.5, 0.5], [0.25, 0.75]])
    found = estimate(policy, STATE, JOINT, REWARD, PROPENSITY, DIRECT, least_rows=1.5)
    assert {found[name].value for name in ("ips", "snips")} == {REWARD.mean()}
    assert found["ips"].effective_rows == pytest.approx(4)


def test_a_warning_in_place_of_numbers_where_support_is_missing(caplog: pytest.LogCaptureFixture) -> None:
    generator = np.random.default_rng(0)
    state, joint = np.zeros(2000, np.int64), generator.integers(0, 2, 2000)
    policy = np.array([[0.3, 0.2, 0.5]])  # the log never takes the third action
    found = estimate(policy, state, joint, np.ones(2000), np.full(2000, 0.5), np.ones((1, 3)))
    assert all(one.value is None and "about 50 %" in (one.warning or "") for one in found.values())
    assert "no estimate" in caplog.text
    rare = estimate(np.array([[0.0, 1.0]]), state[:150], joint[:150], np.ones(150), np.full(150, 0.5))
    assert rare["ips"].value is None
    assert "rows" in (rare["ips"].warning or "")


def test_without_propensities_there_is_no_number() -> None:
    found = estimate(POLICY, STATE, JOINT, REWARD, None, DIRECT)
    assert all(one.value is None and "no propensities" in (one.warning or "") for one in found.values())


def within(found: Estimate, truth: float) -> bool:
    """Whether the interval holds the truth; there must be an interval."""
    assert found.low is not None
    assert found.high is not None
    return found.low <= truth <= found.high


def test_intervals_cover() -> None:
    generator = np.random.default_rng(1)
    covered = np.zeros(3)
    policy, truth = np.array([[0.2, 0.8]]), np.array([[1.0, 3.0]])
    for _ in range(200):
        joint = (generator.random(800) < 0.4).astype(int)
        propensity = np.where(joint == 1, 0.4, 0.6)
        reward = generator.gamma(1.0, truth[0, joint])
        found = estimate(policy, np.zeros(800, int), joint, reward, propensity, np.array([[2.0, 2.0]]))
        for k, name in enumerate(("ips", "snips", "doubly_robust")):
            covered[k] += within(found[name], 2.6)
    assert (covered / 200 > 0.89).all()
    assert (covered / 200 < 0.995).all()


def test_policies_of_scores() -> None:
    scores, costs = np.array([[1.0, 3.0, 2.0]]), np.array([[0.0, 2.0, 0.5]])
    assert policy_probabilities(scores).tolist() == [[0, 1, 0]]
    assert policy_probabilities(scores, costs=costs, lambda_=1.0).tolist() == [[0, 0, 1]]
    mixed = policy_probabilities(scores, mix=0.3)
    assert mixed[0] == pytest.approx([0.1, 0.8, 0.1])
    soft = policy_probabilities(scores, temperature=1.0)[0]
    assert soft[1] / soft[0] == pytest.approx(np.exp(2.0), rel=1e-5)


def test_bad_input_is_named() -> None:
    with pytest.raises(UserError, match="policy: expected probabilities"):
        estimate(POLICY * 2, STATE, JOINT, REWARD, PROPENSITY)
    with pytest.raises(UserError, match="propensity: row 2"):
        estimate(POLICY, STATE, JOINT, REWARD, np.array([0.5, 0.0, 0.5, 0.5]))


@pytest.mark.slow
def test_agreement_with_the_worlds_truth(small_world: Path) -> None:
    from cascade_world.world import load_truth

    truth = load_truth(small_world)
    spec = truth.request_spec()
    frame = spec.read(small_world / "logs/requests.parquet")
    states, ids, _ = spec.distinct_states(frame)
    values = truth.values(states)
    biased = 1.3 * values * np.random.default_rng(0).lognormal(0, 0.3, values.shape)
    reward, propensity = frame[spec.reward].to_numpy(), frame[spec.propensity].to_numpy()
    for temperature in (100.0, 20.0, 5.0):
        policy = policy_probabilities(values, temperature=temperature)
        right = float((policy * values).sum(axis=1)[ids].mean())
        found = estimate(policy, ids, spec.joint_index(frame), reward, propensity, biased, confidence=0.999)
        for name in ("ips", "snips", "doubly_robust"):
            assert within(found[name], right), name
        assert (found["direct"].low or 0) > right  # a biased model stays biased; doubly robust is not
    sharp = estimate(policy_probabilities(values), ids, spec.joint_index(frame), reward, propensity, biased)
    assert all(one.value is None for one in sharp.values())
