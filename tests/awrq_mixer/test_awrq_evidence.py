"""How far held-out revenue bears out a learner: its regression against slow references, and learners of known worth."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize

from awrq_mixer.anchoring.anchor import Anchor
from awrq_mixer.anchoring.evidence import Slopes, fit_anchor, pooled_shares, tweedie_regression
from marca_common.requests import RequestSpec

STATES = 40
SPEC = RequestSpec.model_validate(
    {
        "state": {"s": "category"},
        "agents": {"all": ["b1", "b2"]},
        "sizes": {"b1": 3, "b2": 4},
        "results": [],
        "reward": "money",
        "timestamp": None,
        "propensity": None,
    }
)
_RNG = np.random.default_rng(0)
TRUTH = np.exp(_RNG.normal(0, 0.5, (STATES, 1)) + _RNG.normal(0, 0.3, 12) + _RNG.normal(0, 0.5, (STATES, 12)))
LEVEL = TRUTH.mean(axis=1, keepdims=True)


def _departing(times: float) -> np.ndarray:
    """True values whose departures from the mean shape are so many times as large, (S, A)."""
    shape = np.log(TRUTH) - np.log(LEVEL)
    grown = np.exp(shape.mean(axis=0) + times * (shape - shape.mean(axis=0)))
    return np.asarray(LEVEL * grown / grown.mean(axis=1, keepdims=True))


def _log(rows: int, seed: int) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    state, joint = rng.integers(0, STATES, rows), rng.integers(0, 12, rows)
    money = np.where(rng.random(rows) < 0.3, TRUTH[state, joint] / 0.3 * rng.gamma(2, 0.5, rows), 0.0)
    return pd.DataFrame(SPEC.joint_table()[joint], columns=["b1", "b2"]).assign(s=state.astype(str), money=money)


def _values(table: np.ndarray) -> Callable[[pd.DataFrame], np.ndarray]:
    return lambda states: table[states["s"].astype(int)].astype(np.float32)


def _fit(table: np.ndarray, rows: int = 30_000, seed: int = 2, confidence: float = 2.0) -> tuple[Anchor, Slopes]:
    profile = TRUTH.mean(axis=0)
    return fit_anchor(_values(table), profile, _log(2000, 1), [(_values(table), _log(rows, seed))], SPEC, 3, confidence)


def test_a_learner_that_is_right_keeps_its_departures() -> None:
    anchor, slopes = _fit(TRUTH)
    assert np.allclose(slopes.slope, 1, atol=0.2)
    assert slopes.level == pytest.approx(1, abs=0.1)
    assert (anchor.shares > 0.75).all()
    error = [np.abs(np.log(one / TRUTH)).mean() for one in (anchor.apply(TRUTH.astype(np.float32)), TRUTH.mean(axis=0))]
    assert error[0] < 0.2 * error[1]


def test_slopes_that_agree_are_pooled_by_hand() -> None:
    slopes = Slopes(1.0, 0.1, np.array([0.7, 0.9, 0.0]), np.array([0.2, 0.1, np.inf]))
    # Q = 25·.04 ... weights 25 and 100, mean .86, Q = 25·.16² + 100·.04² = .8 < 1: no variance between directions
    error = 1 / np.sqrt(125)
    assert pooled_shares(slopes, 0.0) == pytest.approx([0.86, 0.86, 0.0])
    assert pooled_shares(slopes, 2.0) == pytest.approx([0.86 - 2 * error, 0.86 - 2 * error, 0.0])


def test_slopes_that_differ_keep_what_is_their_own_by_hand() -> None:
    slopes = Slopes(1.0, 0.1, np.array([0.9, 0.1]), np.array([0.1, 0.1]))
    # mean .5, Q = 100·(.16 + .16) = 32, τ² = (32 − 1)/(200 − 100) = .31; each keeps .31/.32 of its distance from the mean
    own = 0.31 / 0.32
    assert pooled_shares(slopes, 0.0) == pytest.approx([0.5 + 0.4 * own, 0.5 - 0.4 * own])
    error = np.sqrt(own * 0.01 + (1 - own) ** 2 * 0.32 / 2)
    assert pooled_shares(slopes, 1.0)[0] == pytest.approx(0.5 + 0.4 * own - error)


@given(st.lists(st.tuples(st.floats(-3, 3), st.floats(0.01, 10)), min_size=1, max_size=12), st.floats(0, 3))
def test_shares_lie_between_0_and_1_and_fall_with_caution(pairs: list[tuple[float, float]], confidence: float) -> None:
    slopes = Slopes(1.0, 0.1, *np.array(pairs).T)
    shares = pooled_shares(slopes, confidence)
    assert ((shares >= 0) & (shares <= 1)).all()
    assert (shares <= pooled_shares(slopes, 0.0) + 1e-12).all()


def test_a_level_the_learner_misses_does_not_pass_for_departures() -> None:
    """The log gives the dear action to rich states. The learner sees no levels, and claims that rich states like it more."""
    rng, profile = np.random.default_rng(8), np.exp(np.linspace(0, 0.5, 12))
    rich = np.arange(STATES) % 2 == 1
    claimed = np.repeat(profile[None], STATES, 0) * np.exp(0.5 * rich[:, None] * (np.arange(12) == 11))
    claimed *= np.exp(rng.normal(0, 0.02, claimed.shape))
    claimed /= claimed.mean(axis=1, keepdims=True)
    state = np.arange(40_000) % STATES  # as many rows each, so that groups of states are all rich or all poor
    joint = np.where(rng.random(len(state)) < 0.5, np.where(rich[state], 11, 0), rng.integers(0, 12, len(state)))
    money = np.exp(1.0 * rich[state]) * profile[joint] * rng.gamma(2, 0.5, len(state))
    log = pd.DataFrame(SPEC.joint_table()[joint], columns=["b1", "b2"]).assign(s=state.astype(str), money=money)

    def values(states: pd.DataFrame) -> np.ndarray:
        return np.asarray(claimed[states["s"].astype(int)], np.float32)

    anchor, _ = fit_anchor(values, profile, log, [(values, log)], SPEC, 3, 2.0)
    assert (anchor.shares < 0.15).all()


def test_noise_is_not_kept() -> None:
    noise = LEVEL * np.exp(np.random.default_rng(9).normal(0, 0.5, (STATES, 12)))
    anchor, slopes = _fit(noise)
    assert np.allclose(anchor.shares, 0)
    assert slopes.level == pytest.approx(0.9, abs=0.15)
    shape = anchor.apply(noise.astype(np.float32))
    profile = TRUTH.mean(axis=0)
    assert np.allclose(shape / shape.mean(axis=1, keepdims=True), profile / profile.mean(), rtol=1e-4)


def test_noise_that_goes_along_with_dear_actions_is_not_kept() -> None:
    """The log gives the dear action to states whose noise is above the mean there: revenue follows noise by way of it."""
    rng, profile = np.random.default_rng(4), np.exp(np.linspace(0, 1.5, 12))
    noise = profile * np.exp(rng.normal(0, 0.5, (STATES, 12)))
    log = _log(20_000, 3)
    state, lucky = log["s"].astype(int).to_numpy(), np.log(noise[:, 11]) > np.log(noise[:, 11]).mean()
    joint = np.where(rng.random(len(log)) < 0.8, np.where(lucky[state], 11, 0), SPEC.joint_index(log))
    log["b1"], log["b2"] = SPEC.joint_table()[joint].T
    log["money"] = np.where(rng.random(len(log)) < 0.3, profile[joint] * rng.gamma(2, 0.5, len(log)), 0.0)
    anchor, slopes = fit_anchor(_values(noise), profile, log, [(_values(noise), log)], SPEC, 3, 2.0)
    assert (anchor.shares < 0.1).all()
    assert (np.abs(slopes.slope) < 4 * slopes.se).all()


def test_departures_half_as_large_as_the_truths_are_kept_whole_but_not_enlarged() -> None:
    anchor, slopes = _fit(_departing(0.5))
    assert np.allclose(slopes.slope, 2, atol=0.4)
    assert np.array_equal(anchor.shares, np.ones(4))


def test_departures_twice_as_large_are_halved() -> None:
    anchor, slopes = _fit(_departing(2))
    assert np.allclose(slopes.slope, 0.5, atol=0.1)
    assert ((anchor.shares > 0.35) & (anchor.shares < 0.55)).all()


@pytest.mark.parametrize("confidence", [0.0, 2.0])
@pytest.mark.parametrize("table", [np.ones((STATES, 12)), np.repeat(LEVEL, 12, axis=1), np.zeros((STATES, 12))])
def test_a_learner_without_departures_becomes_the_profile(table: np.ndarray, confidence: float) -> None:
    anchor, slopes = _fit(table, rows=3000, confidence=confidence)
    assert np.array_equal(anchor.shares, np.zeros(4))
    assert np.isinf(slopes.se).all()
    values, profile = anchor.apply(table.astype(np.float32)), TRUTH.mean(axis=0)
    assert np.allclose(values / values.mean(axis=1, keepdims=True), profile / profile.mean(), rtol=1e-4)
    if table[0, 0] == table[1, 0]:
        assert anchor.slope == 0


@pytest.mark.parametrize("rows", [8, 20, 30])
def test_few_rows_with_revenue_bear_nothing_out(rows: int) -> None:
    anchor, slopes = _fit(TRUTH, rows=rows, seed=5)
    assert np.array_equal(anchor.shares, np.zeros(4))
    assert anchor.slope == 0
    assert np.isinf(slopes.se).all()
    assert np.allclose(anchor.apply(TRUTH.astype(np.float32)), TRUTH.mean(axis=0), rtol=1e-4)


def test_noise_is_seldom_kept_on_few_rows() -> None:
    kept = []
    for seed in range(40):
        noise = LEVEL * np.exp(np.random.default_rng(seed).normal(0, 0.5, (STATES, 12)))
        kept.append(_fit(noise, rows=80, seed=seed)[0].shares > 0)
    assert np.mean(kept) < 0.05


def test_one_reference_state_or_one_action_is_no_trouble() -> None:
    log, profile = _log(400, 1), TRUTH.mean(axis=0)
    anchor, _ = fit_anchor(_values(TRUTH), profile, log.head(1), [(_values(TRUTH), log)], SPEC, 3, 2.0)
    assert anchor.directions.shape == (0, 12)
    state = _values(TRUTH)(log.head(1))
    assert np.allclose(anchor.apply(state)[0], profile, rtol=1e-4)
    alone = RequestSpec.model_validate(SPEC.model_dump() | {"sizes": {"b1": 1, "b2": 1}})
    anchor, _ = fit_anchor(_values(LEVEL), np.ones(1), log, [(_values(LEVEL), log.assign(b1=0, b2=0))], alone, 3, 2.0)
    assert anchor.apply(LEVEL.astype(np.float32)).shape == (STATES, 1)


@pytest.mark.parametrize("power", [-16, -3, 6, 16])
def test_the_unit_of_money_is_of_no_account(power: int) -> None:
    unit, log, profile = 10.0**power, _log(600, 3), TRUTH.mean(axis=0)
    plain, slopes = fit_anchor(_values(TRUTH), profile, log, [(_values(TRUTH), log)], SPEC, 2, 1.0)
    dearer = log.assign(money=log["money"] * unit)
    found, others = fit_anchor(
        _values(unit * TRUTH), unit * profile, dearer, [(_values(unit * TRUTH), dearer)], SPEC, 2, 1.0
    )
    assert np.allclose(found.shares, plain.shares, atol=1e-3)
    assert np.allclose(others.slope, slopes.slope, atol=5e-3)
    learned = TRUTH.astype(np.float32)
    assert np.allclose(found.apply(np.float32(unit) * learned), unit * plain.apply(learned), rtol=1e-2)


# ---- the regression

COEFFICIENTS = np.array([0.2, 0.8, -0.5])


def _drawn(rows: int, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Design (M, 3), offset and target of a model with the coefficients above; two targets of three are 0."""
    rng = np.random.default_rng(seed)
    design = np.column_stack([np.ones(rows), rng.normal(0, 0.6, rows), 20 * rng.normal(0, 0.6, rows)])
    design[:, 2] /= 20
    offset = rng.normal(-1, 0.3, rows)
    mean = np.exp(offset + design @ COEFFICIENTS)
    return design, offset, np.where(rng.random(rows) < 1 / 3, 3 * mean * rng.gamma(2, 0.5, rows), 0.0)


