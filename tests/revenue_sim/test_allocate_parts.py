"""Parts of the allocations by hand: sums that rounding spoils, samples, curves, chunks, prices, moves and refusals."""

from __future__ import annotations

import itertools
import threading
from typing import Any

import numpy as np
import pytest

from benchmarks.allocation_exact import instance
from marca_common.errors import UserError
from revenue_sim.allocation import budget_curve as curves
from revenue_sim.allocation import one_budget, repair
from revenue_sim.allocation.budget_curve import FREE, INFINITE, budget_curve, check_pair, hull_edges, run_chunks
from revenue_sim.allocation.level_bundle import minimise
from revenue_sim.allocation.one_budget import allocate
from revenue_sim.allocation.priced_rows import PricedRows
from revenue_sim.allocation.result import Allocation, total_cost
from revenue_sim.allocation.several_budgets import SeveralAllocation, allocate_several
from tests.reference.allocation_reference import brute_force

# Row 0: (cost, value) = (1, 1), (2, 4), (4, 5). Row 1: (1, 0), (3, 3). Edges by slope: 3 (Δc 1), 1.5 (Δc 2), 0.5 (Δc 2).
VALUES = np.array([[1.0, 4.0, 5.0], [0.0, 3.0, -9.0]])
COSTS = np.array([[1.0, 2.0, 4.0], [1.0, 3.0, 9.0]])
ONES = np.ones(2)


@pytest.mark.parametrize("seed", [8, 11, *range(20, 60)])
def test_a_budget_that_only_the_order_of_summing_fits_is_kept(seed: int) -> None:
    generator = np.random.default_rng(seed)
    tenths = generator.integers(1, 10, 12) / 10
    costs = np.stack([np.zeros(12), tenths], axis=1)
    values = np.stack([np.zeros(12), generator.integers(1, 10, 12) * 1.0], axis=1)
    budget = float(sum(tenths[generator.permutation(12)].tolist()))
    found = allocate(values, costs, budget)
    assert found.cost == pytest.approx(total_cost(costs, np.ones(12), found.choice), rel=1e-14)
    assert total_cost(costs, np.ones(12), found.choice) <= budget
    assert found.value == values[np.arange(12), found.choice].sum()
    assert (found.choice == 0).sum() <= 1  # at most one upgrade is undone: that which is worth least
    if (found.choice == 0).any():
        worth = values[:, 1] / tenths
        assert worth[found.choice == 0][0] == worth.min()


def test_the_last_upgrade_is_undone_where_rows_sum_to_more() -> None:
    values, costs = np.array([[0.0, 1.0], [0.0, 2.0], [0.0, 3.0]]), np.array([[0.0, 0.1], [0.0, 0.2], [0.0, 0.3]])
    assert 0.1 + 0.2 + 0.3 > 0.6
    found = allocate(values, costs, 0.6)
    assert found.cost <= 0.6
    assert found.choice.sum() == 2


@pytest.mark.parametrize("counts", [None, np.arange(400) % 3])
def test_a_sample_brackets_the_price_with_costs_shared_by_all_rows(
    monkeypatch: pytest.MonkeyPatch, counts: Any
) -> None:
    generator = np.random.default_rng(5)
    costs = generator.uniform(0.2, 3, 12)
    values = generator.gamma(1, 1, (400, 1)) * np.sqrt(costs) * generator.uniform(0.7, 1.3, (400, 12))
    budget = float(1.1 * (400 if counts is None else counts.sum()))
    full = allocate(values, costs, budget, counts)
    monkeypatch.setattr(one_budget, "SAMPLE_FROM", 1)
    monkeypatch.setattr(one_budget, "SAMPLE_ROWS", (20, 60))
    passes: list[Any] = []

    def spy(*arguments: Any, **options: Any) -> Any:
        edges = hull_edges(*arguments, **options)
        passes.append((len(edges.base), len(edges.row)))
        return edges

    monkeypatch.setattr(one_budget, "hull_edges", spy)
    for seed in range(4):
        passes.clear()
        for shape in (costs, np.tile(costs, (400, 1))):
            found = allocate(values, shape, budget, counts, seed=seed)
            assert (found.bound, found.lambda_) == pytest.approx((full.bound, full.lambda_))
            assert found.value == pytest.approx(full.value, rel=1e-3)  # only edges of the bracket fill what is left
        assert [rows for rows, _ in passes[:3]] == [20, 60, 400]
        assert passes[2][1] < 400  # of some 1,500 edges


