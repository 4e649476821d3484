"""Whatever a file holds, the checker ends with findings and not in a traceback."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from own_system.check import find_all
from tests.own_system.foreign import ROLES, declared

VALUES = {"empty": "", "text": "x", "zero": 0, "huge": 1e300, "one": 1}


@pytest.fixture(scope="module")
def frames(example: Path) -> dict[str, pd.DataFrame]:
    """The example's tables, the log's first 1,500 rows."""
    read = {role: pd.read_csv(example / f"{role}.csv", dtype=object, keep_default_na=False) for role in ROLES}
    return read | {"requests": read["requests"].iloc[:1500]}


def kinds(frames: dict[str, pd.DataFrame], folder: Path) -> set[str]:
    for role, frame in frames.items():
        frame.to_csv(folder / f"{role}.csv", index=False)
    return {one.kind for one in find_all(declared(folder))[0]}


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize("rows", [0, 1, 2, 40])
def test_short_files(role: Any, rows: Any, frames: Any, tmp_path: Path) -> None:
    assert kinds(frames | {role: frames[role].iloc[:rows]}, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize("value", VALUES)
def test_columns_of_one_value(role: Any, value: Any, frames: Any, tmp_path: Path) -> None:
    for column in frames[role]:
        found = kinds(frames | {role: frames[role].assign(**{column: VALUES[value]})}, tmp_path)
        assert found or value != "empty", (
            column
        )  # no column may be empty, though a constant level of degradation is fine
