"""The arrays behind a HullPolicy: checked once, so that compiled decisions may trust them, and kept in an npz file."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from marca_common.arrays import require_range, require_shape, whole_numbers
from marca_common.column_values import words
from marca_common.errors import UserError
from marca_common.files import atomic_path

_ROUNDING = 1e-9  # relative; slopes of a chain may rise by no more


@dataclass(frozen=True)
class PolicyCache:
    """Each state's joint actions that some λ ≥ 0 makes best, one state after another."""

    first: np.ndarray  # int64 (S + 1,) where each state's candidates begin
    joint: np.ndarray  # int64 (V,) joint action
    q: np.ndarray  # float64 (V,) money
    c: np.ndarray  # float64 (V, D) core-milliseconds

    @classmethod
    def of(cls, first: Any, joint: Any, q: Any, c: Any, states: int) -> PolicyCache:
        """Arrays of ``states`` states; a UserError for any that the compiled loops must not meet."""
        first, joint = whole_numbers("first", first), whole_numbers("joint", joint)
        q, c = _finite("q", q), _finite("c", c)
        size = len(joint)
        require_shape("q", q, (size,))
        require_shape("c", c, (size, None))
        require_shape("first", first, (states + 1,))
        if not c.shape[1]:
            raise UserError("c: got costs of no service; expected at least one")
        if states < 1 or first[0] != 0 or first[-1] != size or (np.diff(first) < 1).any():
            raise UserError(f"first: expected at least one state, and to rise from 0 to {size} with each of them")
        require_range("joint", joint, np.iinfo(np.int64).max)
        if c.shape[1] == 1:
            _require_chains(first, q, c[:, 0])
        return cls(*(np.ascontiguousarray(array) for array in (first, joint, q, c)))


def _finite(name: str, values: Any) -> np.ndarray:
    array = np.asarray(values)
    if array.dtype.kind not in "iuf" or not np.isfinite(array).all():
        raise UserError(f"{name}: got {array.dtype} values; expected finite numbers")
    return array.astype(np.float64, copy=False)


def _require_chains(first: np.ndarray, q: np.ndarray, c: np.ndarray) -> None:
    """One service: decisions stop where the score falls, so cost and value must rise and their slope must fall."""
    inside = np.ones(max(len(q) - 1, 0), bool)
    inside[first[1:-1] - 1] = False  # from one state's last candidate to the next one's first
    dc, dq = np.diff(c), np.diff(q)
    bad = inside & ~((dc > 0) & (dq > 0))
    if len(q) > 2:
        before, after = dq[:-1] * dc[1:], dq[1:] * dc[:-1]
        bad[1:] |= inside[1:] & inside[:-1] & (after > before + _ROUNDING * np.abs(before))
    if bad.any():
        state = int(np.searchsorted(first, np.argmax(bad), side="right")) - 1
        raise UserError(f"q, c: candidates of state {state}: expected rising cost and value with a falling slope")


def write_cache(path: str | Path, cache: PolicyCache, states: pd.DataFrame, **declared: Any) -> None:
    """Write the npz file, atomically; ``declared`` are further arrays or values."""
    columns: dict[str, Any] = {f"state_{name}": words(states, name).astype(str) for name in states}
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        np.savez(file, **vars(cache), **columns, **declared)


def read_cache(path: str | Path) -> tuple[pd.DataFrame, dict[str, np.ndarray]]:
    """States and all other arrays of an npz file; a UserError where it is none, or lacks one."""
    try:
        with np.load(path, allow_pickle=False) as file:
            content = {name: file[name] for name in file.files}
        missing = [name for name in ("first", "joint", "q", "c") if name not in content]
        if missing:
            raise KeyError(f"{missing[0]} is missing")
        states = {name.removeprefix("state_"): content.pop(name) for name in list(content) if name.startswith("state_")}
        return pd.DataFrame(states), content
    except Exception as error:  # a damaged archive fails in a dozen ways
        raise UserError(f"{path}: not a readable policy cache: {error}") from None
