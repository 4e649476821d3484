"""What counts as constant, and when a few numbers drown all others."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from marca_common.errors import UserError
from marca_common.spread import is_flat, require_earned, require_usable


@pytest.mark.parametrize("values", [[], [3.0], [14.62, 14.62 + 2e-15], [1e300, 1e300], [0.0, -0.0], [1e-300] * 3])
def test_rounding_is_no_spread(values: list[float]) -> None:
    assert is_flat(np.array(values))


@pytest.mark.parametrize("values", [[1e-300, 2e-300], [1.0, 1.0 + 1e-9], [0.0, 1e-30], [1e9, 1e9 + 1]])
def test_spread_is_relative_to_the_values(values: list[float]) -> None:
    assert not is_flat(np.array(values))


@given(st.sampled_from([1e-20, 1e-12, 1.0, 1e12, 1e20]), st.integers(0, 999))
def test_ordinary_numbers_are_usable_on_any_scale(scale: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    require_usable(scale * np.where(rng.random(300) < 0.5, rng.lognormal(0, 1, 300), 0.0), "x")


@pytest.mark.parametrize(
    ("odd", "expected"),
    [(1e300, "below 3e"), (np.inf, "below 3e"), (1e20, "a million times"), (1e8, "a million times")],
)
def test_a_number_that_drowns_all_others_is_refused(odd: float, expected: str) -> None:
    values = np.append(np.linspace(1, 5, 200), odd)
    with pytest.raises(UserError, match=f"^x: got .*{expected}"):
        require_usable(values, "x")


def test_a_rare_but_comparable_number_is_not_refused() -> None:
    require_usable(np.append(np.linspace(1, 5, 200), 1e6), "x")
    require_usable(np.append(np.zeros(200), 1e20), "x")  # nothing else differs from the median: nothing is drowned
    require_usable(np.full(50, 14.62), "x")
    require_usable(np.zeros(0), "x")


def test_numbers_too_small_for_single_precision_are_refused() -> None:
    with pytest.raises(UserError, match="too small for single precision"):
        require_usable(np.array([1e-310, 2e-310]), "x")


@pytest.mark.parametrize("value", [0.0, -0.0])
def test_amounts_that_are_all_zero_teach_nothing(value: float) -> None:
    with pytest.raises(UserError, match=r"^x: is 0 in all 4 rows"):
        require_earned(np.full(4, value), "x")
