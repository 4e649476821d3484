"""The global profile: groups of states, the log-linear model against a slow reference, and what a biased log hides."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize

from awrq_mixer.anchoring.action_effects import parts_of
from awrq_mixer.anchoring.contexts import FEW, GROUPS, Contexts, contexts
from awrq_mixer.anchoring.global_profile import LoggedEffects, estimate_profile, read_profile, write_profile
from awrq_mixer.anchoring.log_linear import Shape, combinations, log_linear
from marca_common.errors import UserError
from marca_common.requests import RequestSpec

SIZES = (2, 3)
SPEC = RequestSpec.model_validate(
    {
        "state": {"place": "category"},
        "agents": {"all": ["b1", "b2"]},
        "sizes": {"b1": 2, "b2": 3},
        "results": [],
        "reward": "money",
        "timestamp": None,
        "propensity": None,
    }
)
JOINT = SPEC.joint_table()


def _of_column(values: pd.Series, kind: str, signal: np.ndarray) -> Contexts:
    spec = SPEC.model_copy(update={"state": {"x": kind}})
    return contexts(pd.DataFrame({"x": values}), spec, signal)


def test_numbers_are_cut_into_tenths_by_hand() -> None:
    found = _of_column(pd.Series([5.0, 1.0, 1.0, 9.0, 2.0, 1.0, 3.0, 8.0, 7.0, 6.0]), "numeric", np.zeros(10))
    # three ones share the first tenth; the 2 has three rows before it, and so on
    assert found.coarse[0][0].tolist() == [5, 0, 0, 9, 3, 0, 4, 8, 7, 6]
    assert found.fine == found.coarse
    assert found.fine[0][1] == GROUPS


def test_an_identifier_is_one_group_or_each_row_would_foresee_its_own_action() -> None:
    names = pd.Series(np.arange(200).astype(str))
    found = _of_column(names, "category", np.random.default_rng(0).random(200))
    assert [(codes.tolist(), size) for codes, size in (*found.fine, *found.coarse)] == 2 * [(200 * [0], 1)]
    assert _of_column(names.where(names.index >= 20, "x"), "category", np.zeros(200)).fine[0][1] == 181


def test_many_categories_are_cut_by_their_mean_signal_and_weighted_by_rows() -> None:
    names = [f"c{i:02d}" for i in range(FEW + 1)]
    rows = [8, *(FEW * [1])]  # the first category has 8 of 20 rows
    column = pd.Series(np.repeat(names, rows))
    mean = np.array([5.0, *np.linspace(0, 4, 6), *np.linspace(6, 10, 6)])  # six categories below it, six above
    found = _of_column(column, "category", np.repeat(mean, rows))
    assert found.fine[0][1] == FEW + 1
    # before c00: 6 of 20 rows → tenth 3; after it 14 of 20 are past → tenths 7, 7, 8, 8, 9, 9
    assert found.coarse[0][0].tolist() == 8 * [3] + [0, 0, 1, 1, 2, 2] + [7, 7, 8, 8, 9, 9]


def test_categories_of_equal_means_share_a_group() -> None:
    column = pd.Series([f"c{i:02d}" for i in range(FEW + 3)])
    codes, size = _of_column(column, "category", np.ones(FEW + 3)).coarse[0]
    assert size == GROUPS
    assert set(codes) == {0}


def test_few_categories_stay_as_they_are_and_levels_pair_them() -> None:
    frame = pd.DataFrame({"x": ["b", "a", "b"], "y": ["u", "w", "v"]})
    spec = SPEC.model_copy(update={"state": {"x": "category", "y": "category"}})
    found = contexts(frame, spec, np.ones(3))
    assert [(codes.tolist(), size) for codes, size in found.coarse] == [([1, 0, 1], 2), ([0, 2, 1], 3)]
    assert [(codes.tolist(), size) for codes, size in found.levels[2:]] == [([3, 2, 4], 6)]
    names = [f"c{i:02d}" for i in range(FEW)]
    codes, size = _of_column(pd.Series(names), "category", np.ones(FEW)).coarse[0]
    assert (codes.tolist(), size) == (list(range(FEW)), FEW)


def test_categories_that_only_rows_not_read_have_change_nothing() -> None:
    column = pd.Series([f"c{i:02d}" for i in range(FEW)] * 2 + [f"a{i}" for i in range(5)]).astype("category")
    signal = np.arange(2.0 * FEW)
    cut, alone = column.iloc[: 2 * FEW], column.iloc[: 2 * FEW].astype(str)
    for one, other in zip(_of_column(cut, "category", signal).levels, _of_column(alone, "category", signal).levels):
        assert one[0].tolist() == other[0].tolist()
        assert one[1] == other[1]


@settings(max_examples=30)
@given(st.integers(0, 10**6), st.integers(1, 25))
def test_combinations_are_those_that_occur_in_order(seed: int, columns: int) -> None:
    codes = np.random.default_rng(seed).integers(0, 10, (30, columns))  # 25 columns: 10^25 possible combinations
    row, found = combinations(Contexts([(one, 10) for one in codes.T], [(one, 10) for one in codes.T]))
    assert np.array_equal(found[row], codes)
    assert list(map(tuple, found)) == sorted(set(map(tuple, codes)))


# ---- the log-linear model

LEVEL = np.array([0.0, 0.7, -0.4])
MAIN = [np.array([-0.3, 0.3]), np.array([-0.5, 0.1, 0.4])]
PAIR = np.array([[0.2, -0.2, 0.0], [-0.2, 0.2, 0.0]])


def _every_cell(copies: int = 4) -> tuple[np.ndarray, np.ndarray, Contexts]:
    """Places and joint actions of a log that holds every pair equally often, and its groups."""
    place, joint = (np.tile(one.ravel(), copies) for one in np.indices((3, 6)))
    return place, joint, Contexts([(place, 3)], [(place, 3)])


def _log_effect(pair: bool) -> np.ndarray:
    return np.asarray(MAIN[0][JOINT[:, 0]] + MAIN[1][JOINT[:, 1]] + (PAIR[JOINT[:, 0], JOINT[:, 1]] if pair else 0))


@pytest.mark.parametrize("power", [1.5, 1.9])
def test_effects_without_noise_are_found(power: float) -> None:
    place, joint, groups = _every_cell()
    effect = _log_effect(pair=True)
    y = 40 * np.exp(LEVEL[place] + effect[joint])
    level, found = log_linear(y, joint, groups, SPEC, Shape(2, interactions=False, power=power))
    assert np.allclose(level * np.exp(found[place, joint]), y, rtol=2e-3)
    assert np.allclose(found - found.mean(axis=1, keepdims=True), effect - effect.mean(), atol=2e-3)


def test_without_pairs_only_sums_of_main_effects_are_found() -> None:
    place, joint, groups = _every_cell()
    y = np.exp(LEVEL[place] + _log_effect(pair=True)[joint])
    _, found = log_linear(y, joint, groups, SPEC, Shape(1, interactions=False, power=1.5))
    table = found[0].reshape(SIZES)
    assert np.allclose(table[1] - table[0], table[1, 0] - table[0, 0], atol=1e-4)


def test_an_offset_is_added_and_need_not_be_learned() -> None:
    place, joint, groups = _every_cell()
    pair = np.tile(PAIR.ravel(), (3, 1))  # (C, A): by place and joint action
    y = np.exp(LEVEL[place] + _log_effect(pair=True)[joint])
    level, found = log_linear(y, joint, groups, SPEC, Shape(1, False, 1.5), offset=pair)
    assert np.allclose(level * np.exp(found[place, joint]), y, rtol=2e-3)


def _slow(y: np.ndarray, place: np.ndarray, joint: np.ndarray, shape: Shape) -> tuple[np.ndarray, np.ndarray]:
    """The same empirical Bayes with a dense design in double precision: fitted means (M,), effects (3, A)."""
    orders = [one for order in range(1, shape.order + 1) for one in itertools.combinations(range(2), order)]
    blocks = [np.ones((18, 1)), np.repeat(np.eye(3), 6, axis=0)]
    for chosen in orders:
        index = np.ravel_multi_index([JOINT[:, j] for j in chosen], [SIZES[j] for j in chosen])
        blocks.append(np.tile(np.eye(int(np.prod([SIZES[j] for j in chosen])))[index], (3, 1)))
    for j in range(2) if shape.interactions else ():
        both = np.einsum("ck,as->caks", np.eye(3), np.eye(SIZES[j])[JOINT[:, j]])
        blocks.append(both.reshape(18, 3 * SIZES[j]))
    of = np.repeat(np.arange(len(blocks)), [one.shape[1] for one in blocks])  # block of each column; 0: the constant
    cells, p, scaled, rows = np.hstack(blocks), shape.power, y / y.mean(), len(y)
    design, dispersion, variance = cells[place * 6 + joint], 1.0, np.full(len(blocks), 0.1)
    variance[1], beta = 10.0, np.zeros(cells.shape[1])  # levels are free
    for number in range(4):
        if number:
            mean = np.exp(design @ beta)
            curvature = (2 - p) * mean ** (2 - p) + (p - 1) * scaled * mean ** (1 - p)
            known = (design**2).T @ curvature / dispersion * variance[of]
            decided = np.bincount(of, known / (known + 1))
            dispersion = ((scaled - mean) ** 2 / mean**p).sum() / (rows - decided[1:].sum())
            variance[2:] = ((np.bincount(of, beta**2) + 0.01) / (decided + 1))[2:]
        penalty = np.where(of == 0, 0.0, dispersion / (2 * rows * variance[of]))

        def loss(beta: np.ndarray, penalty: np.ndarray = penalty) -> tuple[float, np.ndarray]:
            eta = design @ beta
            each = np.exp((2 - p) * eta) / (2 - p) - scaled * np.exp((1 - p) * eta) / (1 - p)
            pull = np.exp((2 - p) * eta) - scaled * np.exp((1 - p) * eta)
            return float(each.mean() + penalty @ beta**2), design.T @ pull / rows + 2 * penalty * beta

        beta = minimize(loss, beta, jac=True, method="BFGS", options={"gtol": 1e-9}).x
    return y.mean() * np.exp(design @ beta), (cells[:, 4:] @ beta[4:]).reshape(3, 6)


@pytest.mark.parametrize("shape", [Shape(2, False, 1.5), Shape(2, True, 1.5), Shape(1, True, 1.5), Shape(2, True, 1.9)])
def test_the_fit_is_that_of_a_dense_reference(shape: Shape) -> None:
    rng = np.random.default_rng(4)
    place, joint = rng.integers(0, 3, 400), rng.integers(0, 6, 400)
    y = np.where(rng.random(400) < 0.4, rng.gamma(2, 3, 400), 0.0) * np.exp(LEVEL[place] + _log_effect(True)[joint])
    level, effects = log_linear(y, joint, Contexts([(place, 3)], [(place, 3)]), SPEC, shape)
    means, expected = _slow(y, place, joint, shape)
    assert np.allclose(np.log(level * np.exp(effects[place, joint])), np.log(means), atol=2e-3)
    found, right = (one - one.mean(axis=1, keepdims=True) for one in (effects, expected))
    assert np.allclose(found, right, atol=2e-3)


SIX = RequestSpec.model_validate(SPEC.model_dump() | {"sizes": {"b1": 6, "b2": 6}})


def _pairs_found(pair: np.ndarray, explored: float) -> np.ndarray:
    """What 40,000 rows say of ``pair`` effects (6, 6), where a rule takes the first of all that is not ``explored``."""
    rng = np.random.default_rng(6)
    place = rng.integers(0, 3, 40_000)
    b1, b2 = (np.where(rng.random(40_000) < explored, rng.integers(0, 6, 40_000), 0) for _ in range(2))
    y = np.exp(LEVEL[place] + 0.1 * b1 - 0.1 * b2 + pair[b1, b2]) * rng.gamma(2, 0.5, 40_000)
    groups = Contexts([(place, 3)], [(place, 3)])
    table = log_linear(y, 6 * b1 + b2, groups, SIX, Shape(2, True, 1.9))[1].mean(axis=0).reshape(6, 6)
    return np.asarray(table - table.mean(axis=0) - table.mean(axis=1, keepdims=True) + table.mean())


def test_pairs_that_are_hardly_explored_are_held_to_zero_and_others_are_left_alone() -> None:
    nothing, pair = np.zeros((6, 6)), np.random.default_rng(7).normal(0, 0.2, (6, 6))
    pair -= pair.mean(axis=0) + pair.mean(axis=1, keepdims=True) - pair.mean()
    # 25 pairs have 40,000 · (.1 / 6)² = 11 rows each, and so a noise of .71 / √11 = .21
    assert np.std(_pairs_found(nothing, explored=0.1)) < 0.04
    # 25 pairs have 40,000 · (.9 / 6)² = 900 rows each: a noise of .024
    assert np.std(_pairs_found(pair, explored=0.9) - pair) < 0.025


# ---- the profile of a biased log


def _biased_log(rows: int, seed: int) -> tuple[pd.DataFrame, np.ndarray]:
    """Dear choices go to states of high level; a surrogate overrates ``b1``. The log, and true mean values (A,)."""
    rng = np.random.default_rng(seed)
    worth = np.linspace(-1.5, 1.5, 30)
    place = rng.integers(0, 30, rows)
    eager = 1 / (1 + np.exp(-1.5 * worth[place]))
    b1, b2 = (rng.random(rows) < eager).astype(int), rng.binomial(2, eager)
    shape = np.array([0.0, 0.15])[:, None] + np.array([0.0, 0.1, 0.2])  # (2, 3): dear choices are worth a little more
    shape[1, 2] -= 0.1
    mean = np.exp(worth[place] + shape[b1, b2])
    frame = pd.DataFrame({"place": place.astype(str), "b1": b1, "b2": b2})
    frame["money"] = np.where(rng.random(rows) < 0.5, mean * rng.gamma(4, 0.5, rows), 0.0)
    frame["guess"] = 3 * mean * np.exp(0.4 * b1) * rng.gamma(20, 1 / 20, rows)
    return frame, np.exp(worth).mean() * np.exp(shape).ravel()


@pytest.fixture(scope="module")
def biased() -> tuple[pd.DataFrame, np.ndarray]:
    return _biased_log(60_000, seed=3)


@pytest.mark.parametrize(("surrogate", "error"), [(None, 0.1), ("guess", 0.05)])
def test_who_was_asked_is_told_from_what_was_done(
    biased: tuple[pd.DataFrame, np.ndarray], surrogate: str | None, error: float
) -> None:
    frame, truth = biased
    plain = frame.groupby(SPEC.joint_index(frame))["money"].mean().to_numpy()
    assert np.abs(plain / truth - 1).max() > 0.8  # averages by action are far off
    found = estimate_profile(frame, SPEC, surrogate)
    assert np.abs(found / truth - 1).max() < error


def test_revenue_corrects_a_surrogate_that_overrates_a_choice(biased: tuple[pd.DataFrame, np.ndarray]) -> None:
    frame, truth = biased
    told = estimate_profile(frame.assign(money=frame["guess"]), SPEC, None).reshape(SIZES)
    found, truth = (one.reshape(SIZES) for one in (estimate_profile(frame, SPEC, "guess"), truth))
    assert told[1].sum() / told[0].sum() > 1.4 * truth[1].sum() / truth[0].sum()
    assert found[1].sum() / found[0].sum() == pytest.approx(truth[1].sum() / truth[0].sum(), rel=0.05)


def test_a_surrogate_that_is_mostly_zero_leads_to_no_nonsense() -> None:
    """Clicks, of which most requests have none: a loss for signals above zero strays by more than a factor of e here."""
    frame, truth = _biased_log(20_000, seed=0)
    clicks = np.random.default_rng(0).poisson(0.2 * frame["guess"] / frame["guess"].mean())
    assert (clicks == 0).mean() > 0.8
    found = estimate_profile(frame.assign(clicks=clicks), SPEC, "clicks")
    assert np.std(np.log(found) - np.log(truth)) < 0.3


def test_a_surrogate_tells_pairs_that_noise_hides_in_revenue() -> None:
    place, joint, _ = _every_cell(copies=100)
    truth, rng = np.exp(_log_effect(pair=True)), np.random.default_rng(2)
    frame = pd.DataFrame(JOINT[joint], columns=["b1", "b2"]).assign(place=place.astype(str))
    frame["money"] = truth[joint] * rng.gamma(0.05, 20, len(joint))  # coefficient of variation 4.5
    frame["guess"] = 7 * truth[joint] * np.exp(0.3 * frame["b1"])
    error = {one: _pair_error(estimate_profile(frame, SPEC, one), truth) for one in ("guess", None)}
    assert error["guess"] < 0.02
    assert error[None] > 0.05


THREE = RequestSpec.model_validate(
    SPEC.model_dump()
    | {"agents": {"all": ["b1", "b2", "b3"]}, "sizes": {"b1": 2, "b2": 2, "b3": 5}, "results": ["ranked"]}
)


def _log_of_three(effect: np.ndarray, signal: np.ndarray, rows: int, noise: float) -> pd.DataFrame:
    """Rows of one place with revenue exp(effect) × noise (coefficient of variation), and a side column exp(signal)."""
    rng = np.random.default_rng(11)
    joint = rng.integers(0, 20, rows)
    frame = pd.DataFrame(THREE.joint_table()[joint], columns=list(THREE.sub_actions)).assign(place="x")
    paid = np.exp(effect)[joint] * rng.gamma(noise**-2, noise**2, rows)
    return frame.assign(money=paid, guess=np.exp(signal)[joint] * rng.lognormal(0, 0.2, rows))


def _off(found: np.ndarray, effect: np.ndarray) -> float:
    """sd over joint actions of a profile's error, in logarithms."""
    return float(np.std(np.log(found) - effect))