def _slow(design: np.ndarray, offset: np.ndarray, target: np.ndarray, p: float) -> np.ndarray:
    def loss(beta: np.ndarray) -> tuple[float, np.ndarray]:
        mean = np.exp(offset + design @ beta)
        rows = mean ** (2 - p) / (2 - p) - target * mean ** (1 - p) / (1 - p)
        return float(rows.sum()), design.T @ (mean ** (2 - p) - target * mean ** (1 - p))

    return np.asarray(minimize(loss, np.zeros(design.shape[1]), jac=True, method="BFGS", options={"gtol": 1e-8}).x)


@settings(max_examples=20)
@given(st.integers(0, 10**6), st.sampled_from([1.2, 1.5, 1.8]), st.floats(0.01, 100))
def test_coefficients_are_those_of_a_slow_reference(seed: int, power: float, scale: float) -> None:
    design, offset, target = _drawn(200, seed)
    design[:, 2] *= scale
    found, _ = tweedie_regression(design, offset, target, power)
    assert np.allclose(found, _slow(design, offset, target, power), rtol=1e-3, atol=1e-4)


def test_an_offset_far_off_is_made_up_by_the_constant() -> None:
    design, offset, target = _drawn(500, 1)
    near, errors = tweedie_regression(design, offset, target)
    for far in (-20.0, 15.0):
        found, again = tweedie_regression(design, offset + far, target)
        assert np.allclose(found, near - [far, 0, 0], atol=1e-3)
        assert np.allclose(again, errors, rtol=1e-3)


