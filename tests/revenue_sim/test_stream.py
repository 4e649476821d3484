"""A budget spent on a stream: steps by hand, the hard budget as a property, and prices that follow the stream."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.allocation import make_problem
from benchmarks.online_lambda import ARRIVALS, LOAD, day, played, rivals
from marca_common.errors import UserError
from revenue_sim.allocation import stream
from revenue_sim.allocation.one_budget import allocate
from revenue_sim.allocation.row_hulls import row_hulls
from revenue_sim.allocation.stream import Constant, PrimalDual, Resolving, exact_price, serve_stream

# (cost, value) = (1, 1), (2, 4), (4, 5) and (1, 0), (3, 3): slopes 3, 0.5 and 1.5
HULLS = row_hulls(np.array([[1.0, 4.0, 5.0], [0.0, 3.0, -9.0]]), np.array([[1.0, 2.0, 4.0], [1.0, 3.0, 9.0]]))


def test_the_primal_dual_step_by_hand() -> None:
    price = PrimalDual(2.0, step=0.5)
    price.after(np.zeros(0, int), spent=12.0, planned=10.0, per_request=1.0)
    assert price.lambda_ == pytest.approx(2 * np.exp(0.1))
    price.after(np.zeros(0, int), spent=10.0, planned=10.0, per_request=1.0)
    assert price.lambda_ == pytest.approx(2 * np.exp(0.1))
    price.after(np.zeros(0, int), spent=5.0, planned=0.0, per_request=1.0)  # nothing is left: the largest step
    assert price.lambda_ == pytest.approx(2 * np.exp(1.1))
    price = PrimalDual(2.0, step=5.0)
    price.after(np.zeros(0, int), spent=0.0, planned=10.0, per_request=1.0)  # nothing was spent: the largest step down
    assert price.lambda_ == pytest.approx(2 * np.exp(-1.0))


@pytest.mark.parametrize(
    ("per_request", "price"), [(1.0, 3.0), (1.4, 3.0), (1.5, 1.5), (2.4, 1.5), (2.5, 0.5), (9.0, 0.5), (0.1, 3.0)]
)
def test_the_exact_price_by_hand(per_request: float, price: float) -> None:
    """Two requests cost 2 at least; the upgrades cost 1, 2 and 2 more."""
    assert exact_price(HULLS, np.array([0, 1]), per_request) == price
    assert exact_price(HULLS, np.array([1, 0, 1, 0]), per_request) == price


def test_the_exact_price_is_the_allocations() -> None:
    values, costs = make_problem(300, 20, seed=3)
    hulls, rows = row_hulls(values, costs), np.arange(50, 250)
    least = float(costs[rows].min(axis=1).mean(dtype=float))
    for per_request in (1.1 * least, 1.5 * least, 2.5 * least):
        known = allocate(values[rows], costs[rows], per_request * len(rows))
        assert exact_price(hulls, rows, per_request) == known.lambda_
    assert exact_price(row_hulls(np.ones((2, 1)), np.ones((2, 1))), np.array([0, 1]), 5.0) == 0


def serve(rows: Any, budget: float, price: float, expected: int | None = None) -> Any:
    """All requests but the first, the warm one, at one price."""
    rows = np.array(rows)
    ends, forecast = np.array([1, len(rows)]), np.array([1, expected or len(rows)])
    return serve_stream(HULLS, rows, ends, forecast, budget, lambda first: Constant(price))


def test_requests_are_served_by_hand() -> None:
    # The first may spend 20/4: the best of row 0. Then, at λ = 1: row 1's upgrade (1.5), row 0's first (3), not its second (0.5).
    result = serve([0, 1, 0, 1], 20.0, 1.0)
    assert (result.value, result.cost, result.lowered, result.refused) == (5 + 3 + 4 + 3, 4 + 3 + 2 + 3, 0, 0)
    assert result.prices.tolist() == [1.0]
    # 8 in all: the first may spend 2; then 3 for row 1 leaves 3; row 0 wants 2 and leaves the 1 that the last needs.
    assert (serve([0, 1, 0, 1], 8.0, 1.0).value, serve([0, 1, 0, 1], 8.0, 1.0).cost) == (4 + 3 + 4 + 0, 8.0)
    assert serve([0, 1, 0, 1], 8.0, 1.0).lowered == 1


def test_prices_are_told_of_the_pace_that_is_left_by_hand() -> None:
    told: list[Any] = []

    class Told(Constant):
        def after(self, seen: np.ndarray, spent: float, planned: float, per_request: float) -> None:
            told.append((seen.tolist(), spent, planned, per_request))

    # Three are forecast and six come. Of 11 the first may spend 11/3: it takes 2. All others take the cheapest, for 1.
    rows, ends, forecast = np.array([0, 1, 0, 1, 0, 1]), np.array([1, 3, 6]), np.array([1.0, 2.0, 3.0])
    assert serve_stream(HULLS, rows, ends, forecast, 11.0, lambda first: Told(100.0)).cost == 7
    # 9 are left for two more: 4.5 each, for the two that come. Then three have come for two that were forecast, so 4.5 in
    # all are expected: 7 are left for 1.5, for each of the three that come. In the end 4 are left, as if for one.
    assert told == [([0, 1, 0], 2.0, 9.0, pytest.approx(14 / 3)), (rows.tolist(), 3.0, pytest.approx(14.0), 4.0)]


def test_what_is_expected_is_kept_in_reserve_and_who_is_not_may_be_refused() -> None:
    # Three are expected and five come: 5.0 is spent on the first three and nothing is left for the others.
    result = serve([0, 0, 0, 0, 0], 4.0, 0.1, expected=3)
    assert (result.cost, result.refused) == (4.0, 2)
    # The other way round: six are expected, so at first nobody gets more than the cheapest.
    assert serve([0, 0, 0], 6.0, 0.1, expected=6).cost == 3.0


@settings(max_examples=60)
@given(
    st.lists(st.integers(0, 39), min_size=1, max_size=60), st.floats(0.01, 6), st.floats(0.3, 3), st.integers(1, 6),
    st.sampled_from([PrimalDual, Constant, partial(PrimalDual, step=50.0)]),
)  # fmt: skip
def test_the_budget_is_never_exceeded(rows: Any, per_request: float, wrong: float, parts: int, pricing: Any) -> None:
    values, costs = make_problem(40, 10, seed=5)
    hulls, served = row_hulls(values, costs), np.array(rows)
    ends = np.linspace(0, len(served), parts + 1).astype(int)[1:]
    result = serve_stream(hulls, served, ends, np.maximum(wrong * ends, 0.5), per_request * len(served), pricing)
    assert result.cost <= per_request * len(served)
    assert 0 <= result.refused <= len(served)
    assert result.value <= float(values[served].max(axis=1).sum(dtype=float)) * (1 + 1e-12)


@pytest.mark.parametrize("arrivals", ARRIVALS)
def test_no_method_beats_knowing_all_requests_nor_the_budget(arrivals: str) -> None:
    for row in played(arrivals, 1.1, 3000, seed=1, pricings=rivals):
        assert 0 <= row["loss_pct"] < 100
        assert row["over_budget"] == 0


def test_prices_that_follow_lose_less_than_a_constant_where_values_drift() -> None:
    losses = {row["method"]: row["loss_pct"] for row in played("drifting", 1.0, 20_000, seed=2, pricings=rivals)}
    assert losses["primal_dual"] < 0.5 * losses["constant"]
    assert losses["resolving"] < 0.5 * losses["constant"]
    steady = {row["method"]: row["loss_pct"] for row in played("stationary", 1.0, 20_000, seed=2, pricings=rivals)}
    assert steady["primal_dual"] < 1


def test_resolving_looks_at_the_window_only() -> None:
    price = Resolving(9.0, HULLS, window=2)
    price.after(np.array([0, 0, 0, 1, 1]), 0.0, 1.0, per_request=1.5)
    assert price.lambda_ == 1.5


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rows": np.array([0, 2])}, "rows: got 2 at position 1; expected 0 to 1"),
        ({"ends": np.array([2, 1])}, "ends: got"),
        ({"ends": np.array([1, 3])}, "ends: got .*expected 2 in the end"),
        ({"forecast": np.array([0.0, 2.0])}, "none where none are forecast"),
        ({"forecast": np.array([1.0])}, "forecast: got shape"),
        ({"forecast": np.array([np.nan, 2.0])}, "forecast: got"),
        ({"forecast": np.array([1.0, np.inf])}, "forecast: got"),
        ({"budget": 0.0}, "budget: got 0.0"),
    ],
)
def test_what_does_not_fit_is_refused(change: Any, message: str) -> None:
    right: dict[str, Any] = {
        "rows": np.array([0, 1]),
        "ends": np.array([1, 2]),
        "forecast": np.array([1.0, 2.0]),
        "budget": 4.0,
    }
    assert serve_stream(HULLS, **right, pricing=Constant).cost == 3  # 2 of an even share, then only the cheapest
    with pytest.raises(UserError, match=message):
        serve_stream(HULLS, **{**right, **change}, pricing=Constant)


def test_a_day_comes_in_the_order_that_it_says() -> None:
    values, costs, ends = day("sorted_rising", 500, seed=1)
    worth = values.max(axis=1) - values[np.arange(500), costs.argmin(axis=1)]
    assert (np.diff(worth) >= 0).all()
    assert (ends[-1], len(ends)) == (500, len(LOAD))
    assert sum(LOAD) == pytest.approx(1)
    falling = day("sorted_falling", 500, seed=1)[0]
    assert falling.tolist() == values[::-1].tolist()
    assert stream.WARM == 0.01
