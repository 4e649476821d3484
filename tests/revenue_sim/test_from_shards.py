"""Allocation from hull shards: worked by hand, equal to the one in memory, and what does not belong together is named."""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.allocation import make_problem
from marca_common.errors import UserError
from marca_common.files import read_json
from marca_common.hull_shards import SHIFT, Hulls, ShardSums, SlopeHistogram, open_shard, write_shard
from marca_common.ranks import Ranks
from marca_measures.hull import chain
from revenue_sim.allocation import from_shards, shard_kernels
from revenue_sim.allocation.from_shards import ShardedAllocation, allocate_shards
from revenue_sim.allocation.one_budget import allocate
from revenue_sim.allocation.row_hulls import joined, row_hulls
from revenue_sim.config import ShardsConfig
from revenue_sim.shards import shards
from tests.reference.allocation_reference import highs_optimum

VALUES = np.array([[1.0, 4.0, 5.0], [0.0, 3.0, -9.0]])  # as in test_allocate: slopes 3, 1.5 and 0.5
COSTS = np.array([[1.0, 2.0, 4.0], [1.0, 3.0, 9.0]])


def write(
    folder: Path, values: np.ndarray, costs: np.ndarray, counts: np.ndarray | None = None, cuts: Any = (),
    vocabulary: Any = "a", made_by: str = "models",
) -> list[Path]:  # fmt: skip
    """Shards of the rows between ``cuts``."""
    counts = np.ones(len(values)) if counts is None else counts
    paths = []
    for number, rows in enumerate(np.split(np.arange(len(values)), cuts)):
        hulls, count = row_hulls(values[rows], costs[rows]), counts[rows]
        paths.append(folder / f"{number:03}.arrow")
        sums = ShardSums.of(hulls, count, {"sizes": vocabulary}, made_by, str(number))
        write_shard(paths[-1], pd.DataFrame({"s": rows}), count, hulls, sums)
    return paths


def solve(paths: list[Path], **budget: float) -> tuple[ShardedAllocation, np.ndarray]:
    choices = paths[0].parent / "choices"
    solved = allocate_shards(paths, choices, Ranks(), **budget)
    return solved, np.concatenate([np.load(choices / f"{path.stem}.npy") for path in paths])


@pytest.mark.parametrize(
    ("budget", "choice", "price", "bound"),
    [
        (2.0, [0, 0], 3.0, 1.0),  # exactly the cheapest
        (3.0, [1, 0], 1.5, 4.0),
        (4.0, [1, 0], 1.5, 5.5),  # half of row 1's upgrade
        (7.0, [2, 1], 0.0, 8.0),
        (99.0, [2, 1], 0.0, 8.0),  # does not bind
    ],
)
def test_by_hand(tmp_path: Path, budget: Any, choice: Any, price: Any, bound: Any) -> None:
    solved, chosen = solve(write(tmp_path, VALUES, COSTS, cuts=[1]), per_request=budget / 2)
    assert chosen.tolist() == choice
    assert (solved.lambda_, solved.bound, solved.requests, solved.states) == (price, bound, 2, 2)
    assert solved.split == (("001", 0, 0.5) if budget == 4 else None)


def test_half_the_way_is_a_budget() -> None:
    with tempfile.TemporaryDirectory() as folder:
        solved, _ = solve(write(Path(folder), VALUES, COSTS), share=0.5)
    assert solved.budget == 4.5  # from 2 to 7


def test_the_least_cost_per_request_is_enough_though_the_quotient_is_rounded(tmp_path: Path) -> None:
    costs = np.array([[2.8125], [1.078125], [0.28125], [0.5625], [0.90625]], np.float32)
    counts = np.array([2.0, 1.0, 3.0, 2.0, 3.0])
    least = float(counts @ costs[:, 0])
    assert least / 11 * 11 < least
    solved, _ = solve(write(tmp_path, np.zeros_like(costs), costs, counts), per_request=least / 11)
    assert solved.budget == solved.cost == least


