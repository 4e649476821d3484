"""Effects of actions by g-estimation, fitted propensities, and uplifts with intervals: by hand, and on logs with a known truth."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from marca_common.errors import UserError
from revenue_sim.off_policy.directions import DRAWN, FREE, ActionEffects, Departures
from revenue_sim.off_policy.fitted_propensities import STRENGTHS, Cells, FittedPropensities
from revenue_sim.off_policy.signed import SAME, UNTOLD, Effects, Uplift, Valued, signed_uplift

SIZES = (3, 2)


def effects_of(slope: list[float]) -> Effects:
    """Effects that are known for certain."""
    size = len(slope)
    return Effects(np.array(slope), np.zeros((4, size)), np.zeros((size, size)), np.ones(size, bool), np.zeros(0))


def test_columns_of_sub_actions_and_pairs() -> None:
    actions = ActionEffects.of((2, 2))
    assert actions.block.tolist() == [FREE, FREE, DRAWN, DRAWN, DRAWN, DRAWN]
    assert actions.columns.tolist() == [  # a1 = 1, a2 = 1, then pairs 00, 01, 10, 11
        [0, 0, 1, 0, 0, 0],
        [0, 1, 0, 1, 0, 0],
        [1, 0, 0, 0, 1, 0],
        [1, 1, 0, 0, 0, 1],
    ]


def test_what_was_foreseen_is_the_mean_under_the_mix() -> None:
    generator = np.random.default_rng(0)
    mixes = [generator.dirichlet(np.ones(n), 5) for n in SIZES]
    joint = np.einsum("si,sj->sij", *mixes).reshape(5, -1)
    actions = ActionEffects.of(SIZES)
    assert actions.foreseen(mixes) == pytest.approx(joint @ actions.columns)

    values = generator.lognormal(size=(5, 6))
    here = Departures.of(values, SIZES).at(values, mixes)
    each = np.stack([here.along(np.full(5, a), np.arange(5)) for a in range(6)], axis=1)  # (S, A, directions)
    assert np.einsum("sa,sad->sd", joint, each) == pytest.approx(0, abs=1e-6)
    logs = np.log(values)
    departure = logs - logs.mean(axis=1, keepdims=True)
    departure -= departure.mean(axis=0)
    assert each.sum(axis=2) + here.foreseen.sum(axis=1)[:, None] == pytest.approx(departure, abs=1e-6)


def test_propensities_by_hand() -> None:
    """Choices 0, 0, 1, 1, and one more of each: 3 of 6 rows. Without one's own it is 2 of 5."""
    found = FittedPropensities.fit({}, np.array([[0], [0], [1], [1]]), [2])
    assert found.cells[0].name == "all requests"
    assert found.logged == pytest.approx(2 / 5)
    assert found.of_rows(np.array([0]))[0] == pytest.approx(np.array([[0.5, 0.5]]))


def left_out(action: np.ndarray, columns: list[np.ndarray], strengths: list[float], size: int) -> np.ndarray:
    """Each row's propensity with its row really removed and all counted anew: slow."""
    found = np.empty(len(action))
    for i, choice in enumerate(action):
        others, inside = np.delete(np.arange(len(action)), i), np.ones(len(action) - 1, bool)
        found[i] = ((action[others] == choice).sum() + 1) / (len(others) + size)
        for codes, strength in zip(columns, strengths):
            inside &= codes[others] == codes[i]
            found[i] = ((action[others[inside]] == choice).sum() + strength * found[i]) / (inside.sum() + strength)
    return found


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000))
def test_leaving_one_out_is_leaving_one_out(seed: int) -> None:
    """Cells within cells: as if each row had been removed from the log, at the strengths that are best then."""
    generator = np.random.default_rng(seed)
    columns = [generator.integers(0, 3, 40) for _ in range(2)]
    action = np.where(generator.random(40) < 0.8, (columns[0] + columns[1]) % 3, generator.integers(0, 3, 40))
    everybody, strengths = np.ones(40, bool), list[float]()
    cells = Cells.of_all(action, 3, everybody)
    for k, codes in enumerate(columns):
        cells = cells.crossed(str(k), codes, action, everybody)
        slow = {a: left_out(action, columns[: k + 1], [*strengths, a], 3) for a in STRENGTHS}
        strengths.append(max(slow, key=lambda a: float(np.log(slow[a]).sum())))
        assert cells.others[cells.cell, action] == pytest.approx(slow[strengths[-1]])
        assert cells.loss == pytest.approx(-np.log(slow[strengths[-1]]).mean())
        assert cells.mix.sum(axis=1) == pytest.approx(1)


