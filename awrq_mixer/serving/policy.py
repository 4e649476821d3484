"""Decisions: argmax Q(s, a) − λ · C(s, a) over all joint actions (Eq. 6), from a cache per state."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from awrq_mixer.serving.decide_kernels import decide_rows, look_up, positions, scan
from awrq_mixer.serving.policy_cache import PolicyCache, read_cache, write_cache
from marca_common.arrays import require_range, require_shape, whole_numbers
from marca_common.column_values import category, words
from marca_common.errors import UserError
from marca_common.memory import require_memory
from marca_common.plain_numbers import plain_numbers
from marca_common.prices import PRICE_UNIT
from marca_common.progress import progress
from marca_common.scores import state_index
from marca_measures.hull import candidates

ValuesFn = Callable[[pd.DataFrame], np.ndarray]
_FEW = 1000  # states; of more, pandas reads the columns faster than a loop does
_PLAIN = {bool, int, float, np.bool_, np.int64, np.float64}


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
        price_of_service: Sequence[int] | np.ndarray | None = None,
        price_unit: str = PRICE_UNIT,
    ) -> None:
        """``first`` (S + 1,), ``joint`` (V,), ``q`` (V,), ``c`` (V, D): see PolicyCache; a UserError where they don't fit.

        ``price_of_service`` (D,) says which entry of λ each service pays, from 0; None: each its own. ``price_unit`` is that
        of λ.
        """
        self.states = states.reset_index(drop=True)
        self.cache = PolicyCache.of(first, joint, q, c, len(self.states))
        self.first, self.joint, self.q, self.c = self.cache.first, self.cache.joint, self.cache.q, self.cache.c
        self.price_unit = price_unit
        self.price_of = _price_of(price_of_service, self.c.shape[1])
        self._prices = int(self.price_of.max()) + 1
        self._own_prices = bool((self.price_of == np.arange(len(self.price_of))).all())
        self._values, self._costs = values_fn, costs_fn
        self._index: dict[tuple[str, ...], int] | None = None

    @classmethod
    def build(
        cls,
        states: pd.DataFrame,
        values_fn: ValuesFn,
        costs_fn: ValuesFn,
        chunk: int = 256,
        quiet: bool = False,
        price_of_service: Sequence[int] | np.ndarray | None = None,
    ) -> HullPolicy:
        """Score ``states`` chunk by chunk with ``values_fn`` → (S, A) and ``costs_fn`` → (S, A, D), keep what can win.

        ``price_of_service`` as in HullPolicy. Raises UserError where a score is not finite, and for no state at all.
        """
        if not len(states):
            raise UserError("policy: got no state to prepare; expected at least one")
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
        return cls(states, first, joint, q, c, values_fn, costs_fn, price_of_service)

    def decide(self, states: np.ndarray | pd.DataFrame, lambda_: np.ndarray | Sequence[float] | float) -> np.ndarray:
        """Joint action per state, int64 (M,), under prices ``lambda_``, money per core-millisecond.

        ``states``: ids (M,) or a DataFrame with the state columns. ``lambda_``: one price per service, or as many as
        ``price_of_service`` names. A UserError for ids outside the cache and for prices that are none.
        """
        price = self._price(lambda_)
        if isinstance(states, pd.DataFrame):
            return self._decide_frame(states, price)
        ids = whole_numbers("state id", states)
        if len(ids) > len(self.first):  # every state once, then a look-up
            chosen, wrong = look_up(ids, self._best(np.arange(len(self.states)), price))
        else:
            place, wrong = decide_rows(ids, self.first, self.q, self.c, price)
            chosen = self.joint[place] if wrong < 0 else place
        if wrong >= 0:
            require_range("state id", ids, len(self.states))
        return np.asarray(chosen)

    def expected(self, ids: np.ndarray, joint: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Value (M,) and costs (M, D) of joint actions taken in states ``ids``; any joint action may be asked for.

        A UserError for ids outside the cache, joint actions that don't exist, and others that no scorer is at hand for.
        """
        ids, joint = whole_numbers("state id", ids), whole_numbers("joint action", joint)
        require_shape("joint action", joint, ids.shape)
        require_range("state id", ids, len(self.states))
        require_range("joint action", joint, 1 << 31)
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
        write_cache(path, self.cache, self.states, price_of_service=self.price_of, price_unit=self.price_unit)

    @classmethod
    def load(cls, path: str | Path, values_fn: ValuesFn | None = None, costs_fn: ValuesFn | None = None) -> HullPolicy:
        """Read a cache that ``save`` wrote; give the functions again if states outside it may be asked for.

        A file that is none, or whose arrays don't fit together, is a UserError.
        """
        states, content = read_cache(path)
        first, joint, q, c = (content[name] for name in ("first", "joint", "q", "c"))
        declared, unit = content.get("price_of_service"), str(content.get("price_unit", PRICE_UNIT))
        try:
            return cls(states, first, joint, q, c, values_fn, costs_fn, declared, unit)
        except UserError as error:
            raise UserError(f"{path}: not a sound policy cache: {error}") from None

    def lookup(self, states: pd.DataFrame) -> np.ndarray:
        """Ids of states by their columns, −1 where not built, int64 (M,)."""
        ids = self._known_at_once(states)
        return self._looked_up(states) if ids is None else ids

    def _known_at_once(self, states: pd.DataFrame) -> np.ndarray | None:
        """Ids of a few states that are all in the cache as they are written; None: take the long way.

        A pass of pandas over the columns costs a hundred times what the decision does.
        """
        if self._index is None or len(states) > _FEW or not states.columns.is_unique:
            return None
        try:
            places = [states.columns.get_loc(name) for name in self.states.columns]
            if len(states) == 1:
                cells = states.iat
                return np.array([self._index[tuple([_plain_word(cells[0, place]) for place in places])]])
            columns = [map(_plain_word, states.iloc[:, place].tolist()) for place in places]
            return np.array([self._index[state] for state in zip(*columns)], dtype=np.int64)
        except (KeyError, ValueError):  # a column or state that is not known, or a value that is no plain one
            return None

    def _looked_up(self, states: pd.DataFrame) -> np.ndarray:
        columns = list(self.states.columns)
        missing = [name for name in columns if name not in states]
        if missing:
            raise UserError(f"state column {missing[0]!r} is missing; found {', '.join(map(str, states.columns))}")
        twice = [name for name in columns if (states.columns == name).sum() > 1]
        if twice:
            raise UserError(f"state column {twice[0]!r} stands twice; expected it once")
        if self._index is None:
            self._index = self._unique_index()
        found = [self._index.get(state, -1) for state in zip(*(words(states, name) for name in columns))]
        return np.array(found, dtype=np.int64)

    def _unique_index(self) -> dict[tuple[str, ...], int]:
        """Row of every state by its values as text."""
        index: dict[tuple[str, ...], int] = {}
        for row, state in enumerate(zip(*(words(self.states, name) for name in self.states.columns))):
            if index.setdefault(state, row) != row:
                raise UserError(f"policy: state {state} stands in it twice; ask for it by its id")
        return index

    def _best(self, ids: np.ndarray, price: np.ndarray) -> np.ndarray:
        """As ``decide``, for ids that are known to be in the cache."""
        return np.asarray(self.joint[decide_rows(ids, self.first, self.q, self.c, price)[0]])

    def _decide_frame(self, states: pd.DataFrame, price: np.ndarray) -> np.ndarray:
        ids = self.lookup(states)
        place, unknown = decide_rows(ids, self.first, self.q, self.c, price)
        if unknown < 0:
            return np.asarray(self.joint[place])
        self._functions()
        new = ids < 0
        chosen = self._best(np.where(new, 0, ids), price)
        groups = pd.factorize(state_index(states.loc[new, list(self.states.columns)]))[0]
        once = np.unique(groups, return_index=True)[1]
        chosen[new] = scan(*self._scored(states.loc[new].iloc[once]), price)[groups]
        return chosen

    def _expected_uncached(self, ids: np.ndarray, joint: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        q, c = np.empty(len(ids)), np.empty((len(ids), self.c.shape[1]))
        distinct, back = np.unique(ids, return_inverse=True)
        for start in range(0, len(distinct), 256):
            block_q, block_c = self._scored(self.states.iloc[distinct[start : start + 256]])
            require_range("joint action", joint, block_q.shape[1])
            mine = (back >= start) & (back < start + 256)
            q[mine] = block_q[back[mine] - start, joint[mine]]
            c[mine] = block_c[back[mine] - start, joint[mine]]
        return q, c

    def _functions(self) -> tuple[ValuesFn, ValuesFn]:
        if self._values is None or self._costs is None:
            raise UserError("a state or action outside the policy's cache was asked for, and no scorer is at hand")
        return self._values, self._costs

    def _scored(self, states: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
        q, c = _scored(states, *self._functions())
        require_shape("costs", c, (*q.shape, self.c.shape[1]))
        return q, c

    def _price(self, lambda_: Any) -> np.ndarray:
        """Price per service (D,)."""
        plain = type(lambda_) is np.ndarray and lambda_.dtype == np.float64 and lambda_.ndim == 1
        price = lambda_ if plain else plain_numbers(lambda_)
        if price is None or price.shape != (self._prices,) or not all(0 <= one < np.inf for one in price.tolist()):
            raise UserError(f"lambda_: got {str(lambda_)[:80]}; expected {self._prices} finite prices of at least 0")
        return np.asarray(price if self._own_prices else price[self.price_of])


def _plain_word(value: Any) -> str:
    """The category text of text or of a number; a ValueError for all that needs a closer look."""
    if type(value) is str:
        return value
    if type(value) not in _PLAIN or value != value:
        raise ValueError
    return category(value)


def _price_of(declared: Sequence[int] | np.ndarray | None, services: int) -> np.ndarray:
    if declared is None:
        return np.arange(services)
    paid = whole_numbers("price_of_service", declared)
    if paid.shape != (services,) or sorted(set(paid.tolist())) != list(range(len(set(paid.tolist())))):
        raise UserError(
            f"price_of_service: got {paid.tolist()}; expected {services} prices, one per service, counted from 0 without a gap"
        )
    return paid


def _scored(states: pd.DataFrame, values_fn: ValuesFn, costs_fn: ValuesFn) -> tuple[np.ndarray, np.ndarray]:
    """Values (S, A) and costs (S, A, D) as float64, checked."""
    q = np.asarray(values_fn(states), dtype=np.float64)
    require_shape("values", q, (len(states), None))
    require_memory(len(q), q.shape[1], copies=6)
    c = np.asarray(costs_fn(states), dtype=np.float64)
    c = c[..., None] if c.ndim == 2 else c
    if c.ndim != 3 or c.shape[:2] != q.shape:
        raise UserError(f"costs have shape {c.shape}, values {q.shape}; expected the same states and joint actions")
    for name, array in (("value", q), ("cost", c)):
        if not np.isfinite(array).all():
            where = np.argwhere(~np.isfinite(array))[0].tolist()
            raise UserError(f"{name} of state row {where[0]}, joint action {where[1]} is not a finite number")
    return q, c
