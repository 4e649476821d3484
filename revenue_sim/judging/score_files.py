"""Score files, state counts and quotas, brought to the same states in the same order."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from marca_common.errors import UserError
from marca_common.requests import RequestSpec
from marca_common.scores import action_keys, read_long_scores, read_scores, state_index, state_keys
from marca_common.table_files import is_parquet
from marca_common.tables import Column, read_table
from revenue_sim.config import ScoreSource


@dataclass(frozen=True)
class Demand:
    """Requests per state and uses per joint action, equal in sum."""

    states: np.ndarray  # int64 (S,)
    actions: np.ndarray  # int64 (A,)


def load_scores(path: str | Path, spec: RequestSpec, column: str | None) -> tuple[pd.DataFrame, np.ndarray]:
    """States (S, state columns) and one score (S, A) float32 of a wide Parquet or long CSV file."""
    if is_parquet(path):
        matrix = read_scores(path, spec)
    else:
        matrix = read_long_scores(path, spec, [column or "value"])
    names = list(matrix.scores)
    if column is None and len(names) > 1:
        raise UserError(f"{path}: several score columns {', '.join(names)}; name one with 'column'")
    if column is not None and column not in matrix.scores:
        raise UserError(f"{path}: score column {column!r} is missing; found {', '.join(names)}")
    return matrix.states, matrix.scores[column or names[0]]


def load_source(source: ScoreSource, spec: RequestSpec, states: pd.DataFrame) -> list[np.ndarray]:
    """One (S, A) array per file, its rows in the order of ``states``; a state that it lacks is a UserError."""
    return [_aligned(file, *load_scores(file, spec, source.column), states) for file in source.files]


def mean_scores(source: ScoreSource, spec: RequestSpec, states: pd.DataFrame) -> np.ndarray:
    """Mean over a source's files, float32 (S, A), in the order of ``states``."""
    return np.asarray(np.mean(load_source(source, spec, states), axis=0, dtype=np.float32))


def total(costs: dict[str, np.ndarray]) -> np.ndarray:
    """All services together, float32 (S, A)."""
    return np.asarray(np.sum(list(costs.values()), axis=0, dtype=np.float32))


def load_costs(path: str, spec: RequestSpec, states: pd.DataFrame) -> dict[str, np.ndarray]:
    """Costs per service, each (S, A), in the order of ``states``."""
    matrix = read_scores(path, spec)
    costs = {name: _aligned(path, matrix.states, one, states) for name, one in matrix.scores.items()}
    for name, values in costs.items():
        if values.min() < 0:
            row, action = np.argwhere(values < 0)[0]
            raise UserError(
                f"{path}: column {name!r}, state {state_keys(states)[row]!r}, joint action {action}: "
                f"got {values[row, action]}; expected a cost of at least 0"
            )
    return costs


def _aligned(path: str | Path, have: pd.DataFrame, scores: np.ndarray, want: pd.DataFrame) -> np.ndarray:
    at = state_index(have).get_indexer(state_index(want))
    if (at < 0).any():
        raise UserError(f"{path}: no scores for the state {state_keys(want)[np.argmax(at < 0)]!r}")
    return scores if len(have) == len(want) and (at == np.arange(len(at))).all() else scores[at]


def demand_of_log(frame: pd.DataFrame, spec: RequestSpec, states: pd.DataFrame) -> tuple[Demand, np.ndarray]:
    """Counts of the log's requests in ``states`` and of their actions; and the row of ``states`` per request (−1: none)."""
    at = state_rows(frame, spec, states)
    inside = at >= 0
    if not inside.any():
        raise UserError("log: none of its requests is in a state of the scores")
    joint = spec.joint_index(frame[inside])
    demand = Demand(np.bincount(at[inside], minlength=len(states)), np.bincount(joint, minlength=spec.n_joint))
    return demand, at


def state_rows(frame: pd.DataFrame, spec: RequestSpec, states: pd.DataFrame) -> np.ndarray:
    """Row of ``states`` for each row of ``frame``, int64 (M,); −1 where the state is not among them."""
    distinct, ids, _ = spec.distinct_states(frame)
    return np.asarray(state_index(states).get_indexer(state_index(distinct))[ids])


def read_demand(
    states_path: str, quotas_path: str, spec: RequestSpec, states: pd.DataFrame
) -> tuple[Demand, np.ndarray]:
    """Counts and quotas from their tables; also the rows of ``states`` that have a count."""
    by_state = _read_counts(states_path, "state", state_keys(states))
    by_action = _read_counts(quotas_path, "action", action_keys(spec))
    if by_state.sum() != by_action.sum():
        raise UserError(
            f"{quotas_path}: the quotas sum to {by_action.sum()}; expected {by_state.sum()}, the sum of {states_path}"
        )
    return Demand(by_state, by_action), np.nonzero(by_state)[0]


def _read_counts(path: str, key: str, known: np.ndarray) -> np.ndarray:
    frame = read_table(path, [Column(key, "category"), Column("count", "int", 0)])
    at = _places(path, frame, key, known, f"a {key} of the scores")
    _refuse(path, frame, key, frame[key].duplicated().to_numpy(), f"a {key} that stands once")
    counts = np.zeros(len(known), dtype=np.int64)
    counts[at] = frame["count"].to_numpy()
    return counts


def read_allocation(path: str, spec: RequestSpec, states: pd.DataFrame) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """State rows, joint actions and counts of an allocation table ``state, action, count``."""
    frame = read_table(path, [Column("state", "category"), Column("action", "category"), Column("count", "int", 0)])
    rows = _places(path, frame, "state", state_keys(states), "a state of the scores")
    joint = _places(path, frame, "action", action_keys(spec), "a declared joint action")
    twice = pd.Series(rows * spec.n_joint + joint).duplicated().to_numpy()
    _refuse(path, frame, "action", twice, "each pair once")
    return rows, joint, frame["count"].to_numpy()


def _places(path: str, frame: pd.DataFrame, column: str, known: np.ndarray, expected: str) -> np.ndarray:
    """Place of each key of a column among the ``known`` ones, int64."""
    index = pd.Index(known)
    if not index.is_unique:
        twice = index[index.duplicated()][0]
        raise UserError(
            f"{path}: two states of the scores are both written {twice!r}; expected state values without '_'"
        )
    at = index.get_indexer(pd.Index(frame[column].astype(str)))
    _refuse(path, frame, column, at < 0, expected)
    return np.asarray(at, dtype=np.int64)


def _refuse(path: str, frame: pd.DataFrame, column: str, bad: np.ndarray, expected: str) -> None:
    if bad.any():
        row = int(np.argmax(bad))
        raise UserError(
            f"{path}: row {row + 1}, column {column!r}: got {frame[column].iloc[row]!r}; expected {expected}"
        )
