"""Cached decisions against the plain scan, exact for any price."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from awrq_mixer.serving import HullPolicy
from awrq_mixer.serving.decide_kernels import scan
from marca_common.errors import UserError
from marca_measures.hull import candidates, chain, pareto


def _problem(seed: int, services: int, size: int = 12, joint: int = 60, coarse: bool = False) -> Any:
    rng = np.random.default_rng(seed)
    q, c = rng.gamma(1, 1, (size, joint)), rng.gamma(2, 1, (size, joint, services))
    return (np.round(q), np.round(c)) if coarse else (q, c)


def _policy(q: Any, c: Any) -> Any:
    states = pd.DataFrame({"name": [f"s{i}" for i in range(len(q))]})

    def rows(frame: Any) -> Any:
        return frame["name"].str[1:].astype(int).to_numpy()

    return HullPolicy.build(states, lambda f: q[rows(f)], lambda f: c[rows(f)], chunk=5, quiet=True)


def _objective(q: Any, c: Any, ids: Any, joint: Any, price: Any) -> Any:
    return q[ids, joint] - c[ids, joint] @ price


@settings(max_examples=30, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    services=st.integers(1, 3),
    coarse=st.booleans(),
    price=st.lists(st.one_of(st.just(0.0), st.floats(1e-6, 1e6)), min_size=3, max_size=3),
)
def test_cache_is_as_good_as_the_scan_at_any_price(seed: int, services: Any, coarse: Any, price: Any) -> None:
    q, c = _problem(seed, services, coarse=coarse)
    price = np.array(price[:services])
    ids = np.arange(len(q))
    chosen = _policy(q, c).decide(ids, price)
    best = _objective(q, c, ids, np.argmax(q - c @ price, axis=1), price)
    assert np.allclose(_objective(q, c, ids, chosen, price), best, rtol=1e-9, atol=1e-9 * (1 + price.max()))
    assert np.allclose(_objective(q, c, ids, scan(q, c, price), price), best, rtol=1e-12)


def test_chain_by_hand() -> None:
    q, c = np.array([1.0, 3.0, 2.0, 4.0, 4.0, 3.5]), np.array([1.0, 2.0, 1.5, 5.0, 6.0, 3.0])
    # the fifth is dearer and no better; the third lies on the line from the first to the second
    assert chain(q, c).tolist() == [0, 1, 5, 3]


def test_pareto_keeps_one_of_equals() -> None:
    q, c = np.array([1.0, 1.0, 2.0, 0.5]), np.array([[1.0, 1.0], [1.0, 1.0], [2.0, 0.5], [1.0, 2.0]])
    assert sorted(pareto(q, c).tolist()) == [0, 2]


def test_two_services_keep_only_actions_that_win_somewhere() -> None:
    q, c = _problem(4, 2, size=3, joint=200)
    counts, joint = candidates(q, c)
    prices = np.random.default_rng(0).gamma(0.3, 3, (40000, 2))
    start = 0
    for s, count in enumerate(counts):
        kept = set(joint[start : start + count].tolist())
        winners = set(np.argmax(q[s] - prices @ c[s].T, axis=1).tolist())
        assert winners <= kept
        assert count <= 2 * len(winners) + 3  # the cache is not a mere Pareto front
        start += count


def test_many_rows_and_few_rows_agree_and_frames_too() -> None:
    q, c = _problem(1, 2)
    policy = _policy(q, c)
    price = np.array([0.2, 0.1])
    ids = np.random.default_rng(0).integers(0, len(q), 500)
    one_by_one = np.concatenate([policy.decide(ids[i : i + 1], price) for i in range(len(ids))])
    assert np.array_equal(policy.decide(ids, price), one_by_one)
    assert np.array_equal(policy.decide(policy.states.iloc[ids], price), one_by_one)


def test_a_state_that_was_not_built_is_scored_on_the_fly() -> None:
    q, c = _problem(2, 1)
    states = pd.DataFrame({"name": [f"s{i}" for i in range(len(q))]})

    def rows(frame: Any) -> Any:
        return frame["name"].str[1:].astype(int).to_numpy()

    policy = HullPolicy.build(states.iloc[:6], lambda f: q[rows(f)], lambda f: c[rows(f)], quiet=True)
    asked = states.iloc[[9, 2, 9, 11]]
    expected = np.argmax(q - 0.3 * c[..., 0], axis=1)[[9, 2, 9, 11]]
    assert np.array_equal(policy.decide(asked, 0.3), expected)


def test_expected_knows_candidates_and_all_other_actions() -> None:
    q, c = _problem(3, 2)
    ids = np.repeat(np.arange(len(q)), q.shape[1])
    joint = np.tile(np.arange(q.shape[1]), len(q))
    value, cost = _policy(q, c).expected(ids, joint)
    assert np.allclose(value, q.ravel())
    assert np.allclose(cost, c.reshape(-1, 2))


def test_saved_cache_decides_the_same(tmp_path: Path) -> None:
    q, c = _problem(6, 2)
    policy = _policy(q, c)
    policy.save(tmp_path / "policy.npz")
    again = HullPolicy.load(tmp_path / "policy.npz")
    price = np.array([0.3, 0.3])
    assert np.array_equal(policy.decide(np.arange(12), price), again.decide(policy.states, price))
    with pytest.raises(UserError, match="outside the policy's cache"):
        again.decide(pd.DataFrame({"name": ["new"]}), price)


@pytest.mark.parametrize("price", [np.array([-1.0]), np.array([np.nan]), np.array([1.0, 1.0])])
def test_bad_prices_are_refused(price: Any) -> None:
    with pytest.raises(UserError, match="expected 1 finite prices"):
        _policy(*_problem(0, 1)).decide(np.array([0]), price)


def test_a_score_that_is_not_finite_is_refused() -> None:
    q, c = _problem(0, 1)
    q[3, 7] = np.nan
    with pytest.raises(UserError, match="joint action 7 is not a finite number"):
        _policy(q, c)


class TestIds:
    """Ids outside the cache are one line: compiled loops behind them read memory without looking."""

    @pytest.mark.parametrize(
        ("ids", "message"),
        [
            (np.array([0, 12]), "state id: got 12 at position 1; expected 0 to 11"),
            (np.array([-1]), "state id: got -1 at position 0; expected 0 to 11"),
            (np.array([3, 10**12]), "got 1000000000000 at position 1"),
            (np.full(500, 12), "got 12 at position 0"),  # many rows take another path
            (np.append(np.zeros(500, int), -1), "got -1 at position 500"),
            (np.array([1.0, 1.5]), "got 1.5 at position 1; expected whole numbers"),
            (np.array([np.nan]), "got nan at position 0"),
            (np.array([True, False]), "of type bool; expected whole numbers"),
            (np.array([2**63], np.uint64), "got 9223372036854775808 at position 0"),
            (np.array([2**64 - 1], np.uint64), "expected whole numbers"),
            (np.array([[0, 1]]), r"got shape \(1, 2\); expected one dimension"),
            (3, r"got shape \(\); expected one dimension"),
            (["s1"], "expected whole numbers"),
            ([1, None], "expected whole numbers"),
            ([[1], [1, 2]], "expected whole numbers"),
            (np.array(["2026-01-01"], "datetime64[D]"), "expected whole numbers"),
            (np.array([1j]), "expected whole numbers"),
            ("s1", "expected one dimension"),
            (None, "expected one dimension"),
        ],
    )
    def test_bad_ones_are_refused(self, ids: Any, message: str) -> None:
        policy = _policy(*_problem(0, 2))
        with pytest.raises(UserError, match=message):
            policy.decide(ids, np.array([0.1, 0.1]))
        with pytest.raises(UserError):
            policy.expected(ids, np.zeros(1, int))

    @pytest.mark.parametrize(
        "ids", [[2, 0], np.array([2, 0], np.uint8), np.array([2.0, 0.0]), np.array([2, 0], object), [np.int32(2), 0]]
    )
    def test_whole_numbers_of_any_type_are_the_same_states(self, ids: Any) -> None:
        policy = _policy(*_problem(0, 2))
        expected = policy.decide(np.array([2, 0]), np.array([0.1, 0.1]))
        assert np.array_equal(policy.decide(ids, [0.1, 0.1]), expected)

    def test_no_request_no_decision(self) -> None:
        policy = _policy(*_problem(0, 1))
        assert policy.decide([], 0.5).tolist() == policy.decide(policy.states[:0], 0.5).tolist() == []
        assert policy.expected([], [])[1].shape == (0, 1)

    @settings(max_examples=60, deadline=None)
    @given(ids=st.lists(st.integers(-(2**63), 2**63 - 1) | st.integers(0, 11), min_size=1, max_size=40))
    def test_a_decision_or_one_line(self, ids: Any) -> None:
        policy, inside = _policy(*_problem(0, 1, joint=8)), all(0 <= one < 12 for one in ids)
        if inside:
            assert len(policy.decide(np.array(ids), 0.2)) == len(ids)
        else:
            with pytest.raises(UserError, match="expected 0 to 11"):
                policy.decide(np.array(ids), 0.2)

    @pytest.mark.parametrize("joint", [[-1], [60], [10**10], [0.5], [0, 1], ["a"]])
    def test_joint_actions_that_do_not_exist_are_refused(self, joint: Any) -> None:
        with pytest.raises(UserError, match="joint action"):
            _policy(*_problem(0, 1)).expected(np.array([0]), joint)


def test_a_price_so_high_that_all_scores_overflow_still_decides() -> None:
    q, c = _problem(0, 2)
    assert (scan(q, 1e200 * c, np.array([1e300, 1e300])) == 0).all()


@pytest.mark.parametrize("price", ["0.1", None, [None, 0.1], [[0.1, 0.1]], [True, True], [0.1, 1j], {}, [0.1, np.inf]])
def test_prices_of_other_types_are_refused(price: Any) -> None:
    with pytest.raises(UserError, match="expected 2 finite prices"):
        _policy(*_problem(0, 2)).decide(np.array([0]), price)


class TestFrames:
    def test_wrong_columns(self) -> None:
        policy = _policy(*_problem(0, 1))
        with pytest.raises(UserError, match="'name' is missing; found other"):
            policy.decide(pd.DataFrame({"other": ["s1"]}), 0.1)
        with pytest.raises(UserError, match="'name' stands twice"):
            policy.decide(pd.DataFrame([["s1", "s2"]], columns=["name", "name"]), 0.1)
        extra = pd.DataFrame({"more": [1, 2], "name": ["s1", "s4"]}, index=[7, 7])
        assert np.array_equal(policy.decide(extra, 0.1), policy.decide([1, 4], 0.1))

    @settings(max_examples=200, deadline=None)
    @given(data=st.data(), kind=st.sampled_from([None, object, "category"]))
    def test_few_states_read_at_once_are_those_of_the_long_way(self, data: Any, kind: Any) -> None:
        """Whatever the values and their type: the same ids or the same complaint as by pandas."""
        plain = [
            st.sampled_from(["1", "0", "7", "a"]),
            st.sampled_from([1, 0, 7]),
            st.sampled_from([1.0, np.nan, 0.5]),
            st.booleans(),
        ]
        odd = [None, True, np.nan, "", "1.0", "True", "01", b"1", 1e20, 10**30, np.float32(0.1), (1,), 2.5]
        values = data.draw(
            st.one_of(*(st.lists(one, min_size=1, max_size=3) for one in [*plain, st.sampled_from(odd)]))
        )
        frame = pd.DataFrame({"y": ["k"] * len(values), "x": pd.Series(values, dtype=kind)})
        policy = _pairs()
        expected = _outcome(lambda: policy._looked_up(frame))
        assert _outcome(lambda: policy.lookup(frame)) == expected

    def test_a_frame_of_columns_on_two_levels_is_no_short_cut(self) -> None:
        nested = pd.DataFrame([["1", "k"]], columns=pd.MultiIndex.from_tuples([("x", "in"), ("y", "in")]))
        policy = _pairs()
        assert _outcome(lambda: policy.lookup(nested)) == _outcome(lambda: policy._looked_up(nested))

    def test_many_states_and_few_are_the_same(self) -> None:
        policy = _pairs()
        many = policy.states.sample(3000, replace=True, random_state=0)
        few = np.concatenate([policy.lookup(many.iloc[i : i + 50]) for i in range(0, 3000, 50)])
        assert np.array_equal(policy.lookup(many), few)
        assert np.array_equal(few, many.index)

    def test_a_state_that_stands_twice_can_only_be_asked_for_by_id(self) -> None:
        q, c = _problem(0, 1, size=2)
        twice = HullPolicy.build(pd.DataFrame({"n": [1, 1]}), lambda f: q[: len(f)], lambda f: c[: len(f)], quiet=True)
        assert len(twice.decide([0, 1], 0.1)) == 2
        with pytest.raises(UserError, match="stands in it twice"):
            twice.decide(twice.states, 0.1)

    def test_a_scorer_of_other_shape_is_refused(self) -> None:
        q, c = _problem(0, 2)
        policy = _policy(q, c)
        policy._costs = lambda f: c[: len(f), :, :1]
        policy._values = lambda f: q[: len(f)]
        with pytest.raises(UserError, match="costs: got shape"):
            policy.decide(pd.DataFrame({"name": ["new"]}), [0.1, 0.1])
        policy._values = lambda f: q[:5]
        with pytest.raises(UserError, match="values: got shape"):
            policy.decide(pd.DataFrame({"name": ["new"]}), [0.1, 0.1])


def _pairs() -> HullPolicy:
    """States of two columns, each asked for once, so that the short cut is open."""
    states = pd.DataFrame({"x": ["1", "0", "a", "0.5", "nan", "0.1", "None"], "y": ["k"] * 7})
    policy = HullPolicy.build(states, lambda f: np.ones((len(f), 2)), lambda f: np.ones((len(f), 2)), quiet=True)
    assert policy.lookup(states).tolist() == list(range(7))
    return policy


def _outcome(call: Any) -> Any:
    try:
        return call().tolist()
    except Exception as error:
        return repr(error)


def _cache(tmp_path: Path, services: int = 1, **changed: Any) -> Path:
    """A saved policy with some arrays replaced (by what a function makes of them); None leaves one out."""
    path = tmp_path / "policy.npz"
    _policy(*_problem(6, services)).save(path)
    with np.load(path) as file:
        content = {name: file[name] for name in file.files}
    for name, change in changed.items():
        content[name] = change(content[name]) if change is not None else None
    np.savez(path, **{name: one for name, one in content.items() if one is not None})
    return path


def _swapped(array: Any) -> Any:
    return np.concatenate([array[1::-1], array[2:]])


CACHES: list[tuple[int, dict[str, Any]]] = [
    (1, {"first": lambda a: a + 1}),
    (1, {"first": lambda a: a[:-1]}),
    (1, {"first": lambda a: np.append(a[:-1], a[-1] + 5)}),
    (1, {"first": lambda a: np.append(a[:-1], 10**15)}),
    (1, {"first": lambda a: np.r_[a[0], a[2], a[1], a[3:]]}),
    (1, {"first": lambda a: np.r_[a[0], a[0], a[2:]]}),
    (1, {"first": lambda a: a.astype(float) + 0.5}),
    (1, {"first": lambda a: a.reshape(1, -1)}),
    (1, {"first": None}),
    (1, {"joint": lambda a: -a}),
    (1, {"joint": lambda a: a[:-1]}),
    (1, {"joint": lambda a: a.astype(str)}),
    (1, {"q": lambda a: a[:-1]}),
    (1, {"q": lambda a: a * np.nan}),
    (1, {"q": lambda a: a.astype(str)}),
    (1, {"q": lambda a: a.astype(complex)}),
    (1, {"c": lambda a: a[:, 0]}),
    (1, {"c": lambda a: a[:, :0]}),
    (1, {"c": lambda a: a * np.inf}),
    (1, {"c": lambda a: -a}),
    (1, {"c": _swapped}),
    (1, {"q": _swapped}),
    (2, {"c": lambda a: a[:-1]}),
    (2, {"state_name": lambda a: a[:-1]}),
    (2, {"state_name": None}),
    (2, {"price_of_service": lambda a: a[:1]}),
    (2, {"price_of_service": lambda a: a + 1}),
    (2, {"price_of_service": lambda a: a - 1}),
]


@pytest.mark.parametrize("number", range(len(CACHES)))
def test_a_malformed_cache_is_one_line(tmp_path: Path, number: int) -> None:
    services, changed = CACHES[number]
    with pytest.raises(UserError, match="policy cache") as caught:
        HullPolicy.load(_cache(tmp_path, services, **changed))
    assert str(caught.value).startswith(str(tmp_path / "policy.npz"))


def test_a_slope_that_rises_is_no_chain(tmp_path: Path) -> None:
    """Three candidates whose middle one is never best would stop the search too early."""
    states = pd.DataFrame({"name": ["s0"]})
    HullPolicy(states, np.array([0, 3]), np.arange(3), np.array([1.0, 3.0, 4.0]), np.array([[1.0], [2.0], [3.0]]))
    with pytest.raises(UserError, match="candidates of state 0: expected rising cost and value with a falling slope"):
        HullPolicy(states, np.array([0, 3]), np.arange(3), np.array([1.0, 1.5, 4.0]), np.array([[1.0], [2.0], [3.0]]))


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 cut off", b"no archive", b"\x93NUMPY\x01\x00v\x00"])
def test_a_file_that_is_no_cache_is_one_line(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "policy.npz"
    path.write_bytes(content)
    with pytest.raises(UserError, match="not a readable policy cache"):
        HullPolicy.load(path)
    np.save(tmp_path / "array.npy", np.zeros(3))
    with pytest.raises(UserError, match="not a readable policy cache"):
        HullPolicy.load(tmp_path / "array.npy")


def test_a_policy_needs_a_state() -> None:
    with pytest.raises(UserError, match="no state"):
        HullPolicy.build(pd.DataFrame({"name": []}), lambda f: np.zeros((0, 3)), lambda f: np.zeros((0, 3)), quiet=True)


def test_one_price_for_both_services_is_the_same_price_twice(tmp_path: Path) -> None:
    q, c = _problem(7, 2)
    states = pd.DataFrame({"name": [f"s{i}" for i in range(len(q))]})
    shared = HullPolicy.build(states, lambda f: q[f.index], lambda f: c[f.index], 5, True, price_of_service=[0, 0])
    shared.save(tmp_path / "policy.npz")
    again, ids = HullPolicy.load(tmp_path / "policy.npz"), np.arange(len(q))
    expected = np.argmax(q - c @ np.array([0.3, 0.3]), axis=1)
    assert np.array_equal(shared.decide(ids, 0.3), expected)
    assert np.array_equal(again.decide(ids, [0.3]), expected)
    assert again.price_unit == "money per core-ms"
    with pytest.raises(UserError, match="expected 1 finite prices"):
        shared.decide(ids, [0.3, 0.3])


def test_prices_in_another_order_reach_their_services() -> None:
    q, c = _problem(8, 2)
    states = pd.DataFrame({"name": [f"s{i}" for i in range(len(q))]})
    turned = HullPolicy.build(states, lambda f: q[f.index], lambda f: c[f.index], 99, True, price_of_service=[1, 0])
    expected = np.argmax(q - c @ np.array([0.1, 0.9]), axis=1)
    assert np.array_equal(turned.decide(np.arange(len(q)), np.array([0.9, 0.1])), expected)


@pytest.mark.parametrize("declared", [[0], [0, 2], [1, 1], [0, 1, 1], ["a", "b"], [0.5, 1]])
def test_a_mapping_that_leaves_something_open_is_refused(declared: Any) -> None:
    policy = _policy(*_problem(0, 2))
    with pytest.raises(UserError, match="price_of_service"):
        HullPolicy(policy.states, policy.first, policy.joint, policy.q, policy.c, price_of_service=declared)


@pytest.mark.parametrize(
    "call",
    [
        lambda q, c: candidates(q, c[:-1]),
        lambda q, c: candidates(q, c[:, :-1]),
        lambda q, c: candidates(q, c[..., 0]),
        lambda q, c: chain(q[0], c[0, :-1, 0]),
        lambda q, c: pareto(q[0], c[0, :-1]),
        lambda q, c: scan(q, c[:-1], np.ones(2)),
        lambda q, c: scan(q, c, np.ones(3)),
        lambda q, c: scan(q[:, :0], c[:, :0], np.ones(2)),
    ],
)
def test_compiled_loops_can_not_be_reached_with_shapes_that_do_not_fit(call: Any) -> None:
    with pytest.raises(UserError, match="expected"):
        call(*_problem(0, 2))
