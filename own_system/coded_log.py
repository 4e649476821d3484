"""The request log as codes: places of sub-actions among their declared values, groups of equal state."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pandas as pd

from own_system.declaration import OwnSystem

_BINS = 8  # groups of a numeric state column, by quantiles


@dataclass(frozen=True)
class Grouped:
    """A column as codes (M,) of labels."""

    codes: np.ndarray  # int64
    labels: list[str]

    @property
    def counts(self) -> np.ndarray:
        """Rows of each label."""
        return np.bincount(self.codes, minlength=len(self.labels))


@dataclass(frozen=True)
class CodedLog:
    """Sound rows of the request log, in the order of time."""

    file: str
    frame: pd.DataFrame  # index = row in the file
    actions: dict[str, Grouped]  # labels: the declared values
    states: dict[str, Grouped]  # numeric columns in quantile bins

    def __len__(self) -> int:
        return len(self.frame)

    def row(self, position: int) -> int:
        """Row in the file of a position in the arrays, from 0."""
        return int(self.frame.index[position])

    @cached_property
    def revenue(self) -> np.ndarray:
        """Money per request (M,)."""
        return np.asarray(self.frame["revenue"], np.float64)

    @cached_property
    def state(self) -> np.ndarray:
        """Number of each row's state (M,), all columns together, numeric ones as they are."""
        exact = [
            one.codes if name not in self.numeric else pd.factorize(self.frame[name])[0]
            for name, one in self.states.items()
        ]
        return joined(exact)

    @cached_property
    def numeric(self) -> set[str]:
        """State columns that hold numbers."""
        return {name for name in self.states if not isinstance(self.frame[name].dtype, pd.CategoricalDtype)}

    @cached_property
    def joint(self) -> np.ndarray:
        """Joint action index of each row (M,)."""
        shape = [len(one.labels) for one in self.actions.values()]
        return np.asarray(np.ravel_multi_index([one.codes for one in self.actions.values()], shape), np.int64)

    @property
    def n_joint(self) -> int:
        """Number of joint actions A."""
        return int(np.prod([len(one.labels) for one in self.actions.values()]))

    def sample(self, rows: int) -> CodedLog:
        """At most so many rows, evenly spread over the log."""
        if len(self) <= rows:
            return self
        at = np.linspace(0, len(self) - 1, rows).astype(np.int64)
        return CodedLog(self.file, self.frame.iloc[at], _taken(self.actions, at), _taken(self.states, at))


def code_log(own: OwnSystem, frame: pd.DataFrame) -> CodedLog:
    """Rows whose sub-actions are all declared, sorted by time."""
    codes = {name: declared_codes(frame[name], values) for name, values in own.sub_actions.items()}
    known = np.all([one >= 0 for one in codes.values()], axis=0)
    at = np.flatnonzero(known)
    if "timestamp" in frame:
        times = frame["timestamp"].to_numpy()[at]
        if (times[1:] < times[:-1]).any():
            at = at[np.argsort(times, kind="stable")]
    whole = len(at) == len(frame) and bool((at[1:] > at[:-1]).all())
    frame = frame if whole else frame.iloc[at]
    actions = {name: Grouped(one[at], list(own.sub_actions[name])) for name, one in codes.items()}
    return CodedLog(own.requests.file, frame, actions, {name: _grouped(frame[name]) for name in own.state})


def declared_codes(values: pd.Series, declared: list[str]) -> np.ndarray:
    """Place of each value among the declared ones, int64 (M,); -1 where it is none of them."""
    place = {word: i for i, word in enumerate(declared)}
    lookup = np.array([place.get(word, -1) for word in values.cat.categories] or [-1], np.int64)
    return np.asarray(lookup[values.cat.codes.to_numpy()])


def joined(parts: list[np.ndarray]) -> np.ndarray:
    """One number for each distinct row of several columns of codes, int64 (M,)."""
    key = parts[0].astype(np.int64)
    for one in parts[1:]:
        key = pd.factorize(key * (int(one.max(initial=0)) + 1) + one)[0].astype(np.int64)
    return key


def _grouped(values: pd.Series) -> Grouped:
    if isinstance(values.dtype, pd.CategoricalDtype):
        used = values.cat.remove_unused_categories()
        return Grouped(used.cat.codes.to_numpy().astype(np.int64), [str(one) for one in used.cat.categories])
    numbers = values.to_numpy(np.float64)
    edges = np.unique(np.quantile(numbers, np.linspace(0, 1, _BINS + 1)[1:-1])) if len(numbers) else np.zeros(0)
    codes = np.searchsorted(edges, numbers, side="left")
    low = ["-inf", *(f"{one:g}" for one in edges)]
    labels = [f"above {a} to {b}" for a, b in zip(low, [*low[1:], "inf"])]
    return Grouped(codes.astype(np.int64), labels)


def _taken(groups: dict[str, Grouped], at: np.ndarray) -> dict[str, Grouped]:
    return {name: Grouped(one.codes[at], one.labels) for name, one in groups.items()}