def test_small_cells_lean_on_those_around_them() -> None:
    """Tiers decide, and pages hardly: the few rows of a tier and page say less than the tier's mix."""
    generator = np.random.default_rng(2)
    tier, page = generator.integers(0, 4, 6000), generator.integers(0, 200, 6000)
    share = np.array([0.05, 0.3, 0.6, 0.9])[tier] * np.where(page < 100, 1.0, 0.8)
    action = (generator.random(6000) < share).astype(int)
    everybody = np.ones(6000, bool)
    cells = Cells.of_all(action, 2, everybody).crossed("tier", tier, action, everybody)
    cells = cells.crossed("page", page, action, everybody)
    counted = pd.Series(action).groupby([tier, page]).transform("mean").to_numpy()
    errors = [np.abs(found - share).mean() for found in (cells.mix[cells.cell, 1], counted)]
    assert errors[0] < 0.5 * errors[1]


def test_propensities_find_the_columns_that_decide() -> None:
    generator = np.random.default_rng(1)
    tier, other = generator.integers(0, 4, 8000), generator.integers(0, 50, 8000)
    truth = np.array([[0.8, 0.1, 0.1], [0.1, 0.8, 0.1], [0.2, 0.2, 0.6], [0.4, 0.3, 0.3]])[tier]
    first = (generator.random(8000)[:, None] > truth.cumsum(axis=1)).sum(axis=1)
    actions = np.column_stack([first, generator.integers(0, 2, 8000)])
    found = FittedPropensities.fit({"tier": tier, "other": other, "both": tier * 50 + other}, actions, SIZES)
    assert [one.columns for one in found.cells] == [("tier",), ()]
    propensity = truth[np.arange(8000), first] / 2
    assert found.agreement(propensity) < 0.05
    assert found.agreement(propensity / 2) == pytest.approx(np.log(2), abs=0.05)
    assert found.calibration(actions) < 5
    assert found.decided(actions) == pytest.approx([np.mean((truth**2).sum(axis=1)), 0.5], abs=0.02)
    drifted = actions.copy()
    drifted[1::2, 0] = (drifted[1::2, 0] + 1) % 3  # every other row's logging policy is another one
    assert found.calibration(drifted) > 10


def test_propensities_refuse_what_does_not_fit() -> None:
    with pytest.raises(UserError, match=r"actions: got shape \(4, 1\); expected at least 2 rows of 2 sub-actions"):
        FittedPropensities.fit({}, np.zeros((4, 1), int), [2, 2])


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000), st.floats(-1.0, 1.0), st.floats(-1.0, 1.0))
def test_effects_are_right_whatever_the_levels(seed: int, first: float, second: float) -> None:
    """No noise, levels that no control tells, and actions that follow the level: β is exact where each level is seen with every action."""
    generator = np.random.default_rng(seed)
    level = generator.lognormal(0, 1, 20)
    states, action = np.repeat(np.arange(20), 10), np.tile(np.arange(10), 20)
    share = np.where(np.arange(20) % 2 == 0, 0.2, 0.7)  # even states seldom get the action
    acted = action < 10 * share[states] - 1e-9
    other = action % 2 == 0
    x = np.column_stack([acted - share[states], other - 0.5])
    reward = level[states] * np.exp(x @ [first, second])
    found = Effects.estimate(np.ones((200, 1)), x, np.array([FREE, FREE]), reward)
    assert found.slope == pytest.approx([first, second], abs=2e-3)


def test_value_of_a_policy_by_hand() -> None:
    """Rows earn 1, 2, 3, 4. Moving the first two doubles them: mean (2 + 4 + 3 + 4) / 4."""
    reward, moved = np.array([1.0, 2.0, 3.0, 4.0]), np.array([1.0, 1.0, 0.0, 0.0])
    effects = effects_of([np.log(2)])
    each = reward * np.exp(moved * effects.slope[0])
    found = effects.value(each, np.array([each @ moved]) / each.sum())
    assert found.value == pytest.approx(13 / 4)
    assert found.gradient == pytest.approx([6 / 13])
    assert found.pulls == pytest.approx((each / 3.25 - 1) / 4)
    logged = Valued.of_log(reward, effects)
    assert signed_uplift([found], [logged]).uplift == pytest.approx(13 / 10 - 1)