def test_a_column_of_results_tells_how_the_surrogate_errs_and_need_not_be_there() -> None:
    rng = np.random.default_rng(4)
    ranked = np.exp(3 + np.hstack(parts_of(rng.normal(0, 1.5, 20), THREE)[:2]).sum(axis=1))  # by sub-actions and pairs
    effect = rng.normal(0, 0.3, 20)
    frame = _log_of_three(effect, effect + 0.4 * np.log1p(ranked), 20_000, noise=4.5)
    joint = THREE.joint_index(frame)
    told = estimate_profile(frame.assign(ranked=ranked[joint]), THREE, "guess")
    assert _off(told, effect) < 0.7 * _off(estimate_profile(frame, THREE, "guess"), effect)


def test_a_part_of_the_surrogate_that_is_made_up_is_taken_back() -> None:
    rng = np.random.default_rng(5)
    effect = np.linspace(-0.5, 0.5, 5)[THREE.joint_table()[:, 2]]
    made_up = parts_of(rng.normal(0, 1.0, 20), THREE)[2][:, 0]  # neither main effects nor pairs
    frame = _log_of_three(effect, effect + 0.4 * made_up / made_up.std(), 30_000, noise=2.0)
    assert _off(estimate_profile(frame, THREE, "guess"), effect) < 0.15


