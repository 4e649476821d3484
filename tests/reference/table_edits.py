"""Changes to a table, for tests of what programs make of odd ones."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pandas as pd

Edit = Callable[[pd.DataFrame], pd.DataFrame]


def with_columns(**columns: Any) -> Edit:
    """These columns in place of the table's own: a value for all rows, or a function of the table."""
    return lambda frame: frame.assign(**columns)


def with_cell(column: str, value: float, row: int = 5) -> Edit:
    """One number in place of the table's own."""

    def edit(frame: pd.DataFrame) -> pd.DataFrame:
        changed = frame.astype({column: float})
        changed.loc[row, column] = value
        return changed

    return edit
