"""State columns to numbers: vocabularies with a row for the unseen, numeric columns standardised."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from marca_common.column_values import categories
from marca_common.errors import UserError


@dataclass
class StateEncoder:
    """Fitted on training rows only; travels inside checkpoints.

    Code 0 of every categorical column stands for categories not seen in training.
    """

    vocabularies: dict[str, list[str]]
    means: dict[str, float]
    scales: dict[str, float]

    @classmethod
    def fit(cls, frame: pd.DataFrame, state: Mapping[str, str]) -> StateEncoder:
        """Learn vocabularies and moments of the ``state`` columns (name → category | numeric)."""
        vocabularies, means, scales = {}, {}, {}
        for name, kind in state.items():
            if kind == "category":
                vocabularies[name] = sorted(categories(frame, name).unique())
            else:
                means[name] = float(frame[name].mean())
                scales[name] = float(frame[name].std(ddof=0)) or 1.0
        return cls(vocabularies, means, scales)

    @property
    def sizes(self) -> list[int]:
        """Rows an embedding needs per categorical column, the unseen row included."""
        return [len(words) + 1 for words in self.vocabularies.values()]

    def transform(self, frame: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
        """Codes int64 (M, categorical columns) and standardised numbers float32 (M, numeric columns)."""
        codes = np.zeros((len(frame), len(self.vocabularies)), dtype=np.int64)
        for j, (name, vocabulary) in enumerate(self.vocabularies.items()):
            column = categories(frame, name)
            lookup = {word: i + 1 for i, word in enumerate(vocabulary)}
            by_category = np.array([lookup.get(word, 0) for word in column.cat.categories] or [0], dtype=np.int64)
            codes[:, j] = by_category[column.cat.codes.to_numpy()]
        numbers = np.zeros((len(frame), len(self.means)), dtype=np.float32)
        for j, name in enumerate(self.means):
            _require(frame, name)
            numbers[:, j] = (frame[name].to_numpy(np.float64) - self.means[name]) / self.scales[name]
        return codes, numbers

    def to_dict(self) -> dict[str, Any]:
        """Plain values for a checkpoint."""
        return {"vocabularies": self.vocabularies, "means": self.means, "scales": self.scales}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> StateEncoder:
        """The encoder that ``to_dict`` described."""
        return cls(**values)


def _require(frame: pd.DataFrame, name: str) -> None:
    if name not in frame:
        raise UserError(f"state column {name!r} is missing; found {', '.join(map(str, frame.columns))}")