def test_revenue_s_own_profile_is_shrunk_where_it_is_noise() -> None:
    frame = _log_of_three(np.zeros(20), np.zeros(20), 5000, noise=4.5)
    plain = frame.groupby(THREE.joint_index(frame))["money"].mean().to_numpy()
    found = LoggedEffects.of(frame, THREE, None)
    for one in (found.fitted(), found.profile()):
        assert _off(one, np.zeros(20)) < 0.75 * _off(plain, np.zeros(20))


def _pair_error(found: np.ndarray, truth: np.ndarray) -> float:
    """Largest error of the interaction between the two sub-actions, in logarithms."""
    table = np.log(found / truth).reshape(SIZES)
    pair = table - table.mean(axis=0) - table.mean(axis=1, keepdims=True) + table.mean()
    return float(np.abs(pair).max())


@pytest.mark.parametrize("surrogate", [None, "guess"])
def test_the_unit_of_money_is_of_no_account(surrogate: str | None) -> None:
    frame, _ = _biased_log(3000, seed=1)
    found = estimate_profile(frame, SPEC, surrogate)
    dearer = estimate_profile(frame.assign(money=frame["money"] * 1000), SPEC, surrogate)
    assert np.allclose(dearer, 1000 * found, rtol=1e-3)
    if surrogate:
        other = estimate_profile(frame.assign(guess=frame["guess"] / 1000), SPEC, surrogate)
        assert np.allclose(other, found, rtol=1e-3)


