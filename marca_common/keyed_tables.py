"""Tables whose rows are about a state, a joint action or a pair of them, whichever way they write the key.

A key is its values joined by ``_``. It stands in a column of its own, in a column for each value, or state and action
share one column.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd
from pydantic import Field

from marca_common.column_values import category
from marca_common.errors import UserError
from marca_common.requests import RequestSpec
from marca_common.table_format import TableFormat
from marca_common.tables import Column, read_table

Key = Literal["state", "action"]


class KeyedTable(TableFormat):
    """Where the keys of a table stand."""

    state: list[str] = Field(
        default=["state"], min_length=1, description="columns that, joined by '_', are the state's key"
    )
    action: list[str] = Field(
        default=["action"], min_length=1, description="columns that, joined by '_', are the joint action's key"
    )
    pair: str | None = Field(
        default=None, description="column that holds both keys, state first, joined by '_'; null: they stand apart"
    )
    words: list[str] = Field(
        default=[],
        description="state values that hold a '_' themselves, such as IDC_0, so that keys can be taken apart",
    )

    def read(self, path: str | Path, spec: RequestSpec, keys: Sequence[Key], values: Sequence[Column]) -> pd.DataFrame:
        """The ``values`` columns of a table, and its ``keys`` as columns of text in the project's own form.

        A UserError as in ``read_table``, and where a pair has fewer parts than the spec has columns.
        """
        joined = self.pair if len(keys) == 2 else None
        named = [joined] if joined else [name for key in keys for name in self._columns(key)]
        frame = read_table(path, [*(Column(name, "category") for name in named), *values], **self.reading)
        if joined:
            texts = _pairs_apart(frame[joined], spec, path)
        else:
            texts = [_joined(frame[self._columns(key)]) for key in keys]
        return frame.drop(columns=named).assign(**dict(zip(keys, texts)))

    def distinct_states(self, keys: pd.Series, spec: RequestSpec, place: str) -> tuple[np.ndarray, pd.DataFrame]:
        """The state id of every row's key (M,), and the states' values (S, state columns) in order of first appearance.

        A key that can't be taken apart, or in several ways, is a UserError.
        """
        ids, unique = pd.factorize(keys)
        rows = []
        for number, key in enumerate(unique):
            readings = _readings(key.split("_"), len(spec.state), set(self.words)) if len(spec.state) > 1 else [[key]]
            if len(readings) != 1:
                why = (
                    "it can be read in several ways" if readings else f"expected {len(spec.state)} values joined by '_'"
                )
                raise UserError(
                    f"{place}: row {np.argmax(ids == number) + 1}, {self.place_of('state')}: got the state {key!r}; "
                    f"{why} (words declares values that hold a '_' themselves)"
                )
            rows.append([category(value) for value in readings[0]])
        return ids, pd.DataFrame(rows, columns=list(spec.state), dtype="str")

    def place_of(self, key: Key) -> str:
        """Where a key stands, for messages: ``column 'key'``."""
        names = [self.pair] if self.pair else self._columns(key)
        return f"column{'s' if len(names) > 1 else ''} {', '.join(map(repr, names))}"

    def _columns(self, key: Key) -> list[str]:
        return self.state if key == "state" else self.action


def _joined(columns: pd.DataFrame) -> np.ndarray:
    parts = [columns[name].astype(str) for name in columns]
    return np.array(["_".join(values) for values in zip(*parts)], dtype=object)


def _pairs_apart(pairs: pd.Series, spec: RequestSpec, path: str | Path) -> list[np.ndarray]:
    """State and action keys, object (M,) each, of pairs whose last parts are the sub-actions."""
    count = len(spec.sub_actions)
    parts = [pair.rsplit("_", count) for pair in pairs.astype(str)]
    short = next((row for row, part in enumerate(parts) if len(part) <= count), None)
    if short is not None:
        raise UserError(
            f"{path}: row {short + 1}, column {pairs.name!r}: got {pairs.iloc[short]!r}; expected "
            f"{len(spec.state) + count} values joined by '_': {', '.join([*spec.state, *spec.sub_actions])}"
        )
    states, actions = [part[0] for part in parts], ["_".join(part[1:]) for part in parts]
    return [np.array(states, dtype=object), np.array(actions, dtype=object)]


def _readings(parts: list[str], count: int, words: Collection[str]) -> list[list[str]]:
    """All ways to read a key's parts as ``count`` values, none empty, where ``words`` hold a ``_`` themselves."""
    if count == 0:
        return [] if parts else [[]]
    found = []
    for size in range(1, len(parts) - count + 2):
        value = "_".join(parts[:size])
        if value and (size == 1 or value in words):
            found += [[value, *rest] for rest in _readings(parts[size:], count - 1, words)]
    return found
