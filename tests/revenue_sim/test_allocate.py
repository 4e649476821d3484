"""Allocation under one budget: worked by hand, against brute force and HiGHS, and as properties."""

from __future__ import annotations

import tracemalloc
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.allocation_exact import KINDS, check, instance
from marca_common.errors import UserError
from marca_measures.frontier import frontier
from marca_measures.hull import chain
from revenue_sim.allocation import one_budget as module
from revenue_sim.allocation import whole_rows
from revenue_sim.allocation.budget_curve import budget_curve, hull_edges
from revenue_sim.allocation.one_budget import allocate
from tests.reference.allocation_reference import brute_force, highs_optimum, numpy_bisection

# Row 0: (cost, value) = (1, 1), (2, 4), (4, 5). Row 1: (1, 0), (3, 3). Edges by slope: 3 (Δc 1), 1.5 (Δc 2), 0.5 (Δc 2).
VALUES = np.array([[1.0, 4.0, 5.0], [0.0, 3.0, -9.0]])
COSTS = np.array([[1.0, 2.0, 4.0], [1.0, 3.0, 9.0]])


@pytest.mark.parametrize(
    ("budget", "choice", "price", "bound"),
    [
        (2.0, [0, 0], 3.0, 1.0),  # exactly the cheapest
        (3.0, [1, 0], 1.5, 4.0),
        (4.0, [1, 0], 1.5, 5.5),  # half of row 1's upgrade
        (5.0, [1, 1], 0.5, 7.0),
        (6.0, [1, 1], 0.5, 7.5),
        (7.0, [2, 1], 0.0, 8.0),
        (99.0, [2, 1], 0.0, 8.0),  # does not bind
    ],
)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_by_hand(budget: Any, choice: Any, price: Any, bound: Any, dtype: Any) -> None:
    solved = allocate(VALUES.astype(dtype), COSTS.astype(dtype), budget)
    assert solved.choice.tolist() == choice
    assert solved.lambda_ == pytest.approx(price)
    assert solved.bound == pytest.approx(bound, abs=1e-12)


def test_the_fractional_row_is_the_one_that_the_relaxation_splits() -> None:
    solved = allocate(VALUES, COSTS, 4.0)
    assert (solved.fractional_row, solved.fractional_action, solved.fraction) == (1, 1, 0.5)
    assert solved.gap == pytest.approx(1.5)
    assert allocate(VALUES, COSTS, 5.0).fractional_row is None


def test_counts_stand_for_repeated_rows() -> None:
    # Two requests in row 0: its first upgrade now costs 2 and brings 6.
    solved = allocate(VALUES, COSTS, 5.0, counts=np.array([2, 1]))
    assert (solved.choice.tolist(), solved.cost, solved.value) == ([1, 0], 5.0, 8.0)
    assert solved.bound == highs_optimum(VALUES, COSTS, 5.0, [2, 1])


def test_a_row_without_requests_changes_nothing() -> None:
    with_zero = allocate(VALUES, COSTS, 3.0, counts=np.array([1, 0]))
    alone = allocate(VALUES[:1], COSTS[:1], 3.0)
    assert (with_zero.value, with_zero.cost, with_zero.bound) == (alone.value, alone.cost, alone.bound)


def test_costs_shared_by_all_rows() -> None:
    shared = allocate(VALUES, COSTS[0], 4.0)
    assert shared.choice.tolist() == allocate(VALUES, np.stack([COSTS[0]] * 2), 4.0).choice.tolist()


def test_whole_rows_are_proven_best() -> None:
    # The relaxation's rounding takes row 0's upgrade and strands one unit; row 1's alone is worth more.
    values, costs = np.array([[0.0, 2.0], [0.0, 5.0]]), np.array([[0.0, 1.0], [0.0, 3.0]])
    rounded, best = allocate(values, costs, 3.0), allocate(values, costs, 3.0, integral=True)
    assert (rounded.value, best.value) == (2.0, 5.0)
    assert 5.0 <= best.bound < 5.0 + 1e-12