@st.composite
def problems(draw: Any) -> Any:
    """As in test_allocate: ties, equal costs, negative values, rows of no request; costs whose sums are exact."""
    rows, actions = draw(st.integers(1, 7)), draw(st.integers(1, 5))
    size = {"min_size": rows * actions, "max_size": rows * actions}
    values = draw(st.lists(st.one_of(st.integers(-3, 4).map(float), st.floats(-4, 4, width=32)), **size))
    costs = draw(st.lists(st.integers(0, 4 * 64).map(lambda cost: cost / 64), **size))
    counts = np.array(draw(st.lists(st.integers(0, 3), min_size=rows, max_size=rows)), float)
    counts[draw(st.integers(0, rows - 1))] += 1
    q, c = (np.array(one, np.float32).reshape(rows, actions) for one in (values, costs))
    least, most = (float(counts @ bound) for bound in (c.min(axis=1), c.max(axis=1)))
    budget = least + draw(st.floats(0, 1.2)) * (most - least)
    cuts = sorted(set(draw(st.lists(st.integers(1, rows), max_size=3))) - {rows})
    return q, c, counts, max(budget, 1e-3), cuts


@settings(max_examples=60)
@given(problems())
def test_all_edges_in_question_is_the_allocation_in_memory(problem: Any) -> None:
    q, c, counts, budget, cuts = problem
    with tempfile.TemporaryDirectory() as folder:
        solved, chosen = solve(write(Path(folder), q, c, counts, cuts), per_request=budget / counts.sum())
    known = allocate(q, c, solved.budget, counts)
    assert (solved.lambda_, solved.cost <= solved.budget) == (known.lambda_, True)
    assert solved.bound == pytest.approx(known.bound, rel=1e-13, abs=1e-12)
    assert solved.value == pytest.approx(known.value, rel=1e-13, abs=1e-12)
    assert (chosen == known.choice)[counts > 0].all()


@settings(max_examples=40)
@given(problems(), st.integers(0, 3))
def test_few_edges_in_question_give_the_same_price_and_bound(problem: Any, edges: int) -> None:
    """The bracket is narrowed bit by bit, and what is outside it is still counted right."""
    q, c, counts, budget, cuts = problem
    with pytest.MonkeyPatch.context() as patch, tempfile.TemporaryDirectory() as folder:
        patch.setattr(from_shards, "EDGES", edges)
        solved, chosen = solve(write(Path(folder), q, c, counts, cuts), per_request=budget / counts.sum())
    known, rows = allocate(q, c, solved.budget, counts), np.arange(len(q))
    assert solved.bound == pytest.approx(known.bound, rel=1e-12, abs=1e-9)
    assert solved.lambda_ == known.lambda_
    assert solved.cost <= solved.budget
    assert solved.cost == pytest.approx(float(counts @ c[rows, chosen].astype(float)), rel=1e-13, abs=1e-12)
    assert solved.value == pytest.approx(float(counts @ q[rows, chosen].astype(float)), rel=1e-13, abs=1e-12)