def test_a_log_of_one_state_gives_averages_by_action() -> None:
    rng = np.random.default_rng(0)
    joint = rng.integers(0, 6, 4000)
    frame = pd.DataFrame(JOINT[joint], columns=["b1", "b2"]).assign(place="x", money=rng.gamma(3, 1, 4000) + joint)
    plain = frame.groupby(joint)["money"].mean().to_numpy()
    assert np.allclose(estimate_profile(frame, SPEC, None), plain, rtol=0.02)


@pytest.mark.parametrize("surrogate", [None, "guess"])
def test_a_log_without_noise_that_lacks_actions_gives_a_flat_profile(surrogate: str | None) -> None:
    joint = np.arange(200) % 4  # two of six joint actions never
    frame = pd.DataFrame(JOINT[joint], columns=["b1", "b2"]).assign(place="x", money=2.0, guess=7.0)
    assert np.allclose(estimate_profile(frame, SPEC, surrogate), 2.0, rtol=1e-3)


# ---- its file

VALUES = np.array([1 / 3, 2e-9, 3e7, 4.0, 5.123456789012345, 6.0])


def test_a_profile_comes_back_as_it_was_written(tmp_path: Path) -> None:
    write_profile(VALUES, SPEC, tmp_path / "profile.csv")
    assert np.array_equal(read_profile(tmp_path / "profile.csv", SPEC), VALUES)
    table = pd.read_csv(tmp_path / "profile.csv")
    table.sample(frac=1, random_state=0).to_csv(tmp_path / "shuffled.csv", index=False)
    assert np.array_equal(read_profile(tmp_path / "shuffled.csv", SPEC), VALUES)


