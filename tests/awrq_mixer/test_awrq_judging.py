"""Measures with errors on held-out rows: by hand, against slow references, and on learners of known worth."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest

from awrq_mixer.anchoring.evidence import tweedie_pulls, tweedie_regression
from awrq_mixer.judging.borne_out import View, borne_out_uplift, departures_worth
from awrq_mixer.judging.measured import Measured, choose
from awrq_mixer.training.validation import measured_shape_gain
from marca_common.errors import UserError
from marca_common.requests import RequestSpec
from marca_measures.frontier import frontier

STATES = 60
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
COST = 1.0 + SPEC.joint_table().sum(axis=1)
_RNG = np.random.default_rng(0)
LEVEL = np.exp(_RNG.normal(0, 0.5, (STATES, 1)))
MEAN = np.exp(0.2 * SPEC.joint_table().sum(axis=1) + _RNG.normal(0, 0.1, 12))
DEPARTURE = _RNG.normal(0, 0.5, (STATES, 12))


def _table(departure: np.ndarray, level: np.ndarray = LEVEL) -> np.ndarray:
    """Values with these departures, whose mean over states is ``MEAN``, (S, A)."""
    shaped = level * np.exp(departure)
    return np.asarray(MEAN * shaped / shaped.mean(axis=0))


TRUTH = _table(DEPARTURE)


def _log(rows: int, seed: int) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    state, joint = rng.integers(0, STATES, rows), rng.integers(0, 12, rows)
    money = np.where(rng.random(rows) < 0.3, TRUTH[state, joint] / 0.3 * rng.gamma(2, 0.5, rows), 0.0)
    return pd.DataFrame(SPEC.joint_table()[joint], columns=["b1", "b2"]).assign(s=state.astype(str), money=money)


def _values(table: np.ndarray) -> Callable[[pd.DataFrame], np.ndarray]:
    return lambda states: table[states["s"].astype(int)].astype(np.float32)


def _view(table: np.ndarray, rows: int = 20_000, seed: int = 1, profile: np.ndarray = MEAN) -> View:
    return View.of(_values(table), profile, _log(rows, seed), SPEC)


def true_uplift(table: np.ndarray) -> float:
    """Mean over the measure's budgets of the policy's true value over the static mixture's, less 1."""
    costs = np.broadcast_to(COST, TRUTH.shape)
    mine = frontier(table, costs, TRUTH, np.ones(STATES))
    static = frontier(MEAN[None], COST[None], MEAN[None], np.ones(1))
    spends = COST.min() + np.array([0.04, 0.08, 0.12, 0.2, 0.3]) * (COST[MEAN.argmax()] - COST.min())
    return float(np.mean([mine.at(spend)[0] / static.at(spend)[0] - 1 for spend in spends]))


def test_measured_and_its_paired_difference_by_hand() -> None:
    one, other = Measured(0.5, np.array([0.3, -0.4])), Measured(0.2, np.array([0.3, 0.0]))
    assert one.error == pytest.approx(0.5)
    gap = one.minus(other)
    assert (gap.value, gap.error) == pytest.approx((0.3, 0.4))  # .3 would not do: errors don't add, pulls do


def test_choose_takes_the_simplest_of_those_that_cannot_be_told_from_the_best() -> None:
    best = Measured(1.0, np.array([0.1, 0.1, 0.0]))
    simple = Measured(0.9, np.array([0.1, 0.0, 0.0]))  # .1 behind, and the difference is uncertain by .1
    poor = Measured(0.89, np.array([0.1, 0.0, 0.0]))  # .11 behind
    assert choose({"simple": simple, "best": best}) == "simple"
    assert choose({"poor": poor, "best": best}) == "best"
    assert choose({"poor": poor, "simple": simple, "best": best}) == "simple"
    assert choose({"best": best, "simple": simple}) == "best"  # the order says what is simple
    luck = np.array([0.7, -0.7, 0.0])  # shared, so that it hides nothing
    assert choose({"poor": Measured(0.89, poor.pulls + luck), "best": Measured(1.0, best.pulls + luck)}) == "best"


def test_choose_takes_the_simplest_where_nothing_is_known() -> None:
    unknown = Measured(2.0, np.full(3, np.inf))
    assert choose({"first": Measured(0.0, np.zeros(3)), "unknown": unknown}) == "first"
    with pytest.raises(UserError, match="no measures; expected at least one"):
        choose({})


def test_shape_gain_error_is_that_of_leaving_out_each_state() -> None:
    rng = np.random.default_rng(2)
    group, reward = rng.integers(0, 150, 600), rng.gamma(1, 1, 600) * (rng.random(600) < 0.5)
    value = reward * 0.3 + rng.gamma(2, 1, 600)
    found = measured_shape_gain(value, reward, group)
    left_out = [
        measured_shape_gain(value[group != one], reward[group != one], group[group != one]).value for one in range(150)
    ]
    jackknife = np.sqrt(149 / 150 * ((np.array(left_out) - np.mean(left_out)) ** 2).sum())
    assert found.error == pytest.approx(jackknife, rel=0.03)
    assert found.pulls.sum() == pytest.approx(0, abs=1e-12)
    assert np.count_nonzero(found.pulls) <= 150  # rows of one state pull together


def test_a_pull_is_what_a_row_changes() -> None:
    rng = np.random.default_rng(3)
    design = np.column_stack([np.ones(80), rng.normal(0, 1, (80, 2))])
    offset, target = rng.normal(0, 0.2, 80), rng.gamma(1, 1, 80) * (rng.random(80) < 0.7)
    found, pulls = tweedie_pulls(design, offset, target)
    for row in range(0, 80, 7):
        keep = np.arange(80) != row
        without, _ = tweedie_regression(design[keep], offset[keep], target[keep])
        assert pulls[row] == pytest.approx(found - without, rel=0.15, abs=2e-3)
    assert tweedie_regression(design, offset, target)[1] == pytest.approx(np.sqrt((pulls**2).sum(axis=0)))


