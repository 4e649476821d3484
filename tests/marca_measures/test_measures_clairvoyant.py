"""The best that budgets allow, by hand and against the whole linear programme."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import linprog

from marca_common.errors import UserError
from marca_measures.clairvoyant import clairvoyant

# two states, two actions: cost 1 or 2; the dear one adds 3 in the first state and 1 in the second
VALUES, COSTS = np.array([[1.0, 4.0], [1.0, 2.0]]), np.array([[[1.0], [2.0]], [[1.0], [2.0]]])


@pytest.mark.parametrize(
    "budget, weights, value, price",
    [
        (1.25, None, 1.75, 3.0),  # half of the first state's requests climb
        (1.75, None, 2.75, 1.0),
        (9.0, None, 3.0, 0.0),
        (1.25, [1.0, 3.0], 1.75, None),  # all of the first state's quarter of the requests
        (1.5, [1.0, 3.0], 2.0, 1.0),
        (1.5, [10.0, 30.0], 2.0, 1.0),
    ],
)
def test_value_and_price_by_hand(budget: float, weights: list[float] | None, value: float, price: float | None) -> None:
    found = clairvoyant(VALUES, COSTS, np.array([budget]), None if weights is None else np.array(weights))
    assert found.value == pytest.approx(value, rel=1e-5)
    if price is not None:
        assert found.lambda_ == pytest.approx([price], rel=1e-3, abs=1e-3)


@pytest.mark.parametrize("offset", [-10.0, 10.0])
def test_what_every_action_is_worth_moves_the_value_only(offset: float) -> None:
    for budget, value, price in ((1.25, 1.75, 3.0), (9.0, 3.0, 0.0)):
        found = clairvoyant(VALUES + offset, COSTS, np.array([budget]), tolerance=1e-7)
        assert found.value == pytest.approx(value + offset, rel=1e-5)
        assert found.lambda_ == pytest.approx([price], rel=1e-3, abs=1e-3)


def test_cheap_services_may_have_high_prices() -> None:
    found = clairvoyant(VALUES, COSTS * 1e-3, np.array([1.25e-3]))
    assert found.value == pytest.approx(1.75, rel=1e-5)
    assert found.lambda_ == pytest.approx([3e3], rel=1e-3)
    assert clairvoyant(VALUES, COSTS * 2, np.array([4])).value == pytest.approx(3.0, rel=1e-5)


def test_budgets_below_the_cheapest_actions_are_refused() -> None:
    with pytest.raises(
        UserError, match=r"^budget: got \[0\.9\] core-ms per request; the cheapest actions need \[1\.\]$"
    ):
        clairvoyant(VALUES, COSTS, np.array([0.9]))
    with pytest.raises(
        UserError, match=r"^budget: got \[0\.1235\] core-ms per request; the cheapest actions need \[1\.2346\]$"
    ):
        clairvoyant(VALUES, COSTS * 1.23456789, np.array([0.123456789]))
    assert clairvoyant(VALUES, COSTS, np.array([1.0])).value == pytest.approx(1.0, rel=1e-4)  # just enough
    cheap_second = np.array([[[1.0], [2.0]], [[0.1], [2.0]]])
    weights = np.array([1.0, 9.0])
    assert clairvoyant(VALUES, cheap_second, np.array([0.2]), weights).value == pytest.approx(1.03, rel=1e-3)
    with pytest.raises(UserError, match=r"need \[0\.19\]"):
        clairvoyant(VALUES, cheap_second, np.array([0.18]), weights)


@pytest.mark.parametrize("services", [1, 2, 3])
@pytest.mark.parametrize("unit", [1e-3, 1.0, 1e3])
def test_it_is_the_optimum_of_the_linear_programme(services: int, unit: float) -> None:
    rng = np.random.default_rng(services)
    values, costs, weights = unit * rng.gamma(1, 1, (6, 5)), rng.gamma(1, 1, (6, 5, services)), rng.uniform(1, 3, 6)
    weights /= weights.sum()
    cheapest = (costs.min(axis=1) * weights[:, None]).sum(axis=0)
    budget = 0.4 * cheapest + 0.6 * (costs.mean(axis=1) * weights[:, None]).sum(axis=0)
    shares = np.kron(np.eye(6), np.ones(5))
    exact = linprog(
        -(values * weights[:, None]).ravel(),
        A_ub=(costs * weights[:, None, None]).reshape(30, services).T,
        b_ub=budget,
        A_eq=shares,
        b_eq=np.ones(6),
    )
    if exact.status == 2:
        pytest.skip("no allocation fits every service")
    found = clairvoyant(values, costs, budget, weights, tolerance=1e-7)
    assert found.value == pytest.approx(-exact.fun, rel=1e-5)
    assert found.lambda_ == pytest.approx(-exact.ineqlin.marginals, rel=0.05, abs=1e-3 * unit)


@pytest.mark.parametrize(
    "values, costs, budget, weights, complaint",
    [
        ((3,), (3, 4, 2), 2, 3, "values: got shape (3,); expected (any, any)"),
        ((3, 4), (3, 4, 1), 2, 3, "costs: got shape (3, 4, 1); expected (3, 4, 2)"),
        ((3, 4), (3, 4, 2), 2, 2, "weights: got shape (2,); expected (3)"),
    ],
)
def test_shapes_that_do_not_fit_are_named(
    values: tuple[int, ...], costs: tuple[int, ...], budget: int, weights: int, complaint: str
) -> None:
    with pytest.raises(UserError) as refused:
        clairvoyant(np.ones(values), np.ones(costs), np.ones(budget), np.ones(weights))
    assert str(refused.value) == complaint