def test_halves_count_by_their_rows() -> None:
    effects = effects_of([0.0])
    small, large = (Valued(value, np.full(n, 0.0), np.zeros(1), np.zeros(1)) for value, n in ((1.0, 100), (3.0, 300)))
    rival = [Valued.of_log(np.full(n, 1.0), effects) for n in (100, 300)]
    assert signed_uplift([small, large], rival).uplift == pytest.approx((100 + 900) / 400 - 1)


def test_interval_by_hand() -> None:
    """Without skewness, 400 rows that pull by ±.01 / 400 each … and what draws leave open is added in squares."""
    sign = np.tile([1.0, -1.0], 200)
    policy = Valued(1.1, sign * 0.2 / 400, np.array([0.03]), np.zeros(1))
    rival = Valued(1.0, np.zeros(400), np.zeros(1), np.zeros(1))
    found = signed_uplift([policy], [rival])
    assert found.se == pytest.approx(np.hypot(0.2 / 20, 0.03), rel=1e-3)
    assert found.low is not None
    assert found.high is not None
    assert np.log1p(found.high) - np.log1p(found.low) >= 2 * 1.959 * np.hypot(0.01, 0.03)
    wider = signed_uplift([policy], [rival], left_out=0.04)
    assert wider.se == pytest.approx(np.sqrt(0.01**2 + 0.03**2 + 0.04**2), rel=1e-3)
    assert wider.low is not None
    assert np.log1p(wider.low) <= np.log(1.1) - 1.959 * np.hypot(0.03, 0.04)
    same = signed_uplift([policy], [policy], left_out=0.04)
    assert (same.uplift, same.low, same.warning) == (0.0, None, SAME)


def test_clusters_widen_the_interval() -> None:
    generator = np.random.default_rng(3)
    of = np.repeat(np.arange(100), 10)
    pulls = generator.normal(size=100)[of] / 1000
    policy = Valued(1.0, pulls, np.zeros(1), np.zeros(1))
    rival = Valued(1.0, np.zeros(1000), np.zeros(1), np.zeros(1))
    alone, together = (signed_uplift([policy], [rival], one) for one in (None, [of]))
    assert alone.se is not None
    assert together.se is not None
    assert together.se == pytest.approx(alone.se * np.sqrt(10), rel=0.02)


def test_what_never_varies_gets_no_interval() -> None:
    generator = np.random.default_rng(4)
    x = np.column_stack([generator.normal(size=500), np.zeros(500)])
    effects = Effects.estimate(np.ones((500, 1)), x, np.array([FREE, FREE]), generator.gamma(1.0, size=500))
    each = np.ones(500)
    logged = Valued.of_log(each, effects)
    untold = effects.value(each, np.array([0.0, 0.3]))
    assert signed_uplift([untold], [logged]).warning == UNTOLD
    assert signed_uplift([effects.value(each, np.array([0.3, 0.0]))], [logged]).warning is None


def test_no_revenue_is_refused() -> None:
    with pytest.raises(UserError, match="reward: its mean is 0; expected more than 0"):
        Effects.estimate(np.ones((10, 1)), np.ones((10, 1)), np.array([FREE]), np.zeros(10))


def test_directions_that_say_the_same_share_an_effect() -> None:
    """Revenue doubles along x, which stands there twice: the sum of both slopes is log 2, as certain as that of one alone."""
    generator = np.random.default_rng(6)
    x = generator.normal(size=(2000, 1))
    reward = 2.0 ** x[:, 0] * generator.gamma(2.0, size=2000)
    once, twice = (Effects.estimate(np.ones((2000, 1)), np.hstack([x] * n), np.full(n, FREE), reward) for n in (1, 2))
    assert once.slope[0] == pytest.approx(np.log(2), abs=0.1)
    assert twice.slope.sum() == pytest.approx(once.slope[0], rel=1e-3)
    assert twice.pulls.sum(axis=1) == pytest.approx(once.pulls[:, 0], abs=1e-5)


def test_rows_needed() -> None:
    found = Uplift(np.expm1(0.1), -0.1, 0.3, 0.1)
    assert found.rows_needed(1000) == pytest.approx(1000 * 1.959964**2, rel=1e-5)
    assert Uplift(0.1, None, None, None).rows_needed(1000) is None
    assert Uplift(0.0, -0.1, 0.1, 0.05).rows_needed(1000) is None


