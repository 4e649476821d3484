"""Decisions: argmax Q(s, a) − λ · C(s, a) over all joint actions (Eq. 6), from a cache per state."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from awrq_mixer.serving.decide_kernels import decide_rows, positions, scan
from marca_common.column_values import words
from marca_common.errors import UserError
from marca_common.files import atomic_path
from marca_common.memory import require_memory
from marca_common.progress import progress
from marca_common.scores import state_index
from marca_measures.hull import candidates

ValuesFn = Callable[[pd.DataFrame], np.ndarray]


class HullPolicy:
    """Per state only the joint actions that some λ ≥ 0 makes best; exact for every λ ≥ 0, no network call.

    States are known by their row number in ``states`` (ids) or by their columns (DataFrame); a state that was not
    built is scored on the fly.
    """

    def __init__(
        self,
        states: pd.DataFrame,
        first: np.ndarray,
        joint: np.ndarray,
        q: np.ndarray,
        c: np.ndarray,
        values_fn: ValuesFn | None = None,
        costs_fn: ValuesFn | None = None,
    ) -> None:
        self.states = states.reset_index(drop=True)
        self.first = first  # (S + 1,) where each state's candidates begin
        self.joint = joint  # (V,) joint action
        self.q = q  # (V,) money
        self.c = c  # (V, D) core-milliseconds
        self._values, self._costs = values_fn, costs_fn
        self._index: pd.MultiIndex | None = None

    @classmethod
    def build(
        cls, states: pd.DataFrame, values_fn: ValuesFn, costs_fn: ValuesFn, chunk: int = 256, quiet: bool = False
    ) -> HullPolicy:
        """Score ``states`` chunk by chunk with ``values_fn`` → (S, A) and ``costs_fn`` → (S, A, D), keep what can win.

        Raises UserError where a score is not finite.
        """
        states = states.reset_index(drop=True)
        parts: list[tuple[np.ndarray, ...]] = []
        starts = range(0, len(states), chunk)
        for start in progress(starts, what="policy", total=len(starts), unit="chunk", disable=quiet):
            block = states.iloc[start : start + chunk]
            q, c = _scored(block, values_fn, costs_fn)
            counts, joint = candidates(q, c)
            row = np.repeat(np.arange(len(block)), counts)
            parts.append((counts, joint, q[row, joint], c[row, joint]))
        counts, joint, q, c = (np.concatenate(part) for part in zip(*parts))
        first = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
        return cls(states, first, joint, q, np.ascontiguousarray(c), values_fn, costs_fn)

    def decide(self, states: np.ndarray | pd.DataFrame, lambda_: np.ndarray | float) -> np.ndarray:
        """Joint action per state, int64 (M,), under prices ``lambda_`` (services,), money per core-millisecond.

        ``states``: ids (M,) or a DataFrame with the state columns.
        """
        price = self._price(lambda_)
        if isinstance(states, pd.DataFrame):
            return self._decide_frame(states, price)
        ids = np.asarray(states, dtype=np.int64)
        if len(ids) > len(self.first):  # every state once, then a look-up
            return self._best(np.arange(len(self.states)), price)[ids]
        return self._best(ids, price)

    def expected(self, ids: np.ndarray, joint: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Value (M,) and costs (M, D) of joint actions taken in states ``ids``; any joint action may be asked for."""
        ids, joint = np.asarray(ids, dtype=np.int64), np.asarray(joint, dtype=np.int64)
        pairs, back = np.unique(ids * (1 << 32) + joint, return_inverse=True)
        rows, actions = pairs >> 32, pairs & ((1 << 32) - 1)
        place = positions(rows, actions, self.first, self.joint)
        q, c = self.q[place], self.c[place]
        unknown = np.flatnonzero(place < 0)
        if len(unknown):
            q[unknown], c[unknown] = self._expected_uncached(rows[unknown], actions[unknown])
        return q[back], c[back]

    def save(self, path: str | Path) -> None:
        """Write the cache (npz), atomically."""
        columns: dict[str, Any] = {f"state_{name}": words(self.states, name).astype(str) for name in self.states}
        with atomic_path(path) as temporary, temporary.open("wb") as file:
            np.savez(file, first=self.first, joint=self.joint, q=self.q, c=self.c, **columns)

    @classmethod
    def load(cls, path: str | Path, values_fn: ValuesFn | None = None, costs_fn: ValuesFn | None = None) -> HullPolicy:
        """Read a cache that ``save`` wrote; give the functions again if states outside it may be asked for."""
        try:
            with np.load(path, allow_pickle=False) as file:
                content = {name: file[name] for name in file.files}
            parts = [content[name] for name in ("first", "joint", "q", "c")]
        except (OSError, ValueError, KeyError) as error:
            raise UserError(f"{path}: not a readable policy cache: {error}") from None
        states = {name.removeprefix("state_"): content[name] for name in content if name.startswith("state_")}
        first, joint, q, c = parts
        return cls(pd.DataFrame(states), first, joint, q, c, values_fn, costs_fn)

    def lookup(self, states: pd.DataFrame) -> np.ndarray:
        """Ids of states by their columns, −1 where not built, int64 (M,)."""
        columns = list(self.states.columns)
        missing = [name for name in columns if name not in states]
        if missing:
            raise UserError(f"state column {missing[0]!r} is missing; found {', '.join(map(str, states.columns))}")
        if self._index is None:
            self._index = state_index(self.states)
        return np.asarray(self._index.get_indexer(state_index(states[columns])), dtype=np.int64)

    def _best(self, ids: np.ndarray, price: np.ndarray) -> np.ndarray:
        return np.asarray(self.joint[decide_rows(ids, self.first, self.q, self.c, price)])

    def _decide_frame(self, states: pd.DataFrame, price: np.ndarray) -> np.ndarray:
        ids = self.lookup(states)
        new = ids < 0
        chosen = self._best(np.where(new, 0, ids), price)
        if new.any():
            values_fn, costs_fn = self._functions()
            groups = pd.factorize(state_index(states.loc[new, list(self.states.columns)]))[0]
            once = np.unique(groups, return_index=True)[1]
            rows = states.loc[new].iloc[once]
            chosen[new] = scan(*_scored(rows, values_fn, costs_fn), price)[groups]
        return chosen

    def _expected_uncached(self, ids: np.ndarray, joint: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        values_fn, costs_fn = self._functions()
        q, c = np.empty(len(ids)), np.empty((len(ids), self.c.shape[1]))
        distinct, back = np.unique(ids, return_inverse=True)
        for start in range(0, len(distinct), 256):
            block_q, block_c = _scored(self.states.iloc[distinct[start : start + 256]], values_fn, costs_fn)
            mine = (back >= start) & (back < start + 256)
            q[mine] = block_q[back[mine] - start, joint[mine]]
            c[mine] = block_c[back[mine] - start, joint[mine]]
        return q, c

    def _functions(self) -> tuple[ValuesFn, ValuesFn]:
        if self._values is None or self._costs is None:
            raise UserError("a state or action outside the policy's cache was asked for, and no scorer is at hand")
        return self._values, self._costs

    def _price(self, lambda_: Any) -> np.ndarray:
        price = np.atleast_1d(np.asarray(lambda_, dtype=np.float64))
        if price.shape != (self.c.shape[1],) or not (np.isfinite(price) & (price >= 0)).all():
            raise UserError(f"lambda_: got {price.tolist()}; expected {self.c.shape[1]} finite prices of at least 0")
        return price


def _scored(states: pd.DataFrame, values_fn: ValuesFn, costs_fn: ValuesFn) -> tuple[np.ndarray, np.ndarray]:
    """Values (S, A) and costs (S, A, D) as float64, checked."""
    q = np.asarray(values_fn(states), dtype=np.float64)
    require_memory(len(q), q.shape[1], copies=6)
    c = np.asarray(costs_fn(states), dtype=np.float64)
    c = c[..., None] if c.ndim == 2 else c
    if c.shape[:2] != q.shape:
        raise UserError(f"costs have shape {c.shape}, values {q.shape}; expected the same states and joint actions")
    for name, array in (("value", q), ("cost", c)):
        if not np.isfinite(array).all():
            where = np.argwhere(~np.isfinite(array))[0].tolist()
            raise UserError(f"{name} of state row {where[0]}, joint action {where[1]} is not a finite number")
    return q, c
