"""Off-policy estimates: numbers by hand, support, and agreement with the world's truth."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from marca_common.errors import UserError
from marca_common.files import read_json
from marca_common.requests import RequestSpec
from marca_common.scores import ScoreMatrix, write_scores
from revenue_sim.ope import Estimate, OpeConfig, estimate, evaluate_policy, policy_probabilities

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


def test_a_warning_in_place_of_numbers_where_support_is_missing() -> None:
    generator = np.random.default_rng(0)
    state, joint = np.zeros(2000, np.int64), generator.integers(0, 2, 2000)
    policy = np.array([[0.3, 0.2, 0.5]])  # the log never takes the third action
    found = estimate(policy, state, joint, np.ones(2000), np.full(2000, 0.5), np.ones((1, 3)))
    for name, one in found.items():
        assert (one.value is None) == (name != "direct")
        assert (one.low, one.high) == (None, None)
        assert "about 50 %" in (one.warning or "")
    assert "cannot tell the model's error" in (found["direct"].warning or "")
    rare = estimate(np.array([[0.0, 1.0]]), state[:120], joint[:120], np.ones(120), np.full(120, 0.5))
    assert rare["ips"].value is None
    assert "rows" in (rare["ips"].warning or "")


def test_without_propensities_only_the_direct_method_has_a_number() -> None:
    found = estimate(POLICY, STATE, JOINT, REWARD, None, DIRECT)
    direct = found.pop("direct")
    assert {*found} == {"ips", "snips", "doubly_robust", "switch_dr", "shrunk_dr"}
    assert all(one.value is None and "no propensities" in (one.warning or "") for one in found.values())
    # The model expects 1, 1, 2, 2 in the requests' states: no skewness, standard error sqrt(1/3/4), and ln 40 / 2 / 4 · .5 unseen.
    assert direct.value == pytest.approx(1.5)
    reach = 1.959964 * np.sqrt(1 / 12) + np.log(40) / 8 * 0.5
    assert (direct.low, direct.high) == pytest.approx((1.5 - reach, 1.5 + reach))
    assert direct.uplift == pytest.approx(1.5 - 2.5)
    assert direct.uplift_low is None
    assert "leaves out the model's error" in (direct.warning or "")


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


SPEC = RequestSpec(state={"place": "category"}, agents={"one": ["a1"]}, sizes={"a1": 3}, results=[], timestamp=None)


@pytest.mark.parametrize("propensity", [True, False])
def test_the_program_keeps_estimates_and_warnings(propensity: bool, tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    place, action = generator.integers(0, 4, 3000), generator.integers(0, 3, 3000)
    worth = np.arange(12.0).reshape(4, 3).astype(np.float32) + 1
    log = pd.DataFrame({"place": np.array(list("abcd"))[place], "a1": action})
    log["revenue"] = worth[place, action] * generator.exponential(1.0, 3000)
    if propensity:
        log["propensity"] = 1 / 3
    log.to_csv(tmp_path / "log.csv", index=False)
    write_scores(ScoreMatrix(pd.DataFrame({"place": list("abcd")}), {"q": worth}), tmp_path / "scores.parquet")
    scores = str(tmp_path / "scores.parquet")
    config = OpeConfig.model_validate(
        {
            "spec": SPEC.model_dump(),
            "requests": str(tmp_path / "log.csv"),
            "scores": scores,
            "direct": scores,
            "mix": 0.0,
        }
    )
    result = evaluate_policy(config, tmp_path / "run")
    summary, table = read_json(tmp_path / "run/summary.json"), pd.read_csv(tmp_path / "run/ope.csv", index_col="method")
    assert summary["requests"] == 3000
    assert list(table.index) == list(result.estimates)
    assert table.loc["direct", "value"] == pytest.approx(summary["direct"]["value"])
    if propensity:
        # The best action everywhere: 3, 6, 9, 12.
        assert all(within(one, worth.max(axis=1)[place].mean()) for one in result.estimates.values())
        assert summary["doubly_robust"]["uplift_low"] > 0
        assert "warnings" not in summary
    else:
        assert len(summary["warnings"]) == 2
        assert "ips, snips, doubly_robust, switch_dr, shrunk_dr: no estimate: the log has no" in summary["warnings"][0]
        assert summary["warnings"][1].startswith("direct: the interval is for the sampling of requests only")


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
        assert (found["direct"].value or 0) > 1.1 * right  # a biased model stays biased
        assert within(found["direct"], right)  # and its interval is wide enough to say so
    sharp = estimate(policy_probabilities(values), ids, spec.joint_index(frame), reward, propensity, biased)
    assert all(one.value is None for name, one in sharp.items() if name != "direct")
    assert sharp["direct"].low is None
