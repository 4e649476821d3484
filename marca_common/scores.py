"""Score matrices: a value (or cost) for every joint action of a list of states, in memory and on disk.

Two files hold the same thing. *Wide* Parquet: the state columns, then one fixed-size list column per score, float32,
in joint-index order. *Long* CSV or Parquet: ``state``, ``action``, one column per score, where the keys are the state
values and the sub-actions joined by ``_``; small files and other people's files are long.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from marca_common.column_values import words
from marca_common.errors import UserError
from marca_common.files import atomic_path
from marca_common.keyed_tables import KeyedTable
from marca_common.requests import RequestSpec
from marca_common.tables import Column, checked_frame

log = logging.getLogger(__name__)

_MOST = float(np.finfo(np.float32).max)


@dataclass
class ScoreMatrix:
    """Scores of S states × A joint actions."""

    states: pd.DataFrame  # the spec's state columns, one row per state
    scores: dict[str, np.ndarray]  # name → float32 (S, A)

    def keys(self) -> np.ndarray:
        """State keys: the state values joined by ``_``, (S,)."""
        return state_keys(self.states)


def state_keys(states: pd.DataFrame) -> np.ndarray:
    """One text key per row: its values joined by ``_``, object (S,)."""
    columns = [words(states, name) for name in states.columns]
    return np.array(["_".join(values) for values in zip(*columns)], dtype=object)


def state_index(states: pd.DataFrame) -> pd.MultiIndex:
    """States by their values as text, so that equal states meet whatever table they come from."""
    return pd.MultiIndex.from_arrays([words(states, name) for name in states.columns])


def action_keys(spec: RequestSpec) -> np.ndarray:
    """One text key per joint action, in joint-index order, object (A,)."""
    return np.array(["_".join(map(str, row)) for row in spec.joint_table()], dtype=object)


def write_scores(matrix: ScoreMatrix, path: str | Path) -> None:
    """Write a wide Parquet file, atomically; a score that is not finite is a UserError, and nothing is written."""
    columns = {name: pa.array(words(matrix.states, name)) for name in matrix.states.columns}
    for name, values in matrix.scores.items():
        with np.errstate(over="ignore"):  # what single precision cannot hold is refused in the next line
            single = np.ascontiguousarray(values, dtype=np.float32)
        _require_finite(single, Path(path), name)
        columns[name] = pa.FixedSizeListArray.from_arrays(pa.array(single.ravel()), values.shape[1])
    with atomic_path(path) as temporary:
        pq.write_table(pa.table(columns), temporary, compression="zstd", compression_level=1)


def read_scores(path: str | Path, spec: RequestSpec) -> ScoreMatrix:
    """Read a wide Parquet file; every score must be finite and every state distinct."""
    path = Path(path)
    try:
        table = pq.read_table(path)
    except (pa.ArrowException, OSError) as error:
        raise UserError(f"{path}: not a readable score file: {str(error).splitlines()[0]}") from None
    if not len(table):
        raise UserError(f"{path}: the file has no rows")
    missing = [name for name in spec.state if name not in table.column_names]
    if missing:
        raise UserError(f"{path}: column {missing[0]!r} is missing; found {', '.join(table.column_names)}")
    raw = table.select(list(spec.state)).to_pandas()
    states = checked_frame(raw, [Column(name, "category") for name in spec.state], str(path)).astype("str")
    scores = {}
    for name in table.column_names:
        if name in spec.state:
            continue
        column = table.column(name).combine_chunks()
        if not _holds_numbers(column.type, spec.n_joint) or column.null_count:
            found = f"has {column.null_count} empty rows" if column.null_count else f"is {column.type}"
            raise UserError(f"{path}: column {name!r} {found}; expected a list of {spec.n_joint} numbers per row")
        values = column.flatten().to_numpy(zero_copy_only=False).reshape(len(states), spec.n_joint)
        _require_finite(values, path, name)
        scores[name] = values.astype(np.float32, copy=False)
    if not scores:
        raise UserError(f"{path}: no score column beside the state columns")
    twice = state_index(states).duplicated()
    if twice.any():
        raise UserError(
            f"{path}: row {int(np.argmax(twice)) + 1}: the state {state_keys(states)[np.argmax(twice)]!r} stands twice"
        )
    return ScoreMatrix(states, scores)


def read_long_scores(
    path: str | Path,
    spec: RequestSpec,
    names: list[str],
    table: KeyedTable | None = None,
    missing: float | None = None,
) -> ScoreMatrix:
    """Read a long file, laid out as ``table`` says (null: columns ``state`` and ``action``).

    A doubled or unknown (state, action) pair is a UserError. So is a missing one, unless ``missing`` is its value.
    """
    path, table = Path(path), table or KeyedTable()
    values = [Column(name, low=-_MOST, high=_MOST) for name in names]
    frame = table.read(path, spec, ("state", "action"), values)
    joint = pd.Index(action_keys(spec)).get_indexer(frame["action"])
    _refuse(path, joint < 0, frame, "a known joint action")
    state_ids, states = table.distinct_states(frame["state"], spec, str(path))
    cell = state_ids * spec.n_joint + joint
    _refuse(path, pd.Series(cell).duplicated().to_numpy(), frame, "each pair once")
    size = len(states) * spec.n_joint
    if len(cell) != size and missing is None:
        gap = int(np.argmax(np.bincount(cell, minlength=size) == 0))
        pair = f"state {state_keys(states)[gap // spec.n_joint]!r}, action {action_keys(spec)[gap % spec.n_joint]!r}"
        raise UserError(
            f"{path}: the pair {pair} is missing, as are {size - len(cell) - 1} others; expected every joint action of every "
            "state (or, where it can be declared, what a missing one is worth: missing)"
        )
    if len(cell) != size:
        log.warning("%s: %d of %d pairs are missing and count as %g", path, size - len(cell), size, missing)
    scores = {}
    for name in names:
        matrix = np.full(size, np.nan if missing is None else missing, dtype=np.float32)
        matrix[cell] = frame[name].to_numpy()
        scores[name] = matrix.reshape(len(states), spec.n_joint)
    return ScoreMatrix(states, scores)


def _holds_numbers(kind: pa.DataType, size: int) -> bool:
    if not pa.types.is_fixed_size_list(kind) or kind.list_size != size:
        return False
    return bool(pa.types.is_floating(kind.value_type) or pa.types.is_integer(kind.value_type))


def _require_finite(values: np.ndarray, path: Path, name: str) -> None:
    if np.isfinite(values.sum(dtype=np.float64)):
        return  # one quick pass where all is well
    bad = ~np.isfinite(values)
    if bad.any():
        row, action = np.argwhere(bad)[0]
        raise UserError(
            f"{path}: row {row + 1}, column {name!r}, joint action {action}: got {values[row, action]}; expected a finite number"
        )


def _refuse(path: Path, bad: np.ndarray, frame: pd.DataFrame, expected: str) -> None:
    if bad.any():
        row = int(np.argmax(bad))
        pair = f"state {frame['state'].iloc[row]!r}, action {frame['action'].iloc[row]!r}"
        raise UserError(f"{path}: row {row + 1}: got {pair}; expected {expected}")
