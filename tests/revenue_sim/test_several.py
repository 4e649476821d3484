"""Several budgets: prices per service, bound, repair."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import scipy.sparse as sparse
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scipy.optimize import linprog

from marca_common.errors import UserError
from revenue_sim.allocation.level_bundle import minimise
from revenue_sim.allocation.one_budget import allocate
from revenue_sim.allocation.several_budgets import allocate_several


def highs(values: Any, costs: Any, budgets: Any, counts: Any) -> Any:
    rows, actions, kinds = costs.shape
    solved = linprog(
        -(values * counts[:, None]).astype(float).ravel(),
        A_ub=sparse.csr_matrix((costs * counts[:, None, None]).astype(float).reshape(rows * actions, kinds).T),
        b_ub=budgets,
        A_eq=sparse.kron(sparse.eye(rows), np.ones((1, actions))),
        b_eq=np.ones(rows),
        method="highs",
    )
    return (-solved.fun, -solved.ineqlin.marginals) if solved.status == 0 else None


def random_problem(seed: Any, rows: int = 300, actions: int = 40, kinds: int = 2, part: float = 0.4) -> Any:
    generator = np.random.default_rng(seed)
    costs = generator.gamma(2, 1, (rows, actions, kinds))
    values = (
        np.sqrt(costs.sum(axis=2)) * generator.gamma(1, 1, (rows, 1)) * generator.uniform(0.5, 1.5, (rows, actions))
    )
    counts = generator.integers(1, 4, rows).astype(float)
    least = counts @ costs.min(axis=1)
    return values, costs, least + part * (counts @ costs.mean(axis=1) - least), counts


@pytest.mark.parametrize(("kinds", "part"), [(1, 0.3), (2, 0.3), (2, 0.6), (3, 0.5)])
def test_bound_is_the_lp_optimum_and_the_choice_close_to_it(kinds: Any, part: Any) -> None:
    values, costs, budgets, counts = random_problem(kinds, kinds=kinds, part=part)
    solved = allocate_several(values, costs, budgets, counts)
    expected, prices = highs(values, costs, budgets, counts)
    assert solved.bound == pytest.approx(expected, rel=1e-6)
    assert solved.lambda_ == pytest.approx(prices, rel=1e-3, abs=1e-6)
    assert (solved.cost <= budgets).all()
    assert solved.gap < 5e-3 * solved.bound
    value = float(counts @ values[np.arange(len(values)), solved.choice])
    assert solved.value == pytest.approx(value)


def test_one_budget_is_the_exact_allocation() -> None:
    values, costs, budgets, counts = random_problem(7, kinds=1)
    single = allocate(values, costs[:, :, 0], float(budgets[0]), counts)
    assert allocate_several(values, costs, budgets, counts).bound == pytest.approx(single.bound, rel=1e-6)


def test_a_budget_that_does_not_bind_has_no_price() -> None:
    values, costs, budgets, counts = random_problem(8)
    solved = allocate_several(values, costs, np.array([budgets[0], 1e9]), counts)
    assert solved.lambda_[1] == pytest.approx(0.0, abs=1e-6)
    assert solved.bound == pytest.approx(allocate(values, costs[:, :, 0], budgets[0], counts).bound, rel=1e-6)


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 10_000), st.integers(1, 4), st.integers(1, 4), st.integers(1, 3), st.floats(0.05, 1.2))
@example(10_000, 2, 4, 2, 0.5)  # a new point whose value is the bound already
def test_never_over_a_budget_and_never_above_the_bound(
    seed: int, rows: Any, actions: Any, kinds: Any, part: Any
) -> None:
    generator = np.random.default_rng(seed)
    values = generator.integers(-2, 4, (rows, actions)).astype(float)  # ties, zero and negative values
    costs = generator.integers(0, 4, (rows, actions, kinds)).astype(float)
    counts = np.ones(rows)
    budgets = np.maximum(costs.min(axis=1).sum(axis=0) * (1 + part) + part, 0.5)
    relaxed = highs(values, costs, budgets, counts)
    try:
        solved = allocate_several(values, costs, budgets)
    except UserError:
        return  # nothing whole fits, or nothing at all: the next test says when it may
    assert relaxed is not None
    assert (solved.cost <= budgets).all()
    assert solved.value <= solved.bound + 1e-9
    assert solved.bound >= relaxed[0] - 1e-6


def test_budgets_that_cannot_be_met_together_are_refused_with_a_proof() -> None:
    values, costs = np.ones((3, 2)), np.tile(np.array([[[1.0, 5.0], [5.0, 1.0]]]), (3, 1, 1))
    with pytest.raises(UserError, match="each can be met, not all together"):
        allocate_several(values, costs, np.array([6.0, 6.0]))
    with pytest.raises(UserError, match="least possible costs are"):
        allocate_several(values, costs, np.array([2.0, 60.0]))


@pytest.mark.parametrize("budgets", [[1.0], [1.0, -1.0], [1.0, np.nan]])
def test_budgets_are_checked(budgets: Any) -> None:
    values, costs, _, _ = random_problem(1, rows=5)
    with pytest.raises(UserError, match="budget: got"):
        allocate_several(values, costs, np.array(budgets))


def test_the_bundle_finds_the_minimum_of_a_known_function() -> None:
    centre = np.array([2.0, 0.5])

    def evaluate(point: Any) -> Any:
        return 3.0 + float(((point - centre) ** 2).sum()), 2 * (point - centre)

    point, value = minimise(evaluate, np.array([1.0, 1.0]), 1e-9, 200)
    assert point == pytest.approx(centre, abs=1e-3)
    assert value == pytest.approx(3.0, abs=1e-6)
