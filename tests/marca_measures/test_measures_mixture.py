"""The best mixture of fixed joint actions, by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from marca_common.errors import UserError
from marca_measures.static_mixture import static_mixture


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