@pytest.mark.parametrize(
    ("edit", "expected"),
    [
        (lambda t: t.iloc[:-1], "5 rows; expected each of 6 joint actions once"),
        (lambda t: pd.concat([t, t.iloc[:1]]), "7 rows; expected each of 6 joint actions once"),
        (lambda t: pd.concat([t.iloc[:-1], t.iloc[:1]]), "6 rows; expected each of 6 joint actions once"),
        (lambda t: t.assign(value=[0.0, *VALUES[1:]]), "column 'value': got 0; expected more than 0"),
        (lambda t: t.assign(value=[*VALUES[:-1], -1.0]), "row 6, column 'value': got -1.0; expected a number of at"),
        (lambda t: t.assign(value=[np.nan, *VALUES[1:]]), "row 1, column 'value': got an empty value; expected a num"),
        (lambda t: t.assign(value=[np.inf, *VALUES[1:]]), "row 1, column 'value': got inf; expected a finite number"),
        (lambda t: t.assign(b1=[7, *t["b1"][1:]]), "row 1, column 'b1': got 7; expected a whole number from 0 to 1"),
        (lambda t: t.drop(columns="b2"), "column 'b2' is missing"),
    ],
)
def test_a_bad_profile_is_one_line(edit: object, expected: str, tmp_path: Path) -> None:
    write_profile(VALUES, SPEC, tmp_path / "profile.csv")
    assert callable(edit)
    edit(pd.read_csv(tmp_path / "profile.csv")).to_csv(tmp_path / "bad.csv", index=False)
    with pytest.raises(UserError) as refused:
        read_profile(tmp_path / "bad.csv", SPEC)
    assert str(refused.value).startswith(f"{tmp_path / 'bad.csv'}: {expected}")


def test_a_profile_of_other_sizes_is_refused(tmp_path: Path) -> None:
    write_profile(VALUES, SPEC, tmp_path / "profile.csv")
    wider = SPEC.model_copy(update={"sizes": {"b1": 2, "b2": 4}})
    with pytest.raises(UserError, match="6 rows; expected each of 8 joint actions once"):
        read_profile(tmp_path / "profile.csv", RequestSpec.model_validate(wider.model_dump()))
    with pytest.raises(UserError, match="no such"):
        read_profile(tmp_path / "absent.csv", SPEC)