def test_a_right_learner_is_borne_out() -> None:
    view = _view(TRUTH)
    found, pulls = view.regression
    errors = np.sqrt((pulls**2).sum(axis=0))
    assert np.abs(found[[1, 3]] - 1).max() < 4 * errors[[1, 3]].max() < 0.4
    uplift = borne_out_uplift(view, COST)
    assert uplift.value == pytest.approx(true_uplift(TRUTH), abs=3 * uplift.error)
    assert uplift.value > 4 * uplift.error
    worth = departures_worth(view)
    assert worth.value == pytest.approx(0.5, abs=3 * worth.error)  # departures are as large as they claim: sd .5


def test_noise_is_worth_nothing_and_its_decisions_do_harm() -> None:
    noise = _table(np.random.default_rng(4).normal(0, 0.5, (STATES, 12)))
    view = _view(noise)
    worth, uplift = departures_worth(view), borne_out_uplift(view, COST)
    assert abs(worth.value) < 3 * worth.error
    assert uplift.value == pytest.approx(true_uplift(noise), abs=3 * uplift.error)
    gap = borne_out_uplift(_view(TRUTH), COST).minus(uplift)
    assert gap.value > 4 * gap.error > 0


def test_exaggeration_leaves_departures_worth_alone_and_decisions_are_valued_as_they_are() -> None:
    fair, wild = _view(TRUTH), _view(_table(4 * DEPARTURE))
    assert departures_worth(wild).value == pytest.approx(departures_worth(fair).value, rel=0.03)
    uplift = borne_out_uplift(wild, COST)
    assert uplift.value == pytest.approx(true_uplift(_table(4 * DEPARTURE)), abs=3 * uplift.error)
    assert uplift.value < borne_out_uplift(fair, COST).value


def test_a_wrong_mean_profile_is_paid_for() -> None:
    tilted = TRUTH * np.exp(np.random.default_rng(5).normal(0, 0.5, 12))
    found = _view(tilted).regression[0]
    assert abs(found[2]) < 0.3  # revenue sides with the profile
    assert borne_out_uplift(_view(tilted), COST).value < borne_out_uplift(_view(TRUTH), COST).value
    off = MEAN * np.exp(np.random.default_rng(6).normal(0, 0.5, 12))
    assert _view(TRUTH, profile=off).regression[0][2] > 0.7  # and with the learner, where the profile is off


def test_a_learner_without_departures_gains_nothing() -> None:
    flat = np.broadcast_to(MEAN, TRUTH.shape)
    view = _view(np.asarray(flat))
    assert departures_worth(view).value == 0
    uplift = borne_out_uplift(view, COST)
    assert uplift.value == pytest.approx(0, abs=1e-6)
    assert uplift.error < 1e-4


def test_units_of_money_and_cost_change_nothing() -> None:
    rows = _log(5000, 1)
    mine = View.of(_values(TRUTH), MEAN, rows, SPEC)
    other = View.of(_values(1000 * TRUTH), 7 * MEAN, rows.assign(money=50 * rows["money"]), SPEC)
    for one, two in (
        (departures_worth(mine), departures_worth(other)),
        (borne_out_uplift(mine, COST), borne_out_uplift(other, 3 * COST)),
    ):
        assert (one.value, one.error) == pytest.approx((two.value, two.error), rel=1e-4)


def test_the_error_of_the_uplift_is_that_of_drawing_other_rows() -> None:
    found = [borne_out_uplift(_view(TRUTH, rows=3000, seed=seed), COST) for seed in range(40)]
    spread = float(np.std([one.value for one in found], ddof=1))
    assert 0.7 < spread / np.mean([one.error for one in found]) < 1.4


def test_the_uplift_by_hand() -> None:
    # two states of equal level, two actions of cost 0 and 1 and mean 1 and 2; the learner gives the dear one to the first state
    view = View(
        profile=np.log([2 / 3, 4 / 3]), own=np.zeros(2), row_level=np.zeros(4), joint=np.array([0, 1, 0, 1]),
        row_departure=np.array([0.0, 1.0, 0.0, -1.0]), reward=np.ones(4), values=np.array([[1.0, 5.0], [1.0, 1.5]]),
        level=np.zeros(2), departure=np.array([[0.0, 1.0], [0.0, -1.0]]), weight=np.array([0.5, 0.5]),
    )  # fmt: skip
    found = np.array([0.0, 1.0, 1.0, np.log(3) / 2])  # revenue bears out a ratio of 3 between the two dear values
    view.__dict__["regression"] = (found, np.zeros((4, 4)))
    # half the spend: the first state alone is served the dear action, worth 3 (1 in the other): (3 + 1) / 2 against 1.5
    assert borne_out_uplift(view, np.array([0.0, 1.0]), (0.5,)).value == pytest.approx(2 / 1.5 - 1)
    # both budgets' mean; with the whole spend both are served it, as in the static mixture
    assert borne_out_uplift(view, np.array([0.0, 1.0]), (0.5, 1.0)).value == pytest.approx((2 / 1.5 - 1) / 2)


def test_where_nobody_pays_nothing_is_known() -> None:
    rows = _log(200, 1)
    rows["money"] = np.where(np.arange(200) < 3, 1.0, 0.0)
    view = View.of(_values(TRUTH), MEAN, rows, SPEC)
    for one in (departures_worth(view), borne_out_uplift(view, COST)):
        assert np.isfinite(one.value)
        assert one.error == np.inf