def test_a_large_problem_is_read_once_and_its_bound_is_the_relaxations(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(from_shards, "EDGES", 200)
    values, costs = make_problem(400, 50, seed=1)
    paths = write(tmp_path, values, costs, cuts=[100, 150])
    solved, _ = solve(paths, share=0.3)
    assert solved.passes == 1
    assert 0 < solved.edges <= 200
    assert solved.bound == pytest.approx(highs_optimum(values, costs, solved.budget), rel=1e-9)
    monkeypatch.setattr(from_shards, "EDGES", 0)
    finer, _ = solve(paths, share=0.3)
    assert (finer.passes, finer.edges) == (5, 1)  # four times finer, until a bin is a single slope
    assert finer.lambda_ == solved.lambda_
    assert finer.bound == pytest.approx(solved.bound, rel=1e-14)


def test_equal_upgrades_beyond_the_limit_are_all_gathered(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(from_shards, "EDGES", 3)
    values, costs = np.tile(VALUES[:1], (40, 1)), np.tile(COSTS[:1], (40, 1))
    solved, chosen = solve(write(tmp_path, values, costs, cuts=[10]), per_request=1.5)
    assert (solved.edges, solved.lambda_, solved.cost, (chosen == 1).sum()) == (40, 3.0, 60.0, 20)


def test_row_hulls_are_those_of_the_definition() -> None:
    values, costs = make_problem(30, 40, seed=2)
    parts = joined([row_hulls(values[:11], costs[:11]), row_hulls(values[11:], costs[11:])])
    for row in range(30):
        kept = slice(parts.first[row], parts.first[row + 1])
        assert parts.action[kept].tolist() == chain(values[row].astype(float), costs[row].astype(float)).tolist()
        assert parts.q[kept].tolist() == values[row, parts.action[kept]].tolist()
        assert parts.c[kept].tolist() == costs[row, parts.action[kept]].tolist()
    shared = row_hulls(values, costs[0])
    assert shared.c.tolist() == row_hulls(values, np.tile(costs[0], (30, 1))).c.tolist()
    assert row_hulls(np.zeros((1, 70_000)), np.zeros((1, 70_000))).action.dtype == np.uint32
    with pytest.raises(UserError, match="values: row 1"):
        row_hulls(np.array([[np.nan, 1.0]]), np.ones((1, 2)))
    with pytest.raises(UserError, match="expected a finite number"):
        row_hulls(np.array([[1e300, 1.0]]), np.ones((1, 2)))


@pytest.mark.parametrize(
    ("other", "message"),
    [
        ({"vocabulary": "b"}, r'000\.arrow: vocabulary is {"sizes": "b"}; expected that of'),
        ({"made_by": "x"}, "made_by is x"),
    ],
)
def test_shards_that_do_not_belong_together_are_refused(tmp_path: Path, other: Any, message: str) -> None:
    paths = write(tmp_path / "a", VALUES, COSTS) + write(tmp_path / "b", VALUES, COSTS, **other)
    with pytest.raises(UserError, match=message):
        solve(paths, share=0.5)


def test_shards_of_other_columns_are_refused(tmp_path: Path) -> None:
    paths = write(tmp_path, VALUES, COSTS)
    shard = open_shard(paths[0])
    write_shard(tmp_path / "1.arrow", pd.DataFrame({"t": [0, 1]}), np.ones(2), shard.hulls, shard.sums)
    with pytest.raises(UserError, match=r"1\.arrow: columns are t dictionary.*expected those of 000\.arrow, s dict"):
        solve([*paths, tmp_path / "1.arrow"], share=0.5)


@pytest.mark.parametrize("first", [[0, 3, 99], [0, 3, 3], [0, -3, 5], [0, 6, 5], [-1, 3, 5]])
def test_offsets_that_leave_the_file_are_refused(tmp_path: Path, first: list[int]) -> None:
    """Compiled loops read where the offsets say."""
    (path,) = write(tmp_path, VALUES, COSTS)
    content, good = path.read_bytes(), np.array([0, 3, 5], np.int32).tobytes()
    assert content.count(good) == 1
    path.write_bytes(content.replace(good, np.array(first, np.int32).tobytes()))
    with pytest.raises(UserError, match=r"000\.arrow: (state [12]: its hull does not fit|not a readable hull shard)"):
        solve([path], share=0.5)


@pytest.mark.parametrize(
    ("budget", "off", "price", "bound"),
    [
        (3.0, 1e-10, 1.5, 4.0),  # as if the step at λ = 3 exceeded the budget, which it meets: one bin too high
        (3.0 - 5e-11, -1e-10, 3.0, 4.0),  # as if it fitted: one bin too low
    ],
)
def test_a_bracket_that_misses_by_rounding_is_moved(
    tmp_path: Path, monkeypatch: Any, budget: float, off: float, price: float, bound: float
) -> None:
    monkeypatch.setattr(from_shards, "EDGES", 0)
    solved, _ = solve([least_cost_off_by(off, tmp_path)], per_request=budget / 2)
    assert solved.lambda_ == price
    assert solved.bound == pytest.approx(bound, abs=1e-9)
    assert solved.cost <= solved.budget


def test_sums_that_are_not_those_of_the_hulls_are_named(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(from_shards, "EDGES", 0)
    with pytest.raises(UserError, match="the shards' sums do not fit their hulls; make the shards again"):
        solve([least_cost_off_by(1.0, tmp_path)], per_request=1.5)


def least_cost_off_by(off: float, folder: Path) -> Path:
    """The shard of two states, with another least cost in its metadata."""
    hulls = row_hulls(VALUES, COSTS)
    sums = ShardSums.of(hulls, np.ones(2), {}, "models", "rows")
    sums = replace(sums, least_cost=sums.least_cost + off)
    write_shard(folder / "0.arrow", pd.DataFrame({"s": [0, 1]}), np.ones(2), hulls, sums)
    return folder / "0.arrow"


def test_finer_bins_count_what_the_histogram_counts() -> None:
    hulls, count = row_hulls(VALUES, COSTS), np.array([0.0, 2.0])  # nobody asks in the first state
    known = SlopeHistogram.of(hulls, count)
    lowest = int(np.array([0.5]).view(np.int64)[0] >> SHIFT)
    edges, cost = np.zeros(1000, np.int64), np.zeros(1000)
    assert shard_kernels.slope_sums(hulls.first, hulls.c, hulls.q, count, SHIFT, lowest, edges, cost) == 0
    assert (np.flatnonzero(edges) + lowest).tolist() == known.bin.tolist()
    assert (edges[edges > 0].tolist(), cost[edges > 0].tolist()) == ([1], [4.0])


@pytest.mark.parametrize("costs", [[1e16, 1, 1, 1, 1], [1, 1e16, 1, 1, 1]])
def test_small_costs_beside_a_large_one_are_not_lost(costs: list[float]) -> None:
    """1e16 + 1 is 1e16 in float64; the sum's rounding error is kept beside it."""
    hulls = Hulls(
        np.arange(6, dtype=np.int32), np.zeros(5, np.uint16), np.array(costs, np.float32), np.zeros(5, np.float32)
    )
    chosen, sums = np.zeros(5, np.uint16), np.zeros(4)
    none = (chosen, np.zeros((2, 0), np.int32), np.zeros((3, 0)), sums)
    shard_kernels.split_edges(hulls.first, hulls.action, hulls.c, hulls.q, np.ones(5), 1.0, 0.5, *none)
    assert sums[:2].tolist() == [float(np.float32(1e16)), 4.0]


def test_more_edges_than_the_histogram_says_are_refused(tmp_path: Path, monkeypatch: Any) -> None:
    right = SlopeHistogram.of(row_hulls(VALUES, COSTS), np.ones(2))
    monkeypatch.setattr(SlopeHistogram, "of", lambda *_: SlopeHistogram(right.bin, 0 * right.edges, right.cost))
    paths = write(tmp_path, VALUES, COSTS)
    with pytest.raises(UserError, match=r"000\.arrow: state 1: its hull does not fit"):
        solve(paths, share=0.5)


def test_budgets_that_cannot_be_are_refused(tmp_path: Path) -> None:
    paths = write(tmp_path, VALUES, COSTS)
    with pytest.raises(UserError, match="budget: got 1; the least possible cost is 2"):
        solve(paths, per_request=0.5)
    with pytest.raises(UserError, match="expected a positive number"):
        solve(paths, per_request=-1.0)
    with pytest.raises(UserError, match="the shards hold no requests"):
        solve(write(tmp_path / "none", VALUES, COSTS, np.zeros(2)), share=0.5)


def test_the_program_writes_choices_and_summary(tmp_path: Path) -> None:
    values, costs = make_problem(50, 20, seed=3)
    write(tmp_path / "hulls", values, costs, cuts=[20])
    result = shards(ShardsConfig(hulls=str(tmp_path / "hulls")), tmp_path / "run")
    known = allocate(values, costs, result.allocation.budget)
    found = np.concatenate([np.load(path) for path in sorted((tmp_path / "run/choices").iterdir())])
    assert found.tolist() == known.choice.tolist()
    summary = read_json(tmp_path / "run/summary.json")
    assert summary["lambda"] == known.lambda_
    assert summary["value_per_request"] == pytest.approx(known.value / 50)
    assert summary["cost_per_request"] <= summary["budget_per_request"]
    least, most = costs.min(axis=1).sum(dtype=float), costs[np.arange(50), values.argmax(axis=1)].sum(dtype=float)
    assert summary["budget_per_request"] == pytest.approx((least + (most - least) / 3) / 50)
