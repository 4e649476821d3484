"""Moments of parts add up to those of the whole: to the last bit in any order, and without cancellation."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from marca_common.spread import Moments

NUMBERS = st.floats(-1e9, 1e9, allow_subnormal=False)


@given(arrays(np.float64, st.integers(1, 40), elements=NUMBERS), st.integers(0, 40), st.integers(0, 40))
def test_parts_in_any_order_are_the_whole(values: np.ndarray, one: int, two: int) -> None:
    parts = [Moments.of(part) for part in np.split(values, sorted((min(one, len(values)), min(two, len(values)))))]
    sums = [a + b + c for a, b, c in itertools.permutations(parts)]
    assert all(found == sums[0] for found in sums)
    found, scale = sums[0], np.abs(values).max() + 1e-300
    assert found.count == len(values)
    assert found.mean == pytest.approx(values.mean(), abs=1e-14 * scale)
    assert found.spread == pytest.approx(values.std(), abs=1e-7 * scale)
    assert (found.low, found.high) == (values.min(), values.max())


def test_a_small_spread_around_a_large_mean_is_not_lost() -> None:
    values = 1e9 + np.random.default_rng(0).normal(size=10_000)
    found = Moments.of(values[:3000]) + Moments.of(values[3000:])
    assert found.spread == pytest.approx(values.std(), rel=1e-6)
    assert found.mean == pytest.approx(values.mean(), rel=1e-15)


def test_nothing_adds_nothing() -> None:
    some = Moments.of(np.array([1.0, 4.0]))
    assert some + Moments.of(np.zeros(0)) == some
    assert (some.mean, some.spread) == (2.5, 1.5)
