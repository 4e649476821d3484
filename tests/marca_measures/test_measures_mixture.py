"""The best mixture of fixed joint actions, by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from marca_common.errors import UserError
from marca_measures.static_mixture import StaticMixture, static_mixture


def test_mixture_by_hand() -> None:
    # Hull of (1, 1), (2, 2), (4, 3); (3, 2.2) lies below it.
    values, costs = np.array([1.0, 2.0, 3.0, 2.2]), np.array([1.0, 2.0, 4.0, 3.0])
    mixed = static_mixture(values, costs, 3.0)
    assert (mixed.actions.tolist(), mixed.weights.tolist()) == ([1, 2], [0.5, 0.5])
    assert (mixed.value, mixed.cost.tolist(), mixed.lambda_.tolist()) == (2.5, [3.0], [0.5])
    free = static_mixture(values, costs, 9.0)
    assert (free.actions.tolist(), free.lambda_.tolist()) == ([2], [0.0])
    assert np.bincount(mixed.draw(np.linspace(0, 0.999, 1000)), minlength=4).tolist() == [0, 500, 500, 0]


def test_mixture_under_two_budgets() -> None:
    values, costs = np.array([0.0, 4.0, 4.0]), np.array([[0.0, 0.0], [4.0, 0.0], [0.0, 4.0]])
    mixed = static_mixture(values, costs, [1.0, 2.0])
    assert mixed.value == pytest.approx(3.0)
    assert mixed.cost == pytest.approx([1.0, 2.0])


@pytest.mark.parametrize("budget", [0.5, -1.0, float("nan"), [1.0, 2.0]])
def test_mixture_refuses(budget: Any) -> None:
    with pytest.raises(UserError, match="budget"):
        static_mixture(np.array([1.0, 2.0]), np.array([1.0, 2.0]), budget)


def test_draws_beyond_the_last_edge_are_the_last_action() -> None:
    mixed = StaticMixture(np.array([4, 7]), np.array([0.3, 0.7 - 1e-9]), 0.0, np.zeros(1), np.zeros(1))
    assert mixed.draw(np.array([0.0, 0.299, 0.3, 1 - 1e-12])).tolist() == [4, 4, 7, 7]
    assert mixed.mean(np.arange(10.0)) == pytest.approx(0.3 * 4 + 0.7 * 7)


@pytest.mark.parametrize("money", [1e-9, 1.0, 1e9])
@pytest.mark.parametrize("cpu", [1e-9, 1.0, 1e9])
def test_units_do_not_matter(money: float, cpu: float) -> None:
    values = np.array([1.0, 2.0, 3.0, 2.2])
    costs = np.array([[1.0, 5.0], [2.0, 5.0], [4.0, 5.0], [3.0, 5.0]]) * np.array([cpu, 1e4])
    mixed = static_mixture(values * money, costs, np.array([3.0 * cpu, 6e4]))
    assert mixed.actions.tolist() == [1, 2]
    assert mixed.weights == pytest.approx([0.5, 0.5])
    assert mixed.weights.sum() == pytest.approx(1, abs=1e-15)
    assert mixed.value == pytest.approx(2.5 * money)
    assert mixed.cost == pytest.approx([3.0 * cpu, 5e4])
    assert mixed.lambda_ == pytest.approx([0.5 * money / cpu, 0.0])


def test_whole_numbers_do() -> None:
    mixed = static_mixture(np.array([1, 2, 3]), np.array([1, 2, 4]), 3)
    assert (mixed.value, mixed.cost.tolist(), mixed.lambda_.tolist()) == (2.5, [3.0], [0.5])


def test_one_action_that_fits_is_the_mixture() -> None:
    mixed = static_mixture(np.array([0.0]), np.array([[0.0, 0.0]]), [1.0, 2.0])
    assert (mixed.actions.tolist(), mixed.weights.tolist(), mixed.value) == ([0], [1.0], 0.0)


@pytest.mark.parametrize(
    "values, costs, budget, complaint",
    [
        ([1.0, 2.0], [1.0, 2.0], 0.5, "budget: got [0.5]; no mixture fits, the least possible costs are 1"),
        (
            [1.0, 2.0],
            [[1.0, 3.0], [2.0, 1.0]],
            [0.5, 0.25],
            "budget: got [0.5, 0.25]; no mixture fits, the least possible costs are 1, 1",
        ),
        ([1.0, 2.0], [1.0, 2.0], 0.0, "budget: got [0.0]; expected positive numbers"),
        ([1.0, 2.0], [1.0, 2.0], float("inf"), "budget: got [inf]; expected positive numbers"),
        ([1.0, 2.0], [1.0, 2.0], [1.0, 2.0], "budget: got 2 numbers; expected 1"),
        ([[1.0, 2.0]], [[1.0, 2.0]], [1.0, 2.0], "values: got shape (1, 2); expected one mean value per joint action"),
        ([1.0, np.nan], [1.0, 2.0], 1.5, "values or costs by action: expected finite numbers"),
        ([1.0, 2.0], [1.0, np.inf], 1.5, "values or costs by action: expected finite numbers"),
    ],
)
def test_refusals_word_by_word(values: Any, costs: Any, budget: Any, complaint: str) -> None:
    with pytest.raises(UserError) as refused:
        static_mixture(np.array(values), np.array(costs), budget)
    assert str(refused.value) == complaint
