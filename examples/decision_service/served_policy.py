"""A policy that is asked by state columns: every known state is decided once at each new λ, so that a request is a look-up.

Row S of every table, which −1 points at, too, is the state that the policy does not know.
"""

from __future__ import annotations

from pathlib import Path
from urllib.parse import urlencode

import numpy as np
import pandas as pd
import pyarrow as pa

from awrq_mixer.serving import HullPolicy
from examples.decision_service.config import DecisionServiceConfig
from marca_common.arrays import require_range
from marca_common.column_values import category
from marca_common.errors import UserError
from marca_common.files import file_hash


class ServedPolicy:
    """A policy cache with its states indexed for single and for batch requests."""

    def __init__(self, config: DecisionServiceConfig) -> None:
        """Read ``config.policy``; a UserError where it does not fit the declared columns, prices and data centres."""
        path, self.version = Path(config.policy), file_hash(config.policy)[:12]
        self.policy = HullPolicy.load(path)
        self.columns, self.prices = list(config.spec.state), int(self.policy.price_of.max()) + 1
        states, joint = self.policy.states, self.policy.joint
        if set(states) != set(self.columns):
            raise UserError(f"{path}: states of {', '.join(states)}; expected {', '.join(self.columns)}")
        if self.prices != len(config.prices):
            raise UserError(f"{path}: {self.prices} prices; expected those named: {', '.join(config.prices)}")
        require_range(f"{path}: joint action", joint, config.spec.n_joint)
        self.states = states[self.columns]
        self.counts = np.append(np.diff(self.policy.first), 1)  # (S + 1,) actions to draw from
        self.first = np.append(self.policy.first[:-1], len(joint))  # (S + 1,)
        self.candidates = np.append(joint, config.fallback_joint)
        self.words = [_factored(self.states[name]) for name in self.columns]
        self.group = self._groups(config, path)
        self.places = [{word: i for i, word in enumerate(words)} for words, _ in self.words]
        self.keys, self.rows = self._keys(path)
        self.by_query = {one: row for row, one in enumerate(self._queries())}

    def best(self, group: int, price: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Rows (n,) of a data centre's states, and their best joint actions under ``price`` (L,)."""
        rows = np.flatnonzero(self.group[:-1] == group)
        return rows, self.policy.decide(rows, price)

    def row(self, state: dict[str, str]) -> int:
        """Row of a state by its columns' text, −1 where unknown."""
        return self.by_query.get(query_of(state, self.columns), -1)

    def rows_of(self, table: pa.Table) -> np.ndarray:
        """Row of every state of a table, int64 (M,), −1 where unknown. A UserError where a column is missing."""
        key, known = np.zeros(len(table), np.int64), np.ones(len(table), bool)
        for name, places in zip(self.columns, self.places):
            code = _codes(table, name, places)
            known &= code >= 0
            key = key * len(places) + code
        found = np.searchsorted(self.keys, key).clip(max=len(self.keys) - 1)
        return np.where(known & (self.keys[found] == key), self.rows[found], -1)

    def _groups(self, config: DecisionServiceConfig, path: Path) -> np.ndarray:
        """Data centre of every row, int64 (S + 1,); the unknown state has none, −1."""
        if config.group_column is None:
            return np.append(np.zeros(len(self.states), np.int64), -1)
        words, codes = self.words[self.columns.index(config.group_column)]
        others = [word for word in words if word not in config.groups]
        if others:
            raise UserError(f"{path}: states of data centre {others[0]!r}; expected those of groups: {config.groups}")
        return np.append(np.array([config.groups.index(word) for word in words])[codes], -1)

    def _keys(self, path: Path) -> tuple[np.ndarray, np.ndarray]:
        """Every state as one number, sorted, and the rows in that order."""
        if np.prod([float(len(words)) for words, _ in self.words]) >= 2.0**62:
            raise UserError(f"{path}: more combinations of state values than a key of 62 bits can hold")
        key = np.zeros(len(self.states), np.int64)
        for words, codes in self.words:
            key = key * len(words) + codes
        order = np.argsort(key, kind="stable")
        twice = np.flatnonzero(np.diff(key[order]) == 0)
        if len(twice):
            state = self.states.iloc[order[twice[0]]].tolist()
            raise UserError(f"{path}: state {state} stands in it twice; expected it once")
        return key[order], order

    def _queries(self) -> list[bytes]:
        """The query string of every state, as ``query_of`` writes it."""
        parts = [
            np.array([urlencode({name: word}) for word in words], object)
            for name, (words, _) in zip(self.columns, self.words)
        ]
        columns = [part[codes] for part, (_, codes) in zip(parts, self.words)]
        return ["&".join(cells).encode() for cells in zip(*columns)]


def _factored(column: pd.Series) -> tuple[list[str], np.ndarray]:
    """Distinct values, and the place of each row's among them. By hash: a sort would hold the interpreter for longer."""
    codes, words = pd.factorize(column)
    return list(words), codes


def query_of(state: dict[str, str], columns: list[str]) -> bytes:
    """The one query string that stands for a state; a UserError where a column is missing."""
    missing = [name for name in columns if name not in state]
    if missing:
        raise UserError(f"state column {missing[0]!r} is missing; expected {', '.join(columns)}")
    return urlencode({name: category(state[name]) for name in columns}).encode()


def _codes(table: pa.Table, name: str, places: dict[str, int]) -> np.ndarray:
    """Code of every value of a column, −1 where the policy knows no such value or it is null."""
    if table.column_names.count(name) != 1:
        raise UserError(f"state column {name!r}: expected it once; found {', '.join(table.column_names)}")
    column = table[name]
    if pa.types.is_nested(column.type) or isinstance(column.type, pa.BaseExtensionType):
        raise UserError(f"state column {name!r}: expected text, numbers or booleans; got {column.type}")
    if not pa.types.is_dictionary(column.type):
        column = column.dictionary_encode()
    column = (
        pa.concat_arrays(column.unify_dictionaries().chunks) if column.num_chunks else pa.array([]).dictionary_encode()
    )
    try:
        values = [-1 if one is None else places.get(category(one), -1) for one in column.dictionary.to_pylist()]
    except ValueError:
        raise UserError(f"state column {name!r}: expected text; got bytes that are not UTF-8") from None
    code = np.array([*values, -1], np.int64)
    indices = column.indices.cast(pa.int64()).fill_null(len(values)).to_numpy(zero_copy_only=False)
    return np.asarray(code[indices])
