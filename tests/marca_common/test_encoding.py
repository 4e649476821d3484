"""The state encoder on odd columns, and what of it a checkpoint may hold."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from marca_common.encoding import StateEncoder
from marca_common.errors import UserError

STATE = {"place": "category", "price": "numeric"}


def _frame(prices: Any, place: Any = "a") -> pd.DataFrame:
    return pd.DataFrame({"price": np.asarray(prices, np.float64)}).assign(place=place)


@pytest.mark.parametrize("noise", [0.0, 2e-15])
def test_a_column_that_is_constant_up_to_rounding_has_scale_one(noise: float) -> None:
    encoder = StateEncoder.fit(_frame(14.62 + noise * (np.arange(1000) % 2)), STATE)
    assert encoder.scales == {"price": 1.0}
    assert encoder.constant_columns() == [
        "state column 'price' is 14.62 in all training rows: nothing can be learned from it, all values count as equal"
    ]
    _, numbers = encoder.transform(_frame([14.62, 14.99, -1e9]))
    assert len(np.unique(numbers)) == 1
    assert encoder.clipped(_frame([14.62, 14.62 + noise])) == []


def test_a_small_spread_beside_a_large_mean_is_kept() -> None:
    encoder = StateEncoder.fit(_frame([1.7e9, 1.7e9 + 2]), STATE)  # seconds since 1970
    assert encoder.scales["price"] == 1.0
    assert encoder.transform(_frame([1.7e9, 1.7e9 + 2]))[1][:, 0].tolist() == [-1.0, 1.0]
    assert encoder.constant_columns() == []


@given(st.lists(st.floats(-1e6, 1e6), min_size=2, max_size=20))
def test_numbers_inside_the_trained_range_are_encoded_as_without_one(prices: list[float]) -> None:
    frame = _frame(prices)
    try:
        encoder = StateEncoder.fit(frame, STATE)
    except UserError:
        return  # drowned numbers
    if encoder.constant_columns():
        return
    plain = StateEncoder(encoder.vocabularies, encoder.means, encoder.scales)
    assert np.array_equal(encoder.transform(frame)[1], plain.transform(frame)[1])


def test_a_number_outside_the_trained_range_counts_as_its_nearer_end() -> None:
    encoder = StateEncoder.fit(_frame([1, 2, 3]), STATE)
    at_ends, beyond = encoder.transform(_frame([1, 3]))[1], encoder.transform(_frame([-1e300, 4]))[1]
    assert np.array_equal(at_ends, beyond)
    assert encoder.clipped(_frame([0, 1, 2, 3, 9])) == [
        "state column 'price': 2 of 5 rows lie outside the trained range [1, 3] and count as its nearer end"
    ]


def test_an_encoder_from_before_ranges_were_kept_clips_nothing() -> None:
    values = StateEncoder.fit(_frame([1, 2, 3]), STATE).to_dict()
    del values["ranges"]
    encoder = StateEncoder.from_dict(values, STATE)
    assert encoder.transform(_frame([30]))[1][0, 0] > 30
    assert encoder.clipped(_frame([30])) == []


@pytest.mark.parametrize("value", [np.nan, np.inf, None, "dear"])
def test_a_value_that_is_no_finite_number_is_refused_when_served(value: Any) -> None:
    encoder = StateEncoder.fit(_frame([1, 2, 3]), STATE)
    frame = pd.DataFrame({"price": pd.Series([1.0, value], dtype=object), "place": "a"})
    with pytest.raises(UserError, match=r"^row 2, state column 'price': got .* expected a finite number"):
        encoder.transform(frame)


def test_an_unknown_category_is_an_unseen_one_and_a_missing_one_is_refused() -> None:
    encoder = StateEncoder.fit(_frame([1, 2], ["a", "b"]), STATE)
    assert encoder.transform(_frame([1, 1], ["b", "z"]))[0][:, 0].tolist() == [2, 0]
    with pytest.raises(UserError, match="row 2, column 'place': got an empty value"):
        encoder.transform(_frame([1, 1, 1], ["b", None, "z"]))


def test_a_column_with_one_wild_value_is_refused_with_its_file() -> None:
    with pytest.raises(UserError, match=r"^log\.csv: state column 'price': got 1e\+300"):
        StateEncoder.fit(_frame([1, 2, 3, 1e300]), STATE, "log.csv")


_BROKEN: list[tuple[str, Any, str]] = [
    ("scales", {"price": 0.0}, "scale 0"),
    ("scales", {"price": float("nan")}, "scale nan"),
    ("scales", {"price": 4e-15}, "scale 4e-15"),
    ("scales", {}, "expected the same columns"),
    ("means", {"price": float("inf")}, "mean inf"),
    ("ranges", {"price": [3.0, 1.0]}, r"range \[3, 1\]"),
    ("ranges", {"price": [0.0, 1.0]}, "expected the mean inside"),
    ("ranges", {}, "expected those of"),
    ("vocabularies", {"place": ["a", "a"]}, "stands twice"),
    ("vocabularies", {"place": [1, 2]}, "list of categories"),
    ("vocabularies", {"elsewhere": ["a"]}, "the config declares"),
    ("colours", {}, "'colours' is not known"),
]


@pytest.mark.parametrize(("key", "value", "expected"), _BROKEN)
def test_a_broken_encoder_is_refused(key: str, value: Any, expected: str) -> None:
    values = StateEncoder.fit(_frame([14, 15, 16]), STATE).to_dict() | {key: value}
    with pytest.raises(UserError, match=expected):
        StateEncoder.from_dict(values, STATE)


@pytest.mark.parametrize("key", ["means", "scales", "vocabularies"])
def test_a_missing_part_of_an_encoder_is_named(key: str) -> None:
    values = StateEncoder.fit(_frame([14, 15, 16]), STATE).to_dict()
    del values[key]
    with pytest.raises(UserError, match=f"the part '{key}' is missing"):
        StateEncoder.from_dict(values, STATE)