def test_no_number_of_rows_makes_up_for_what_effects_leave_out() -> None:
    """Of an error of .05, .03 stay whatever the rows; the rest, .04, falls with their root."""
    z = 1.959964
    assert Uplift(np.expm1(z * 0.05), 0.0, 0.2, 0.05, left_out=0.03).rows_needed(1000) == pytest.approx(1000, rel=1e-5)
    assert Uplift(np.expm1(z * 0.034), -0.1, 0.2, 0.05, left_out=0.03).rows_needed(1000) == pytest.approx(
        1000 * 0.04**2 / (0.034**2 - 0.03**2), rel=1e-5
    )
    assert Uplift(np.expm1(z * 0.029), -0.1, 0.2, 0.05, left_out=0.03).rows_needed(1000) is None


def test_drawn_effects_vanish_where_there_are_none_and_stay_where_there_are() -> None:
    generator = np.random.default_rng(5)
    x = generator.normal(size=(4000, 30))
    block = np.zeros(30, np.int64)
    for sd in (0.0, 0.3):
        beta = sd * generator.normal(size=30)
        reward = np.exp(x @ beta) * generator.gamma(1.0, size=4000)
        found = Effects.estimate(np.ones((4000, 1)), x, block, reward)
        assert found.sd[0] == pytest.approx(sd, abs=0.03 if sd == 0 else 0.12)
        assert np.abs(found.slope - beta).max() < 0.12


def drawn_log(seed: int, rows: int = 6000) -> tuple[np.ndarray, ...]:
    """A log whose actions follow the level of requests, and a policy that personalises: (x, moved, controls, reward, true uplift)."""
    generator = np.random.default_rng(seed)
    actions, table = ActionEffects.of(SIZES), np.stack(np.unravel_index(np.arange(6), SIZES), axis=1)
    tier, kind = generator.integers(0, 4, rows), generator.integers(0, 2, rows)
    level = np.exp(0.6 * tier + 0.3 * kind)
    effect = np.where(kind[:, None] == 0, table @ [0.3, -0.2], table @ [-0.1, 0.4]) + 0.2 * (table[:, 0] * table[:, 1])
    follow = [np.eye(n)[np.minimum(tier, n - 1)] for n in SIZES]
    mixes = [0.4 / n + 0.6 * one for n, one in zip(SIZES, follow)]
    joint = sum(
        scale * (generator.random(rows)[:, None] > mix.cumsum(axis=1)).sum(axis=1) for scale, mix in zip((2, 1), mixes)
    )
    mean = level[:, None] * np.exp(effect)
    size = generator.lognormal(-0.5, 1.0, rows) / 0.2
    reward = mean[np.arange(rows), joint] * size * (generator.random(rows) < 0.2)
    policy = effect.argmax(axis=1)
    fitted = FittedPropensities.fit({"tier": tier, "kind": kind}, table[joint], SIZES)
    centre = actions.foreseen(fitted.of_rows(np.arange(rows)))
    dep = np.where(kind == 0, 1.0, -1.0)[:, None] * (actions.columns[:, :3])[joint]
    dep_mean = np.where(kind == 0, 1.0, -1.0)[:, None] * centre[:, :3]
    dep_policy = np.where(kind == 0, 1.0, -1.0)[:, None] * actions.columns[policy][:, :3]
    x = np.hstack([actions.columns[joint] - centre, dep - dep_mean])
    moved = np.hstack([actions.columns[policy] - actions.columns[joint], dep_policy - dep])
    truth = mean[np.arange(rows), policy].mean() / mean[np.arange(rows), joint].mean() - 1
    return x, moved, np.ones((rows, 1)), reward, np.array(truth)


def uplift_of(seed: int) -> tuple[Uplift, float]:
    x, moved, controls, reward, truth = drawn_log(seed)
    block = np.r_[ActionEffects.of(SIZES).block, [FREE] * 3]
    effects = Effects.estimate(controls, x, block, reward)
    each = reward * np.exp(moved @ effects.slope)
    policy = effects.value(each, each @ moved / each.sum())
    return signed_uplift([policy], [Valued.of_log(reward, effects)]), float(truth)


def test_a_log_with_fitted_propensities_and_wrong_levels() -> None:
    found, truth = uplift_of(0)
    assert found.low is not None
    assert found.high is not None
    assert found.low < truth < found.high


@pytest.mark.slow
def test_intervals_hold_the_truth() -> None:
    """95 of 100 are promised; 88 leave room for three standard errors. The mean error is within two of its own."""
    both = [uplift_of(seed) for seed in range(100)]
    held = sum(
        found.low <= truth <= found.high for found, truth in both if found.low is not None and found.high is not None
    )
    assert held >= 88
    errors = np.array([found.uplift - truth for found, truth in both])
    assert abs(errors.mean()) < 2.5 * errors.std() / 10