def test_errors_are_those_of_leaving_out_each_row() -> None:
    design, offset, target = _drawn(60, 3)
    found, errors = tweedie_regression(design, offset, target)
    rows = np.arange(60)
    without = [_slow(design[rows != i], offset[rows != i], target[rows != i], 1.5) for i in rows]
    assert np.allclose(errors, np.sqrt(np.square(np.array(without) - found).sum(axis=0)), rtol=0.1)


def test_errors_have_the_size_of_the_spread_over_draws() -> None:
    draws = [tweedie_regression(*_drawn(300, seed)) for seed in range(1000)]
    found, errors = (np.array(one) for one in zip(*draws))
    assert np.allclose(found.mean(axis=0), COEFFICIENTS, atol=0.05)
    assert np.allclose(np.sqrt((errors**2).mean(axis=0)) / found.std(axis=0), 1, atol=0.15)
    assert (np.abs(found - COEFFICIENTS) > 2 * errors).mean() < 0.09  # 5 % of a normal one


def test_a_column_of_zeros_gets_0_and_an_infinite_error() -> None:
    design, offset, target = _drawn(300, 2)
    wide = np.insert(design, 1, 0.0, axis=1)
    found, errors = tweedie_regression(wide, offset, target)
    plain, known = tweedie_regression(design, offset, target)
    assert found[1] == 0
    assert np.isinf(errors[1])
    assert np.allclose(np.delete(found, 1), plain)
    assert np.allclose(np.delete(errors, 1), known)


def test_two_equal_columns_share_a_coefficient() -> None:
    design, offset, target = _drawn(300, 2)
    found, errors = tweedie_regression(np.insert(design, 1, design[:, 1], axis=1), offset, target)
    plain, _ = tweedie_regression(design, offset, target)
    assert found[1] + found[2] == pytest.approx(plain[1], abs=1e-3)
    assert np.isfinite(errors).all()


def test_fewer_than_two_paid_rows_a_column_tell_nothing() -> None:
    design, offset, target = _drawn(300, 2)
    paid = np.flatnonzero(target > 0)
    for count in (5, 6):
        few = np.zeros(300)
        few[paid[:count]] = target[paid[:count]]
        found, errors = tweedie_regression(design, offset, few)
        assert np.isinf(errors).all() == (count == 5)
        assert (found == 0).all() == (count == 5)
