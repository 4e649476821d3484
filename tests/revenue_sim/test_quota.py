"""Allocation under quotas: worked by hand, against sort-and-fill and HiGHS, and as properties."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from marca_common.errors import UserError
from revenue_sim.quotas import quota, transport
from revenue_sim.quotas.quota import greedy, optimal
from tests.reference.allocation_reference import sort_and_fill, transport_optimum

# Greedy takes 10 first and is left with 1; the best takes 9 + 8.
ONES = np.ones(2, dtype=np.int64)
SCORES = np.array([[10.0, 9.0], [8.0, 1.0]], dtype=np.float32)


def as_pairs(allocation: Any) -> Any:
    return {(int(s), int(a)): int(n) for s, a, n in zip(allocation.state, allocation.action, allocation.count)}


def test_by_hand() -> None:
    first, best = greedy(SCORES, ONES, ONES), optimal(SCORES, ONES, ONES)
    assert (as_pairs(first), first.value(SCORES)) == ({(0, 0): 1, (1, 1): 1}, 11.0)
    assert (as_pairs(best), best.value(SCORES), best.bound) == ({(0, 1): 1, (1, 0): 1}, 17.0, 17.0)
    assert best.by_state(SCORES).tolist() == [9.0, 8.0]


def test_ties_go_by_key() -> None:
    assert as_pairs(greedy(np.zeros((2, 2), np.float32), np.array([1, 2]), np.array([2, 1]))) == {
        (0, 0): 1,
        (1, 0): 1,
        (1, 1): 1,
    }
    minus = np.array([[0.0, -0.0]], np.float32)  # the two zeros are equal scores
    assert as_pairs(greedy(minus[:, ::-1], np.array([1]), np.array([1, 0]))) == {(0, 0): 1}


@st.composite
def transports(draw: Any) -> Any:
    states, actions = draw(st.integers(1, 9)), draw(st.integers(1, 9))
    kind = draw(st.sampled_from(["ties", "floats"]))
    numbers = st.integers(-2, 2).map(float) if kind == "ties" else st.floats(-10, 10, width=32)
    scores = np.array(draw(st.lists(numbers, min_size=states * actions, max_size=states * actions)))
    counts = np.array(draw(st.lists(st.integers(0, 5), min_size=states, max_size=states)))
    cuts = draw(st.lists(st.integers(0, actions - 1), min_size=int(counts.sum()), max_size=int(counts.sum())))
    dtype = draw(st.sampled_from([np.float32, np.float64]))
    quotas = np.bincount(np.array(cuts, dtype=int), minlength=actions)
    return scores.reshape(states, actions).astype(dtype), counts, quotas


@settings(deadline=None, max_examples=200)
@given(transports())
def test_greedy_is_sort_and_fill(problem: Any) -> None:
    scores, counts, quotas = problem
    assert as_pairs(greedy(scores, counts, quotas)) == sort_and_fill(scores.tolist(), counts.tolist(), quotas.tolist())


@settings(deadline=None, max_examples=200)
@given(transports())
def test_optimal_is_the_transport_optimum(problem: Any) -> None:
    scores, counts, quotas = problem
    best = optimal(scores, counts, quotas)
    assert np.bincount(best.state, best.count, len(counts)).tolist() == counts.tolist()
    assert np.bincount(best.action, best.count, len(quotas)).tolist() == quotas.tolist()
    assert (best.count > 0).all()
    value = best.value(scores)
    assert value == pytest.approx(transport_optimum(scores, counts, quotas), abs=1e-6)
    assert best.bound == pytest.approx(value, abs=1e-9)
    assert greedy(scores, counts, quotas).value(scores) <= value + 1e-9


@settings(deadline=None, max_examples=100)
@given(transports(), st.randoms(use_true_random=False))
def test_order_of_states_does_not_matter_to_the_optimum(problem: Any, random: Any) -> None:
    scores, counts, quotas = problem
    order = list(range(len(counts)))
    random.shuffle(order)
    moved = optimal(scores[order], counts[order], quotas)
    assert moved.value(scores[order]) == pytest.approx(optimal(scores, counts, quotas).value(scores), abs=1e-9)


def test_one_request_each_is_the_assignment_problem() -> None:
    from scipy.optimize import linear_sum_assignment

    scores = np.random.default_rng(0).integers(0, 4, (60, 60)).astype(np.float32)  # degenerate: many equal optima
    rows, columns = linear_sum_assignment(scores, maximize=True)
    best = optimal(scores, np.ones(60), np.ones(60))
    assert best.value(scores) == float(scores[rows, columns].sum())


def test_a_larger_problem_is_certified_by_its_dual() -> None:
    generator = np.random.default_rng(1)
    scores = generator.random((300, 150), dtype=np.float32)
    counts = generator.geometric(0.1, 300)
    quotas = generator.multinomial(counts.sum(), generator.dirichlet(np.full(150, 0.3)))
    best = optimal(scores, counts, quotas)
    assert best.value(scores) == pytest.approx(best.bound, rel=1e-12)
    assert greedy(scores, counts, quotas).value(scores) < best.value(scores)


def test_any_feasible_start_leads_to_the_optimum() -> None:
    scores, counts, quotas = SCORES, np.array([2, 3]), np.array([4, 1])
    starts = [([0, 1, 1], [0, 0, 1], [2, 2, 1]), ([0, 0, 1], [0, 1, 0], [1, 1, 3])]
    values = [transport.solve(scores, counts, quotas, *map(np.array, start))[3] for start in starts]
    assert values == pytest.approx([10 + 9 + 24, 10 + 9 + 24])


@pytest.mark.parametrize("method", [greedy, optimal])
@pytest.mark.parametrize(
    ("counts", "quotas", "message"),
    [
        ([1, 1], [1, 2], "quotas: they sum to 3 uses; expected 2"),
        ([1, 0.5], [1, 1], "states: row 2: got 0.5; expected a whole number"),
        ([1, -1], [1, 1], "states: row 2: got -1"),
        ([2], [1, 1], "states: got shape"),
        ([1, 1], [2], "quotas: got shape"),
    ],
)
def test_quotas_are_checked(method: Any, counts: Any, quotas: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        method(SCORES, counts, quotas)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_scores_must_be_finite(bad: Any) -> None:
    scores = SCORES.copy()
    scores[1, 0] = bad
    with pytest.raises(UserError, match="scores: row 2, joint action 0"):
        greedy(scores, ONES, ONES)


@pytest.mark.parametrize("group", [1, 500, 10**6])
def test_sorting_in_parts_changes_nothing(monkeypatch: pytest.MonkeyPatch, group: Any) -> None:
    monkeypatch.setattr(quota, "GROUP", group)
    generator = np.random.default_rng(2)
    scores = (generator.normal(size=(80, 60)) * generator.lognormal(0, 3, (80, 1))).astype(np.float32)
    scores[generator.random(scores.shape) < 0.3] = 0.0  # many ties
    counts = generator.geometric(0.2, 80)
    quotas = generator.multinomial(counts.sum(), np.full(60, 1 / 60))
    expected = sort_and_fill(scores.tolist(), counts.tolist(), quotas.tolist())
    assert as_pairs(greedy(scores, counts, quotas)) == expected
