"""Score files, state counts and quotas, brought to the same states in the same order."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from marca_common.errors import UserError
from marca_common.keyed_tables import Key
from marca_common.requests import RequestSpec
from marca_common.scores import action_keys, read_long_scores, read_scores, state_index, state_keys
from marca_common.table_files import is_parquet
from marca_common.tables import Column
from revenue_sim.config import CountTable, ScoreSource


@dataclass(frozen=True)
class Demand:
    """Requests per state and uses per joint action, equal in sum."""

    states: np.ndarray  # int64 (S,)
    actions: np.ndarray  # int64 (A,)


def load_scores(path: str | Path, spec: RequestSpec, source: ScoreSource) -> tuple[pd.DataFrame, np.ndarray]:
    """States (S, state columns) and one score (S, A) float32 of a source's file, wide Parquet or long CSV."""
    column = source.column
    if is_parquet(path):
        matrix = read_scores(path, spec)
    else:
        matrix = read_long_scores(path, spec, [column or "value"], source, source.missing)
    names = list(matrix.scores)
    if column is None and len(names) > 1:
        raise UserError(f"{path}: several score columns {', '.join(names)}; name one with 'column'")
    if column is not None and column not in matrix.scores:
        raise UserError(f"{path}: score column {column!r} is missing; found {', '.join(names)}")
    return matrix.states, matrix.scores[column or names[0]]


def load_source(source: ScoreSource, spec: RequestSpec, states: pd.DataFrame) -> list[np.ndarray]:
    """One (S, A) array per file, its rows in the order of ``states``; a state that it lacks is a UserError."""
    return [_aligned(file, *load_scores(file, spec, source), states) for file in source.files]


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
    states_table: CountTable, quotas_table: CountTable, spec: RequestSpec, states: pd.DataFrame
) -> tuple[Demand, np.ndarray]:
    """Counts and quotas from their tables; also the rows of ``states`` that have a count."""
    by_state = _read_counts(states_table, "state", spec, state_keys(states))
    by_action = _read_counts(quotas_table, "action", spec, action_keys(spec))
    if by_state.sum() != by_action.sum():
        raise UserError(
            f"{quotas_table.file}: the quotas sum to {by_action.sum()}; expected {by_state.sum()}, the sum of "
            f"{states_table.file}"
        )
    return Demand(by_state, by_action), np.nonzero(by_state)[0]


def _read_counts(table: CountTable, key: Key, spec: RequestSpec, known: np.ndarray) -> np.ndarray:
    """Counts at the places of the ``known`` keys, int64; where each row counts as 1, a key may stand several times."""
    frame, number = _keyed_counts(table, spec, (key,))
    at = _places(table, frame, key, known, f"a {key} of the scores")
    if table.count is not None:
        _refuse(table, frame, key, frame[key].duplicated().to_numpy(), f"a {key} that stands once")
    return np.bincount(at, number, len(known)).astype(np.int64)


def read_allocation(
    table: CountTable, spec: RequestSpec, states: pd.DataFrame
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """State rows, joint actions and counts of an allocation table; each pair stands once in them."""
    frame, number = _keyed_counts(table, spec, ("state", "action"))
    rows = _places(table, frame, "state", state_keys(states), "a state of the scores")
    joint = _places(table, frame, "action", action_keys(spec), "a declared joint action")
    cell, first = np.unique(rows * spec.n_joint + joint, return_inverse=True)
    if table.count is not None:
        _refuse(table, frame, "action", pd.Series(first).duplicated().to_numpy(), "each pair once")
    return cell // spec.n_joint, cell % spec.n_joint, np.bincount(first, number).astype(np.int64)


def _keyed_counts(table: CountTable, spec: RequestSpec, keys: Sequence[Key]) -> tuple[pd.DataFrame, np.ndarray]:
    columns = [] if table.count is None else [Column(table.count, "int", 0)]
    frame = table.read(table.file, spec, keys, columns)
    return frame, np.ones(len(frame), np.int64) if table.count is None else frame[table.count].to_numpy()


def _places(table: CountTable, frame: pd.DataFrame, key: Key, known: np.ndarray, expected: str) -> np.ndarray:
    """Place of each key among the ``known`` ones, int64."""
    index = pd.Index(known)
    if not index.is_unique:
        twice = index[index.duplicated()][0]
        raise UserError(
            f"{table.file}: two states of the scores are both written {twice!r}; expected state values without '_'"
        )
    at = index.get_indexer(pd.Index(frame[key]))
    _refuse(table, frame, key, at < 0, expected)
    return np.asarray(at, dtype=np.int64)


def _refuse(table: CountTable, frame: pd.DataFrame, key: Key, bad: np.ndarray, expected: str) -> None:
    if bad.any():
        row = int(np.argmax(bad))
        raise UserError(
            f"{table.file}: row {row + 1}, {table.place_of(key)}: got {frame[key].iloc[row]!r}; expected {expected}"
        )
