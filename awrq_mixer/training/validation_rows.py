"""Which validation rows to keep of a log that no memory holds: a bounded number, of states drawn by the hash of their name.

States come whole, because validation compares the rows of one state. One with very many rows keeps a part of them, drawn
by the hash of their number. What is kept of the parts of a log depends neither on their order nor on their number.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from marca_common.requests import RequestSpec

KEPT = 4  # rows kept for each that validation wants: states that come once, or earn nothing, tell nothing
LARGE = 0.05  # most rows of one state, as a share of what validation wants


@dataclass(frozen=True)
class ValidationRows:
    """Validation rows of some parts of a log; ``+`` joins those of several."""

    rows: pd.DataFrame  # index: number of the row in the log
    state: np.ndarray  # hash of the row's state, uint64 (V,)
    wanted: int

    @classmethod
    def of(cls, frame: pd.DataFrame, spec: RequestSpec, wanted: int, seed: int) -> ValidationRows:
        """Of the rows of one part, whose index is the number of the row in the log."""
        names = [name for name, kind in spec.state.items() if kind == "category"]
        key = f"{seed:016}"[-16:]
        number = pd.Series(frame.index, index=frame.index)
        named = frame[names] if names else number  # with numbers alone all states are compared with each other
        state = pd.util.hash_pandas_object(named, index=False, hash_key=key).to_numpy()
        columns = [*spec.state, *spec.sub_actions, spec.reward]
        plain = frame[columns].astype(dict.fromkeys(names, object))  # categories of parts differ
        return cls(plain, state, wanted)._smallest()

    def __add__(self, other: ValidationRows) -> ValidationRows:
        rows, state = pd.concat([self.rows, other.rows]), np.concatenate([self.state, other.state])
        return ValidationRows(rows, state, self.wanted)._smallest()

    def frame(self) -> pd.DataFrame:
        """The rows in the order of the log."""
        return self.rows.sort_index().reset_index(drop=True)

    def _smallest(self) -> ValidationRows:
        """The rows of the smallest hashes; of each state those whose own are smallest."""
        number = pd.util.hash_array(self.rows.index.to_numpy())
        order = np.lexsort((number, self.state))
        state = self.state[order]
        first = np.r_[True, state[1:] != state[:-1]]
        place = np.arange(len(state)) - np.maximum.accumulate(np.where(first, np.arange(len(state)), 0))
        taken = order[place < max(1, round(LARGE * self.wanted))][: KEPT * self.wanted]
        return ValidationRows(self.rows.iloc[taken], self.state[taken], self.wanted)
