"""Random effects of joint actions: parts of a profile by hand, variances that the log tells, what is never logged."""

from __future__ import annotations

import numpy as np
import pytest

from awrq_mixer.anchoring.action_effects import action_mean, corrections, main_and_pair_tables, parts_of
from marca_common.requests import RequestSpec

SPEC = RequestSpec.model_validate(
    {
        "state": {"place": "category"},
        "agents": {"all": ["b1", "b2", "b3"]},
        "sizes": {"b1": 2, "b2": 2, "b3": 5},
        "results": [],
        "reward": "money",
        "timestamp": None,
        "propensity": None,
    }
)
JOINT = SPEC.joint_table()


def test_tables_have_a_one_for_every_entry() -> None:
    tables = main_and_pair_tables(SPEC)
    assert [one.shape for one in tables] == [(20, n) for n in (2, 2, 5, 4, 10, 10)]
    for one in tables:
        assert (one.sum(axis=1) == 1).all()
    assert np.array_equal(tables[0][:, 1], JOINT[:, 0])
    assert np.array_equal(tables[3][:, 2], (JOINT[:, 0] == 1) & (JOINT[:, 1] == 0))


def test_tables_of_many_pairs_are_left_out_the_largest_first() -> None:
    spec = RequestSpec.model_validate(SPEC.model_dump() | {"sizes": {"b1": 2, "b2": 30, "b3": 40}})
    assert [one.shape[1] for one in main_and_pair_tables(spec)] == [
        2,
        30,
        40,
        60,
        80,
    ]  # 1,200 pairs of b2 and b3 are too many


def test_a_profile_is_taken_apart_by_hand() -> None:
    spec = RequestSpec.model_validate(SPEC.model_dump() | {"sizes": {"b1": 2, "b2": 2, "b3": 1}})
    singles, pairs, rest = parts_of(np.array([1.0, 2.0, 3.0, 8.0]), spec)  # rows b1, columns b2
    # mean 3.5; b1: ±2, b2: ±1.5; what is left: 1 on the diagonal, −1 beside it
    np.testing.assert_allclose(singles[:, :2], [[-2, -1.5], [-2, 1.5], [2, -1.5], [2, 1.5]])
    np.testing.assert_allclose(pairs[:, 0], [1, -1, -1, 1])
    np.testing.assert_allclose(np.c_[singles[:, 2], pairs[:, 1:], rest], 0, atol=1e-12)


def test_parts_add_up() -> None:
    log = np.random.default_rng(0).normal(size=20)
    np.testing.assert_allclose(np.hstack(parts_of(log, SPEC)).sum(axis=1), log - log.mean(), atol=1e-12)


def test_means_of_actions_are_said_of_those_never_logged() -> None:
    truth = np.array([1.0, 3.0])[JOINT[:, 0]] + np.arange(5.0)[JOINT[:, 2]]
    joint = np.repeat(np.arange(1, 20), 50)  # joint action 0 never
    found = action_mean(truth[joint], joint, main_and_pair_tables(SPEC))
    np.testing.assert_allclose(found, truth - truth.mean(), atol=0.05)


def _drawn(effect: np.ndarray, rows: int, seed: int = 0, noise: float = 4.0) -> tuple[np.ndarray, np.ndarray]:
    """Joint actions, and rewards with a coefficient of variation of ``noise`` around exp(effect)."""
    rng = np.random.default_rng(seed)
    joint = rng.integers(0, len(effect), rows)
    return joint, np.exp(effect[joint]) * rng.gamma(noise**-2, noise**2, rows)


def test_what_has_no_noise_is_found() -> None:
    effect = np.array([0.0, 0.4])[JOINT[:, 0]] + np.array([[0.2, -0.2], [-0.2, 0.2]])[JOINT[:, 0], JOINT[:, 1]]
    joint = np.tile(np.arange(20), 50)
    found = corrections(np.exp(effect)[joint], np.full(1000, 2.0), joint, main_and_pair_tables(SPEC))
    np.testing.assert_allclose(found, effect - np.log(2), atol=1e-3)


def test_noise_alone_is_shrunk_away_and_a_large_table_is_not() -> None:
    blocks, flat = main_and_pair_tables(SPEC), np.zeros(20)
    raw, shrunk = [], []
    for seed in range(5):
        joint, reward = _drawn(flat, 4000, seed)
        found = corrections(reward, np.ones(4000), joint, blocks)
        averages = np.log([reward[joint == a].mean() for a in range(20)])
        raw.append(averages.std())
        shrunk.append(found.std())
    assert np.mean(shrunk) < 0.4 * np.mean(raw)
    effect = np.linspace(-1, 1, 5)[JOINT[:, 2]]
    joint, reward = _drawn(effect, 20_000)
    found = corrections(reward, np.ones(20_000), joint, blocks)
    assert np.abs(found - found.mean() - effect).max() < 0.15


def test_a_covariate_tells_what_tables_would_have_to_learn_entry_by_entry() -> None:
    x = np.random.default_rng(1).normal(size=20)
    joint, reward = _drawn(0.5 * x, 3000)
    tables = main_and_pair_tables(SPEC)
    error = {
        name: np.std(corrections(reward, np.ones(3000), joint, blocks) - 0.5 * x)
        for name, blocks in {"tables": tables, "and x": [*tables, x[:, None]]}.items()
    }
    assert error["and x"] < 0.7 * error["tables"]


def test_a_part_that_is_overrated_is_scaled_down() -> None:
    rng = np.random.default_rng(3)
    truth = rng.normal(0, 0.5, 5)[JOINT[:, 2]]
    start = truth + rng.normal(0, 0.4, 20)  # what is not explained by b3 is made up
    joint, reward = _drawn(truth, 30_000, noise=2.0)
    expected = np.exp(start)[joint]
    found = start + corrections(reward, expected, joint, [*main_and_pair_tables(SPEC), *parts_of(start, SPEC)])
    assert np.std(found - truth) < 0.5 * np.std(start - truth)


@pytest.mark.parametrize("unit", [1e-6, 1e6])
def test_units_change_the_constant_alone(unit: float) -> None:
    joint, reward = _drawn(0.3 * (JOINT[:, 0] == 1), 3000)
    blocks = main_and_pair_tables(SPEC)
    found, other = (corrections(u * reward, np.ones(3000), joint, blocks) for u in (1.0, unit))
    np.testing.assert_allclose(other - np.log(unit), found, atol=1e-6)


def test_an_action_that_never_paid_stays_finite() -> None:
    joint, reward = _drawn(np.zeros(20), 2000)
    reward[joint == 7] = 0.0
    found = corrections(reward, np.ones(2000), joint, main_and_pair_tables(SPEC))
    assert np.isfinite(found).all()
    assert found[7] < found.mean()