@pytest.mark.parametrize("difference", [1e-5, 1e-7, 1e-9])
def test_whole_rows_are_best_where_values_hardly_differ(difference: Any) -> None:
    """Values that are costs up to tiny differences: only these decide, and the solver's own tolerance must not."""
    picks = np.stack(np.meshgrid(*[np.arange(4)] * 5), axis=-1).reshape(-1, 5)
    for seed in range(8):
        generator = np.random.default_rng(1000 + seed)
        costs = generator.integers(1, 60, (5, 4)).astype(float)
        values = costs + difference * generator.integers(0, 100, (5, 4))
        budget = float((costs.min(axis=1).sum() + costs.max(axis=1).sum()) // 2)
        fits = costs[np.arange(5), picks].sum(axis=1) <= budget
        best = values[np.arange(5), picks].sum(axis=1)[fits].max()
        assert allocate(values, costs, budget, integral=True).value == pytest.approx(best, rel=1e-14)


@st.composite
def problems(draw: Any) -> Any:
    """Small problems with ties, equal costs, zero and negative values, one action, and rows of several requests."""
    rows, actions = draw(st.integers(1, 4)), draw(st.integers(1, 5))
    numbers = st.one_of(st.integers(-3, 4).map(float), st.floats(-4, 4, width=32))
    grid = st.floats(0, 4, width=32).map(lambda cost: round(cost * 2**16) / 2**16)  # sums of these are exact: no two
    costs = st.one_of(st.integers(0, 4).map(float), grid)  # orders of summing disagree on what fits
    values = np.array(draw(st.lists(numbers, min_size=rows * actions, max_size=rows * actions)))
    cost = np.array(draw(st.lists(costs, min_size=rows * actions, max_size=rows * actions)))
    counts = np.array(draw(st.lists(st.integers(0, 3), min_size=rows, max_size=rows)), dtype=float)
    values, cost = values.reshape(rows, actions), cost.reshape(rows, actions)
    least, most = float(counts @ cost.min(axis=1)), float(counts @ cost.max(axis=1))
    budget = least + draw(st.floats(0, 1.2)) * (most - least) + draw(st.sampled_from([0.0, 1e-3]))
    dtype = draw(st.sampled_from([np.float32, np.float64]))
    return values.astype(dtype), cost.astype(dtype), max(budget, 1e-3), counts


@settings(deadline=None, max_examples=300)
@given(problems())
def test_certificate_and_budget(problem: Any) -> None:
    values, costs, budget, counts = problem
    solved = allocate(values, costs, budget, counts)
    rows = np.arange(len(values))
    value = float(counts @ values[rows, solved.choice].astype(float))
    cost = float(counts @ costs[rows, solved.choice].astype(float))
    assert cost <= budget
    assert solved.cost == pytest.approx(cost, abs=1e-9)
    assert solved.value == pytest.approx(value, abs=1e-9)
    assert solved.value <= solved.bound + 1e-9
    largest_step = float((counts * np.ptp(values.astype(float), axis=1)).max())
    assert solved.gap <= largest_step + 1e-9


@settings(deadline=None, max_examples=150)
@given(problems())
def test_equal_to_brute_force(problem: Any) -> None:
    values, costs, budget, counts = problem
    best = brute_force(values.astype(float), costs.astype(float), budget, counts)
    solved = allocate(values, costs, budget, counts, integral=True)
    assert best is not None
    assert solved.value == pytest.approx(best, abs=1e-6)
    assert allocate(values, costs, budget, counts).bound >= best - 1e-9


@settings(deadline=None, max_examples=100)
@given(problems())
def test_bound_is_the_lp_optimum(problem: Any) -> None:
    values, costs, budget, counts = problem
    expected = highs_optimum(values, costs, budget, counts)
    bound = allocate(values, costs, budget, counts).bound
    assert bound == pytest.approx(expected, rel=1e-6, abs=1e-6)  # HiGHS' own feasibility tolerance


@settings(deadline=None, max_examples=150)
@given(problems(), st.floats(0, 10))
def test_never_below_a_single_price(problem: Any, price: Any) -> None:
    values, costs, budget, counts = problem
    rows = np.arange(len(values))
    chosen = (values.astype(float) - price * costs.astype(float)).argmax(axis=1)
    if float(counts @ costs[rows, chosen].astype(float)) <= budget:
        solved = allocate(values, costs, budget, counts, integral=True)
        assert solved.value >= float(counts @ values[rows, chosen].astype(float)) - 1e-6


@settings(deadline=None, max_examples=150)
@given(problems(), st.randoms(use_true_random=False))
def test_order_of_rows_does_not_matter(problem: Any, random: Any) -> None:
    values, costs, budget, counts = problem
    order = list(range(len(values)))
    random.shuffle(order)
    first = allocate(values, costs, budget, counts)
    second = allocate(values[order], costs[order], budget, counts[order])
    assert (second.value, second.bound) == pytest.approx((first.value, first.bound), abs=1e-9)
    assert second.lambda_ == pytest.approx(first.lambda_, rel=1e-9)


@settings(deadline=None, max_examples=100)
@given(problems())
def test_the_curve_holds_every_bound(problem: Any) -> None:
    values, costs, budget, counts = problem
    value, price = budget_curve(values, costs, counts).at(budget)
    solved = allocate(values, costs, budget, counts)
    assert value[0] == pytest.approx(solved.bound, abs=1e-6)
    if solved.fraction > 1e-6:
        assert price[0] == pytest.approx(solved.lambda_, rel=1e-6)


@settings(deadline=None, max_examples=150)
@given(problems())
def test_the_fast_hull_is_the_defined_chain(problem: Any) -> None:
    """Edges row by row against ``marca_measures.hull.chain``, where rounding leaves one answer: whole numbers."""
    values, costs, _, _ = problem
    values, costs = np.rint(values), np.rint(costs)
    edges = hull_edges(values, costs, np.ones(len(values)), threads=1)
    for row in range(len(values)):
        own = edges.row == row
        found = [int(edges.base[row]), *edges.after[own].tolist()]
        assert edges.before[own].tolist() == found[:-1]
        expected = chain(values[row].astype(float), costs[row].astype(float))
        points = [(float(costs[row, a]), float(values[row, a])) for a in found]
        assert points == [(float(costs[row, a]), float(values[row, a])) for a in expected]


@settings(deadline=None, max_examples=100)
@given(problems())
def test_the_curve_is_the_defined_frontier(problem: Any) -> None:
    values, costs, _, counts = problem
    weight = counts if counts.sum() else counts + 1
    values, costs = np.rint(values), np.rint(costs)
    curve, defined = budget_curve(values, costs, weight), frontier(values, costs, values, weight)
    for part in (0.0, 0.3, 0.8, 1.0):
        budget = curve.cost[0] + part * (curve.cost[-1] - curve.cost[0])
        assert curve.at(budget)[0][0] / weight.sum() == pytest.approx(defined.at(budget / weight.sum())[0], abs=1e-9)


@pytest.fixture
def sampled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Brackets from samples already for small problems."""
    monkeypatch.setattr(module, "SAMPLE_FROM", 1)
    monkeypatch.setattr(module, "SAMPLE_ROWS", (20, 60))


def random_problem(seed: Any, rows: int = 3000, actions: int = 33, dtype: Any = np.float32) -> Any:
    generator = np.random.default_rng(seed)
    costs = generator.uniform(0.2, 3, (rows, actions)).astype(dtype)
    values = (generator.gamma(1.0, 1.0, (rows, 1)) * np.sqrt(costs) * generator.uniform(0.7, 1.3, costs.shape)).astype(
        dtype
    )
    return values, costs


@pytest.mark.parametrize("part", [0.001, 0.05, 0.3, 0.9, 1.1])
def test_a_sampled_bracket_changes_nothing(sampled: Any, part: Any) -> None:
    values, costs = random_problem(1)
    least, free = costs.min(axis=1).sum(dtype=float), costs[np.arange(3000), values.argmax(axis=1)].sum(dtype=float)
    budget = least + part * (free - least)
    curve_value, _ = budget_curve(values, costs).at(budget)
    for seed in range(3):
        solved = allocate(values, costs, budget, seed=seed, threads=2)
        assert solved.bound == pytest.approx(curve_value[0], rel=1e-12)
        assert solved.cost <= budget


def test_a_missed_bracket_changes_nothing(sampled: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    values, costs = random_problem(2)
    budget = 1.2 * len(values)
    right = allocate(values, costs, budget)
    for wrong in [((1.0, 1e-3), (1.0, 1e-4)), ((1.0, 90.0), (1.0, 80.0))]:
        monkeypatch.setattr(module, "_bracket", lambda *_, wrong=wrong: wrong)
        again = allocate(values, costs, budget)
        assert (again.bound, again.lambda_) == pytest.approx((right.bound, right.lambda_), rel=1e-12)


def test_equal_to_bisection_in_numpy() -> None:
    values, costs = random_problem(3, rows=500)
    price, value, cost = numpy_bisection(values.astype(float), costs.astype(float), 600.0)
    solved = allocate(values, costs, 600.0)
    assert price == pytest.approx(solved.lambda_, rel=1e-6)
    assert cost <= 600.0
    assert value <= solved.value + 1e-9


def test_large_offsets_do_not_fool_the_single_precision_search() -> None:
    # Values of 1e6 differ by less than float32 resolves after weighting; the float64 search must still order them.
    generator = np.random.default_rng(4)
    values = (1e6 + generator.integers(0, 8, (200, 40))).astype(np.float32)
    costs = generator.integers(1, 50, (200, 40)).astype(np.float32)
    expected = highs_optimum(values - 1e6, costs, 2000.0) + 200 * 1e6
    assert allocate(values, costs, 2000.0).bound == pytest.approx(expected, rel=1e-12)


def test_a_models_curve_is_counted_in_true_numbers() -> None:
    # The model thinks row 1's dear action is worth nothing more: it never takes it up.
    model = np.array([[1.0, 4.0, 5.0], [0.0, -1.0, -9.0]])
    curve = budget_curve(model, COSTS, true_values=2 * VALUES, true_costs=COSTS + 1)
    assert curve.cost.tolist() == [4.0, 5.0, 7.0]
    assert curve.value.tolist() == [2.0, 8.0, 10.0]
    assert np.isnan(curve.at(np.array([3.9]))[0][0])
    assert curve.at(np.array([6.0, 100.0]))[0].tolist() == [9.0, 10.0]


@pytest.mark.parametrize("budget", [0, -1.0, float("nan"), float("inf"), "3", None, True])
def test_a_budget_is_a_positive_number(budget: Any) -> None:
    with pytest.raises(UserError, match=r"budget: got .*expected a positive number"):
        allocate(VALUES, COSTS, budget)


def test_an_infeasible_budget_names_the_least_cost() -> None:
    with pytest.raises(UserError, match="the least possible cost is 2"):
        allocate(VALUES, COSTS, 1.5)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("name", ["values", "costs"])
def test_numbers_must_be_finite(bad: Any, name: Any) -> None:
    arrays = {"values": VALUES.copy(), "costs": COSTS.copy()}
    arrays[name][1, 2] = bad
    with pytest.raises(UserError, match=f"{name}: row 2, joint action 2"):
        allocate(arrays["values"], arrays["costs"], 5.0)


@pytest.mark.parametrize("counts", [[1], [1, -1], [1, np.nan]])
def test_counts_are_checked(counts: Any) -> None:
    with pytest.raises(UserError, match="counts"):
        allocate(VALUES, COSTS, 5.0, counts=np.array(counts))


def test_shapes_are_checked() -> None:
    with pytest.raises(UserError, match="costs: got shape"):
        allocate(VALUES, COSTS[:, :2], 5.0)
    with pytest.raises(UserError, match="values: got shape"):
        allocate(VALUES[0], COSTS, 5.0)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_whole_rows_against_a_table_over_costs(kind: str) -> None:
    """20 of the 200 instances of each kind that benchmarks/allocation_exact.py tries."""
    found = check(kind, range(20))
    assert found["instances"] == 20
    assert not any(found[name] for name in ("value_above", "bound_below", "over_budget", "not_optimal"))


def test_values_that_differ_in_their_last_bit() -> None:
    """The bound covers what float64 can't tell apart."""
    values = np.array([[1.0, np.nextafter(2.0, 3.0)], [1.0, 2.0]])
    costs = np.array([[1.0, 2.0], [1.0, 2.0]])
    best = allocate(values, costs, 3.0, integral=True)
    assert best.bound >= 1.0 + np.nextafter(2.0, 3.0)
    assert best.gap < 1e-12


@settings(deadline=None, max_examples=100)
@given(st.integers(0, 10_000), st.sampled_from([1e-30, 1e-12, 1.0, 1e12, 1e30]), st.sampled_from([1e-30, 1.0, 1e30]))
def test_units_do_not_matter_to_whole_rows(seed: int, value_unit: float, cost_unit: float) -> None:
    values, costs, counts, budget = instance("weakly correlated", 6, 4, 50, seed)
    plain = allocate(values.astype(float), costs.astype(float), float(budget), counts.astype(float), integral=True)
    scaled = allocate(values * value_unit, costs * cost_unit, budget * cost_unit, counts.astype(float), integral=True)
    assert plain.status == "optimal"
    value = float(counts @ values[np.arange(6), scaled.choice])
    cost = float(counts @ costs[np.arange(6), scaled.choice])
    assert cost <= budget * (1 + 1e-12)
    assert scaled.bound >= plain.value * value_unit * (1 - 1e-15)
    if scaled.status == "optimal":  # else a choice that costs the budget is over it by rounding alone
        assert value == pytest.approx(plain.value, rel=1e-12)


def test_a_search_cut_short_says_what_it_knows(monkeypatch: pytest.MonkeyPatch) -> None:
    values, costs, counts, budget = instance("strongly correlated", 30, 10, 1000, 7)
    numbers = values.astype(float), costs.astype(float), float(budget), counts.astype(float)
    full = allocate(*numbers, integral=True)
    monkeypatch.setattr(whole_rows, "STATES", (1,))
    cut = allocate(*numbers, integral=True)
    none = allocate(*numbers, integral=True, time_limit_s=1e-9)
    assert full.status == "optimal"
    for one in (cut, none):
        assert one.status == "limit"
        assert one.cost <= budget
        assert one.value <= full.value <= one.bound <= allocate(*numbers).bound * (1 + 1e-12)


def test_a_later_pass_takes_nothing_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """The floor of each pass is proven: one that keeps fewer partial choices, as where time ends, does not lower it."""
    values, costs, counts, budget = instance("zigzag", 30, 10, 1000, 1)
    numbers = values.astype(float), costs.astype(float), counts.astype(float), float(budget)
    core = whole_rows.Core.of(*numbers, allocate(numbers[0], numbers[1], numbers[3], numbers[2]))
    _, best, floor = core._pass(core.room, core.start_loss, np.inf, 30)
    assert core._pass(core.room, best, np.inf, 1)[2] < floor < best
    monkeypatch.setattr(whole_rows, "STATES", (30, 1))
    assert core.search(core.room, core.start_loss, np.inf)[1:] == (best, floor)


def test_an_action_far_down_a_long_row_is_found() -> None:
    """Row 0 costs and earns even numbers up to 79,998, row 1 nothing or 1: only both together reach an odd budget."""
    long = 2.0 * np.arange(40_000)
    values, costs = np.stack([long, np.zeros(40_000)]), np.stack([long, np.full(40_000, 9e4)])
    values[1, 1], costs[1, :2] = 1.0, [0.0, 1.0]
    start = replace(allocate(values, costs, 79_981.0), choice=np.zeros(2, np.int64), value=0.0, cost=0.0)
    best = whole_rows.best_whole_rows(values, costs, np.ones(2), 79_981.0, start)
    assert (start.lambda_, best.choice.tolist(), best.value, best.status) == (1.0, [39_990, 1], 79_981.0, "optimal")


def test_a_large_table_is_never_copied() -> None:
    """Core.of needs a few blocks of rows and a few columns; the table in float64 is ten blocks, its absolute values five."""
    generator, ones = np.random.default_rng(4), np.ones(40_000)
    values, costs = (generator.uniform(0.2, 3, (40_000, 200)).astype(np.float32) for _ in range(2))
    start = allocate(values, costs, 40_000.0)
    tracemalloc.start()
    whole_rows._scales(values, costs, ones)
    _, scales = tracemalloc.get_traced_memory()
    whole_rows.Core.of(values, costs, ones, 40_000.0, start)
    _, whole = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    block = 8 * whole_rows.BLOCK * 200
    assert scales < block
    assert whole < 8 * block
