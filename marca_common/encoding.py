"""State columns to numbers: vocabularies with a row for the unseen, numeric columns clipped to the range of training and standardised."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from marca_common.checkpoint import require_keys
from marca_common.column_values import as_numbers, categories, shown
from marca_common.errors import UserError
from marca_common.spread import ROUNDING, is_flat, require_usable


@dataclass
class StateEncoder:
    """Fitted on training rows only; travels inside checkpoints.

    Code 0 of every categorical column stands for categories not seen in training. A number outside the range of the
    training rows is clipped to it, because a network says nothing of what lies beyond. A numeric column that is constant
    up to rounding has the scale 1 and a range of one value. An encoder from before ranges were kept clips nothing.
    """

    vocabularies: dict[str, list[str]]
    means: dict[str, float]
    scales: dict[str, float]
    ranges: dict[str, tuple[float, float]] = field(default_factory=dict)

    @classmethod
    def fit(cls, frame: pd.DataFrame, state: Mapping[str, str], place: str = "log") -> StateEncoder:
        """Learn vocabularies, moments and ranges of the ``state`` columns (name → category | numeric).

        Raises UserError, which names the ``place`` (a file), for numbers that drown each other (see ``require_usable``).
        """
        vocabularies, numbers = {}, {}
        for name, kind in state.items():
            if kind == "category":
                vocabularies[name] = sorted(categories(frame, name).unique())
                continue
            values = frame[name].to_numpy(np.float64)
            require_usable(values, f"{place}: state column {name!r}")
            spread = float(frame[name].std(ddof=0))
            numbers[name] = (float(frame[name].mean()), spread, float(values.min()), float(values.max()))
        return cls.of(vocabularies, numbers)

    @classmethod
    def of(
        cls, vocabularies: dict[str, list[str]], numbers: Mapping[str, tuple[float, float, float, float]]
    ) -> StateEncoder:
        """The encoder of sorted vocabularies, and of numeric columns by mean, standard deviation, least and largest value."""
        means, scales, ranges = {}, {}, {}
        for name, (mean, spread, low, high) in numbers.items():
            flat = is_flat(np.array([low, high])) or spread <= ROUNDING * abs(mean)
            means[name], scales[name] = mean, 1.0 if flat else spread
            ranges[name] = (mean, mean) if flat else (low, high)
        return cls(vocabularies, means, scales, ranges)

    @property
    def sizes(self) -> list[int]:
        """Rows an embedding needs per categorical column, the unseen row included."""
        return [len(words) + 1 for words in self.vocabularies.values()]

    def transform(self, frame: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
        """Codes int64 (M, categorical columns) and standardised numbers float32 (M, numeric columns).

        Raises UserError for a missing column and for a value that is no finite number.
        """
        codes = np.zeros((len(frame), len(self.vocabularies)), dtype=np.int64)
        for j, (name, vocabulary) in enumerate(self.vocabularies.items()):
            column = categories(frame, name)
            lookup = {word: i + 1 for i, word in enumerate(vocabulary)}
            by_category = np.array([lookup.get(word, 0) for word in column.cat.categories] or [0], dtype=np.int64)
            codes[:, j] = by_category[column.cat.codes.to_numpy()]
        numbers = np.zeros((len(frame), len(self.means)), dtype=np.float32)
        for j, name in enumerate(self.means):
            values = _numbers(frame, name)
            if name in self.ranges:
                values = np.clip(values, *self.ranges[name])
            numbers[:, j] = (values - self.means[name]) / self.scales[name]
        return codes, numbers

    def constant_columns(self) -> list[str]:
        """What to say of numeric columns that never vary in training, a sentence each."""
        return [
            f"state column {name!r} is {low + 0.0:g} in all training rows: nothing can be learned from it, all values count as equal"
            for name, (low, high) in self.ranges.items()
            if low == high
        ]

    def clipped(self, frame: pd.DataFrame) -> list[str]:
        """What to say of numbers outside the range of training, a sentence for each column that has some."""
        notes = []
        for name, (low, high) in self.ranges.items():
            values = _numbers(frame, name)
            below, above = low - ROUNDING * abs(low), high + ROUNDING * abs(high)
            count = int(((values < below) | (values > above)).sum())
            if count:
                notes.append(
                    f"state column {name!r}: {count} of {len(values)} rows lie outside the trained range "
                    f"[{low:g}, {high:g}] and count as its nearer end"
                )
        return notes

    def to_dict(self) -> dict[str, Any]:
        """Plain values for a checkpoint."""
        ranges = {name: list(pair) for name, pair in self.ranges.items()}
        return {"vocabularies": self.vocabularies, "means": self.means, "scales": self.scales, "ranges": ranges}

    @classmethod
    def from_dict(cls, values: Any, state: Mapping[str, str] | None = None) -> StateEncoder:
        """The encoder that ``to_dict`` described, of these ``state`` columns where they are given.

        Raises UserError where it is not whole, or holds a scale that nothing can be divided by.
        """
        require_keys(values, {"vocabularies", "means", "scales"}, {"ranges"}, "encoder")
        for part in values.values():
            require_keys(part, part, what="encoder")  # a dictionary
        ranges = {name: (float(low), float(high)) for name, (low, high) in values.get("ranges", {}).items()}
        if "ranges" in values and list(ranges) != list(values["means"]):
            raise UserError(f"encoder: ranges of {list(ranges)}; expected those of {list(values['means'])}")
        encoder = cls(values["vocabularies"], values["means"], values["scales"], ranges)
        encoder._check()
        if state is not None:
            encoder._check_columns(state)
        return encoder

    def _check(self) -> None:
        for name, words in self.vocabularies.items():
            if not isinstance(words, list) or not words or not all(isinstance(word, str) for word in words):
                raise UserError(f"encoder: column {name!r}: expected a list of categories")
            if len(set(words)) != len(words):
                raise UserError(f"encoder: column {name!r}: a category stands twice")
        if list(self.means) != list(self.scales):
            raise UserError(
                f"encoder: means of {list(self.means)}, scales of {list(self.scales)}; expected the same columns"
            )
        for name, mean in self.means.items():
            scale, (low, high) = self.scales[name], self.ranges.get(name, (-math.inf, math.inf))
            inside = low - ROUNDING * abs(low) <= mean <= high + ROUNDING * abs(high)
            if not (inside and math.isfinite(mean) and ROUNDING * abs(mean) < scale < math.inf and low <= high):
                shown = f"mean {mean:g}, scale {scale:g}, range [{low:g}, {high:g}]"
                raise UserError(
                    f"encoder: column {name!r}: {shown}; expected the mean inside and a scale above rounding: train again"
                )

    def _check_columns(self, state: Mapping[str, str]) -> None:
        expected = [[name for name, kind in state.items() if kind == one] for one in ("category", "numeric")]
        found = [list(self.vocabularies), list(self.means)]
        if found != expected:
            raise UserError(f"encoder: columns {found[0] + found[1]}; the config declares {expected[0] + expected[1]}")


def _numbers(frame: pd.DataFrame, name: str) -> np.ndarray:
    if name not in frame:
        raise UserError(f"state column {name!r} is missing; found {', '.join(map(str, frame.columns))}")
    values, _ = as_numbers(frame[name])
    if not np.isfinite(values).all():
        row = int(np.argmin(np.isfinite(values)))
        value = shown(frame[name], row)
        raise UserError(f"row {row + 1}, state column {name!r}: got {value}; expected a finite number")
    return values