def test_small_problems_are_not_sampled(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = np.random.default_rng(6)
    values, costs = generator.random((79, 4)), generator.random((79, 4))
    monkeypatch.setattr(one_budget, "SAMPLE_FROM", 1)
    monkeypatch.setattr(one_budget, "SAMPLE_ROWS", (5, 20))
    bracket = one_budget._bracket
    assert bracket(values, costs, np.ones(79), 40.0, 0, 1) == (INFINITE, FREE)  # fewer than four times the sample
    assert bracket(values, costs, np.zeros(79), 40.0, 0, 1) == (INFINITE, FREE)
    again = np.concatenate([values, values]), np.concatenate([costs, costs])
    high, low = bracket(*again, np.ones(158), 60.0, 0, 1)
    assert (high, low) != (INFINITE, FREE)
    assert bracket(*again, np.zeros(158), 60.0, 0, 1) == (INFINITE, FREE)
    monkeypatch.setattr(one_budget, "SAMPLE_FROM", 158 * 4 + 1)
    assert bracket(*again, np.ones(158), 60.0, 0, 1) == (INFINITE, FREE)


def test_a_time_limit_reaches_the_search() -> None:
    values, costs, counts, budget = instance("strongly correlated", 30, 10, 1000, 7)
    numbers = values.astype(float), costs.astype(float), float(budget), counts.astype(float)
    assert allocate(*numbers, integral=True, time_limit_s=60.0).status == "optimal"
    assert allocate(*numbers, integral=True, time_limit_s=1e-9).status == "limit"


def test_a_budget_that_just_fits_and_one_that_just_does_not() -> None:
    assert allocate(VALUES, COSTS, 2.0).choice.tolist() == [0, 0]
    with pytest.raises(UserError) as refused:
        allocate(VALUES, COSTS, 1.999)
    assert str(refused.value) == "budget: got 1.999; the least possible cost is 2"
    free = allocate(VALUES, COSTS, 7.0)
    assert (free.lambda_, free.fractional_row, free.fractional_action, free.fraction) == (0.0, None, None, 0.0)
    assert free.gap == 0
    split = allocate(VALUES, COSTS, 3.5)
    assert (split.fractional_row, split.fractional_action, split.fraction) == (1, 1, 0.25)
    assert (split.value, split.cost, split.bound, split.gap) == (4.0, 3.0, 4.75, 0.75)


def test_the_gap_is_never_negative() -> None:
    one = Allocation(np.zeros(1, np.int64), 0.0, 2.0, 1.0, 1.5, None, None, 0.0)
    several = SeveralAllocation(np.zeros(1, np.int64), np.zeros(1), 2.0, np.ones(1), 1.5, 1)
    assert (one.gap, several.gap) == (0.0, 0.0)
    assert SeveralAllocation(np.zeros(1, np.int64), np.zeros(1), 1.0, np.ones(1), 1.5, 1).gap == 0.5


def test_total_costs_by_hand() -> None:
    choice, counts = np.array([2, 1]), np.array([2.0, 10.0])
    assert total_cost(COSTS, counts, choice) == 2 * 4 + 10 * 3
    assert total_cost(COSTS[:1], counts, choice) == 2 * 4 + 10 * 2
    assert total_cost(COSTS.astype(np.float32), counts, choice) == 38


def test_edges_by_hand() -> None:
    edges = hull_edges(VALUES, COSTS, np.array([2.0, 1.0]))
    assert (edges.base.tolist(), edges.base_cost, edges.base_value) == ([0, 0], 3.0, 2.0)
    found = sorted(zip(edges.row, edges.before, edges.after, edges.slope, edges.cost, edges.value))
    assert found == [(0, 0, 1, 3.0, 2.0, 6.0), (0, 1, 2, 0.5, 4.0, 2.0), (1, 0, 1, 1.5, 2.0, 3.0)]
    between = hull_edges(VALUES, COSTS, ONES, (1.0, 2.0), (1.0, 1.0))  # at λ = 2 row 0 is at action 1
    assert (between.base.tolist(), between.row.tolist(), between.slope.tolist()) == ([1, 0], [1], [1.5])
    part = hull_edges(VALUES, COSTS, np.array([2.0, 1.0]), rows=np.array([1]))
    assert (part.base.tolist(), part.base_cost, part.row.tolist(), part.slope.tolist()) == ([0], 1.0, [0], [1.5])
    shared = hull_edges(VALUES, COSTS[:1], ONES)
    assert sorted(shared.slope.tolist()) == [0.5, 3.0, 3.0]


def test_equal_slopes_go_by_the_larger_step_whatever_the_order_of_rows() -> None:
    values, costs = (
        np.array([[0.0, 2.0], [0.0, 6.0], [0.0, 4.0], [0.0, 9.0]]),
        np.array([[0.0, 1.0], [0.0, 3.0], [0.0, 2.0], [0.0, 1.0]]),
    )
    for order in ([0, 1, 2, 3], [2, 0, 3, 1]):
        edges = hull_edges(values[order], costs[order], np.ones(4), threads=1)
        assert edges.cost[edges.order()].tolist() == [1.0, 3.0, 2.0, 1.0]
        assert edges.slope[edges.order()].tolist() == [9.0, 2.0, 2.0, 2.0]


def test_a_curve_between_its_points_and_beyond() -> None:
    curve = budget_curve(VALUES, COSTS, np.array([2.0, 1.0]))
    assert curve.cost.tolist() == [3, 5, 7, 11]
    assert curve.value.tolist() == [2, 8, 11, 13]
    assert curve.lambda_.tolist() == [np.inf, 3, 1.5, 0.5]
    value, price = curve.at(np.array([2.9, 3.0, 4.0, 5.0, 8.0, 11.0, 20.0]))
    assert value.tolist() == pytest.approx([np.nan, 2, 5, 8, 11.5, 13, 13], nan_ok=True)
    assert price.tolist() == pytest.approx([np.nan, 3, 3, 1.5, 0.5, 0, 0], nan_ok=True)
    flat = budget_curve(np.ones((2, 1)), np.ones((2, 1)))
    assert [one.tolist() for one in flat.at(2.0)] == [[2.0], [0.0]]  # type: ignore[arg-type]


def test_a_models_curve_in_true_numbers_shared_by_all_rows_and_with_counts() -> None:
    curve = budget_curve(VALUES, COSTS, np.array([2.0, 1.0]), true_values=10 * VALUES[0], true_costs=COSTS[0] ** 2)
    # model's path: both cheapest; row 0 to 1; row 1 to 1; row 0 to 2. True values 10, 40, 50, true costs 1, 4, 16 for all
    assert curve.value.tolist() == [30, 90, 120, 140]
    assert curve.cost.tolist() == [3, 9, 12, 36]
    falling = budget_curve(VALUES, COSTS, true_costs=np.array([[5.0, 1.0, 9.0], [1.0, 2.0, 0.0]]))
    assert falling.cost.tolist() == [6, 2, 3, 11]
    # 6 is reached at once; after the fall the last price that still meets the budget counts
    value, price = falling.at(np.array([5.9, 6.0, 7.0]))
    assert value.tolist() == pytest.approx([np.nan, 7 + 3 / 8, 7.5], nan_ok=True)
    assert price.tolist() == pytest.approx([np.nan, 0.5, 0.5], nan_ok=True)


def test_pairs_are_of_one_type_and_in_rows() -> None:
    for first, second, dtype in (
        (np.float32, np.float32, "float32"), (np.float32, np.float64, "float64"), (np.float64, np.float32, "float64"), (np.int64, np.int64, "float64"),
    ):  # fmt: skip
        values, costs = check_pair(np.asfortranarray(VALUES.astype(first)), COSTS.astype(second)[0])
        assert (values.dtype.name, costs.dtype.name, costs.shape) == (dtype, dtype, (1, 3))
        assert values.flags.c_contiguous
    for shape in ((2, 2), (3, 3), (2,), (2, 3, 1)):
        with pytest.raises(UserError) as refused:
            check_pair(VALUES, np.ones(shape))
        got = (1, 2) if shape == (2,) else shape
        assert str(refused.value) == f"costs: got shape {got}; expected (2, 3) or (3,)"


@pytest.mark.parametrize("threads", [1, 2, None])
@pytest.mark.parametrize("rows", [0, 1, 10, 11])
def test_chunks_cover_all_rows_in_order(threads: Any, rows: int) -> None:
    seen = set()

    def work(start: int, stop: int) -> list[int]:
        seen.add(threading.current_thread().name)
        return list(range(start, stop))

    if rows:
        assert list(itertools.chain(*run_chunks(work, rows, threads, 5))) == list(range(rows))
        assert (threading.main_thread().name in seen) == (
            threads == 1 or rows == 1 or curves.available_processors() == 1
        )


def test_numbers_that_are_not_finite_are_named() -> None:
    with pytest.raises(UserError) as refused:
        allocate(np.where(VALUES == 3, np.inf, VALUES), COSTS, 5.0)
    assert str(refused.value) == "values: row 2, joint action 1: got inf; expected a finite number"
    shared = COSTS[0].copy()
    shared[2] = np.nan
    with pytest.raises(UserError, match="costs: row 1, joint action 2: got nan; expected a finite number"):
        allocate(VALUES, shared, 5.0)


def _priced(counts: list[float]) -> PricedRows:
    costs = np.stack([COSTS, COSTS[:, ::-1]], axis=2)  # the second service pays the other way round
    return PricedRows(VALUES, costs, np.array(counts), 1)


def test_rows_priced_by_hand() -> None:
    rows = _priced([2.0, 1.0])
    worth, cost = rows.price(np.array([1.0, 0.0]))
    # row 0: 0, 2, 1; row 1: −1, 0, −18
    assert (worth, cost.tolist(), rows.choice.tolist()) == (4.0, [2 * 2 + 3, 2 * 2 + 3], [1, 1])
    assert rows.second.tolist() == [2.0, 1.0]  # twice 2 − 1, once 0 − (−1)
    worth, cost = rows.price(np.array([0.0, 1.0]))
    # row 0: −3, 2, 4; row 1: −9, 0, −10
    assert (worth, cost.tolist(), rows.choice.tolist()) == (8.0, [2 * 4 + 3, 2 * 1 + 3], [2, 1])
    worth, cost = rows.price(np.array([1.0, 0.5]), weight=0.0)
    # row 0: −3, −3, −4.5 (the first of equals); row 1: −5.5, −4.5, −9.5
    assert (worth, cost.tolist(), rows.choice.tolist()) == (-10.5, [2 + 3, 8 + 3], [0, 1])
    assert rows.second.tolist() == [0.0, 1.0]
    assert rows.passes == 3
    value, cost = rows.totals(np.array([2, 0]))
    assert (value, cost.tolist()) == (2 * 5 + 0, [2 * 4 + 1, 2 * 1 + 9])


def test_one_action_has_no_runner_up() -> None:
    rows = PricedRows(np.ones((2, 1)), np.ones((2, 1, 1)), ONES, 1)
    assert rows.price(np.zeros(1))[0] == 2
    assert np.isinf(rows.second).all()


def test_repair_mends_at_the_least_loss_and_fills_what_is_left() -> None:
    # All at the dear action: cost 13 for the first service. Row 1 from 9 to 3 gains 12 and mends all but one unit.
    rows = PricedRows(VALUES, COSTS[:, :, None], ONES, 1)
    rows.price(np.array([1.0]))
    found = repair.repair(rows, np.array([6.0]), np.array([1.0]), np.array([2, 2]))
    assert found is not None
    assert found.tolist() == [1, 1]
    found = repair.repair(rows, np.array([7.0]), np.array([0.1]), np.array([0, 0]))
    assert found is not None
    assert found.tolist() == [2, 1]  # within the budget: upgrades, the largest gain first
    assert repair.repair(rows, np.array([1.9]), np.array([1.0]), np.array([2, 1])) is None


def test_several_budgets_refuse_word_by_word() -> None:
    costs = np.stack([COSTS, COSTS], axis=2)
    for arguments, complaint in (
        ((VALUES, COSTS, np.ones(1)), "costs: got shape (2, 3); expected (2, 3, 'budgets')"),
        ((VALUES, costs[:, :, :0], np.ones(0)), "costs: got shape (2, 3, 0); expected (2, 3, 'budgets')"),
        ((VALUES, costs[:1], np.ones(2)), "costs: got shape (1, 3, 2); expected (2, 3, 'budgets')"),
        ((VALUES, costs, np.ones(3)), "budget: got shape (3,); expected (2,), one per cost"),
        ((VALUES, costs, np.array([5.0, 0.0])), "budget: got [5.0, 0.0]; expected positive numbers"),
        ((VALUES, costs, np.array([5.0, np.inf])), "budget: got [5.0, inf]; expected positive numbers"),
        ((VALUES, costs, np.array([5.0, 1.9])), "budget: got [5.0, 1.9]; the least possible costs are [2.0, 2.0]"),
        ((np.where(VALUES == 3, np.nan, VALUES), costs, np.array([5.0, 5.0])), "values: row 2, joint action 1: got nan; expected a finite number"),
        ((VALUES, np.where(costs == 9, np.inf, costs), np.array([5.0, 5.0])), "costs: row 2, joint action 2: got [inf inf]; expected a finite number"),
    ):  # fmt: skip
        with pytest.raises(UserError) as refused:
            allocate_several(*arguments)
        assert str(refused.value) == complaint


def test_several_budgets_that_just_fit() -> None:
    costs = np.stack([COSTS, 2 * COSTS], axis=2)
    found = allocate_several(VALUES, costs, np.array([2.0, 4.0]))
    assert (found.choice.tolist(), found.value, found.cost.tolist()) == ([0, 0], 1.0, [2.0, 4.0])
    free = allocate_several(VALUES, costs, np.array([7.0, 99.0]), np.ones(2))
    assert (free.choice.tolist(), free.value) == ([2, 1], 8.0)
    assert free.bound == pytest.approx(8.0)
    tight = allocate_several(VALUES, costs, np.array([99.0, 10.0]))  # the second binds: at most 5 of the first's units
    assert (tight.choice.tolist(), tight.value) == ([1, 1], 7.0)
    assert tight.bound == pytest.approx(7.0, rel=1e-5)
    assert tight.lambda_[0] == pytest.approx(0.0, abs=1e-9)
    assert 0.25 - 1e-6 <= tight.lambda_[1] <= 0.75 + 1e-6


@pytest.mark.parametrize("centre", [[0.0, 3.0], [1.5, 1.5], [4.0, 0.0]])
def test_the_bundle_minimises_a_function_with_a_kink(centre: list[float]) -> None:
    at, seen = np.array(centre), []

    def evaluate(point: np.ndarray) -> tuple[float, np.ndarray]:
        seen.append(point)
        weight = np.array([1.0, 2.0])
        return 5.0 + float(weight @ np.abs(point - at)), weight * np.where(point >= at, 1.0, -1.0)

    point, value = minimise(evaluate, np.ones(2), 1e-8, 200)
    assert value == pytest.approx(5.0, abs=1e-6)
    assert point == pytest.approx(at, abs=1e-6)
    assert all((one >= 0).all() for one in seen)
    assert len(seen) < 60
    few: list[Any] = []
    minimise(lambda one: (few.append(one), evaluate(one))[1], np.ones(2), 1e-12, 3)  # type: ignore[func-returns-value]
    assert len(few) == 3


@pytest.mark.parametrize("seed", range(6))
def test_whole_rows_with_costs_shared_by_all_rows(seed: int) -> None:
    generator = np.random.default_rng(seed)
    values, costs = generator.integers(0, 9, (5, 4)).astype(float), generator.integers(1, 9, 4).astype(float)
    counts = generator.integers(0, 3, 5).astype(float)
    counts[0] = 2.0
    budget = float(counts.sum() * (costs.min() + costs.max()) / 2)
    found = allocate(values, costs, budget, counts, integral=True)
    assert found.value == brute_force(values, np.tile(costs, (5, 1)), budget, counts)
    assert found.status == "optimal"
    assert found.value <= found.bound <= found.value + 1e-9


@pytest.mark.parametrize(
    "change, complaint",
    [
        ({"costs": np.ones((2, 2))}, "costs: got shape (2, 2); expected (2, 3)"),
        ({"costs": np.ones((3, 3))}, "costs: got shape (3, 3); expected (2, 3)"),
        ({"costs": np.ones((1, 2))}, "costs: got shape (1, 2); expected (1, 3)"),
        ({"counts": np.ones(3)}, "counts: got shape (3,); expected (2)"),
        ({"rows": np.array([0, 2])}, "rows: got 2 at position 1; expected 0 to 1"),
        ({"rows": np.array([0.5])}, "rows: got 0.5 at position 0; expected whole numbers"),
    ],
)
def test_hulls_refuse_what_compiled_loops_could_not_read(change: dict[str, Any], complaint: str) -> None:
    arguments: dict[str, Any] = {"values": VALUES, "costs": COSTS, "counts": ONES, **change}
    with pytest.raises(UserError) as refused:
        hull_edges(**arguments)
    assert str(refused.value) == complaint


def test_priced_rows_refuse_what_compiled_loops_could_not_read() -> None:
    for costs, counts, complaint in (
        (COSTS, ONES, "costs: got shape (2, 3); expected (2, 3, any)"),
        (COSTS[:, :, None], np.ones(3), "counts: got shape (3,); expected (2)"),
    ):
        with pytest.raises(UserError) as refused:
            PricedRows(VALUES, costs, counts, 1)
        assert str(refused.value) == complaint
    with pytest.raises(UserError, match=r"^prices: got shape \(1,\); expected \(2\)$"):
        _priced([1.0, 1.0]).price(np.ones(1))
