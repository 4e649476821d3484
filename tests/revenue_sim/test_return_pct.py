"""Return% and its interval, by hand."""

from __future__ import annotations

import numpy as np
import pytest

from marca_common.seeding import numpy_generator
from revenue_sim.judging.return_pct import return_interval, return_pct


def test_return_is_a_share_of_sums_in_percent() -> None:
    found = return_pct(np.array([1.0, 0.0, 5.0]), np.array([2.0, 4.0, 6.0]))
    assert isinstance(found, float)
    assert found == pytest.approx(50.0)


def _interval(models: list[list[float]], truth: list[float], **changes: float) -> tuple[float, float]:
    options = {"draws": 400, "confidence": 0.9, **changes}
    arrays = [np.array(one) for one in models]
    low, high = return_interval(
        arrays,
        np.array(truth),
        numpy_generator(0, "interval"),
        draws=int(options["draws"]),
        confidence=options["confidence"],
    )
    return low, high


def test_the_same_share_everywhere_leaves_no_width() -> None:
    assert _interval([[1.0, 2.0, 3.0]] * 2, [2.0, 4.0, 6.0]) == pytest.approx((50.0, 50.0))


def test_states_and_seeds_are_drawn_with_replacement() -> None:
    # one seed, two states that earn 0 and 100 %: draws show 0, 50 or 100, the ends a quarter of the time each
    assert _interval([[0.0, 1.0]], [1.0, 1.0]) == pytest.approx((0.0, 100.0))
    assert _interval([[0.0, 1.0]], [1.0, 1.0], confidence=0.4) == pytest.approx((50.0, 50.0))
    # two seeds that earn 0 and 100 % in every state
    assert _interval([[0.0, 0.0], [1.0, 1.0]], [1.0, 1.0]) == pytest.approx((0.0, 100.0))
    assert _interval([[0.0, 0.0], [1.0, 1.0]], [1.0, 1.0], confidence=0.4) == pytest.approx((50.0, 50.0))


def test_numbers_of_both_ends() -> None:
    # ten seeds of 0 … 90 % in one state: the mean of ten draws, by a slow loop over the same stream
    models, generator = [[10.0 * k] for k in range(10)], numpy_generator(0, "interval")
    slow = []
    for _ in range(400):
        generator.integers(0, 1, 1)
        slow.append(np.mean(generator.integers(0, 10, 10) * 10.0))
    assert _interval(models, [100.0]) == pytest.approx(tuple(np.percentile(slow, [5, 95])))
    assert _interval(models, [100.0], confidence=0.5) == pytest.approx(tuple(np.percentile(slow, [25, 75])))


def test_draws_whose_truth_earns_nothing_say_nothing() -> None:
    low, high = _interval([[1.0, 0.0]], [1.0, 0.0])  # every draw without the first state is 0/0
    assert (low, high) == pytest.approx((100.0, 100.0))


def test_the_unit_of_money_does_not_matter() -> None:
    large, small = (_interval([[0.0, 3.0 * unit, 1.0 * unit]], [2.0 * unit] * 3) for unit in (1.0, 1e-6))
    assert large == pytest.approx(small)


def test_a_truth_that_earns_nothing_has_no_share() -> None:
    assert np.isnan(return_pct(np.array([1.0, 2.0]), np.zeros(2)))
    assert return_pct(np.array([1e-9, 2e-9]), np.array([3e-9, 3e-9])) == pytest.approx(50.0)
    assert np.isnan(_interval([[1.0, 2.0]], [0.0, 0.0])).all()
