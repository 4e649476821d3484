"""What revenue may differ by between actions: every sub-action, every pair of them, and a learner's departures from its mean.

A learner's log values are level(s) + mean shape(a) + departure(s, a). The departure is taken apart by sub-action: what one of
them does on average over the others, and the rest. Each part is a direction x(s, a) whose slope revenue tells. Of actions
themselves nothing is taken from the learner: sub-actions and pairs of them have effects of their own. Everything is less its mean
under the logged mix of the state (Robinson 1988), so that who was asked is not taken for what was done.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

LEAST = 1e-3  # a value at or below 0 has no logarithm: the least one, as a share of the mean value
CONTROLS = 5  # constant, level, its square, what was foreseen of departure and of mean shape
FREE, DRAWN = -1, 0  # effects of sub-actions; of pairs, which are draws of one variance


@dataclass(frozen=True)
class ActionEffects:
    """A column per choice of a sub-action but its first, and per pair of choices: of joint actions (A, K), and their block (K,)."""

    sizes: tuple[int, ...]
    columns: np.ndarray
    block: np.ndarray

    @classmethod
    def of(cls, sizes: Sequence[int]) -> ActionEffects:
        """For sub-actions with ``sizes`` choices."""
        table = np.stack(np.unravel_index(np.arange(int(np.prod(sizes))), tuple(sizes)), axis=1)
        ones = [np.eye(n)[table[:, j]] for j, n in enumerate(sizes)]
        columns, count = _mains_and_pairs(ones)
        return cls(tuple(sizes), columns, np.repeat([FREE, DRAWN], [count, columns.shape[1] - count]))

    def foreseen(self, mixes: Sequence[np.ndarray]) -> np.ndarray:
        """Mean of each column under mixes of independent sub-actions, (N, choices) each: (N, K)."""
        return _mains_and_pairs(mixes)[0]


@dataclass(frozen=True)
class Departures:
    """What is common to the departures of all states."""

    sizes: tuple[int, ...]
    table: np.ndarray  # sub-actions of joint actions (A, sub-actions)
    floor: float  # money
    level: float  # mean log level
    centre: np.ndarray  # mean shape (A,)

    @classmethod
    def of(cls, values: np.ndarray, sizes: Sequence[int]) -> Departures:
        """From learned ``values`` (S, A) of a sample of requests."""
        table = np.stack(np.unravel_index(np.arange(values.shape[1]), tuple(sizes)), axis=1)
        floor = LEAST * max(float(np.abs(values).mean()), 1e-30)
        logs = np.log(np.maximum(values, np.float32(floor)))
        level = logs.mean(axis=1)
        shape = (logs - level[:, None]).mean(axis=0, dtype=np.float64)
        return cls(tuple(sizes), table, floor, float(level.mean()), shape)

    def at(self, values: np.ndarray, mixes: Sequence[np.ndarray]) -> StateDepartures:
        """In states with ``values`` (S, A); ``mixes``: of each sub-action as logged there, (S, choices)."""
        logs = np.log(np.maximum(values, np.float32(self.floor)))
        level = logs.mean(axis=1)
        departure = logs - level[:, None] - self.centre.astype(logs.dtype)
        cube, axes = departure.reshape(len(values), *self.sizes), range(1, len(self.sizes) + 1)
        mains = [cube.mean(axis=tuple(t for t in axes if t != j)) for j in axes]
        joint = _product(mixes, departure.dtype)
        along = [(mix * main).sum(axis=1) for mix, main in zip(mixes, mains)]
        rest = np.einsum("sa,sa->s", joint, departure) - np.sum(along, axis=0)
        of_shape = joint @ self.centre
        return StateDepartures(self, level - self.level, departure, mains, np.column_stack([*along, rest]), of_shape)


@dataclass(frozen=True)
class StateDepartures:
    """Departures of some states: a direction per sub-action, and the rest."""

    common: Departures
    level: np.ndarray  # (S,)
    departure: np.ndarray  # (S, A)
    mains: list[np.ndarray]  # (S, choices) per sub-action
    foreseen: np.ndarray  # mean of each direction under the logged mix (S, sub-actions + 1)
    of_shape: np.ndarray  # mean of the mean shape under it (S,)

    @property
    def controls(self) -> np.ndarray:
        """What the log of a state's revenue is taken to be linear in, (S, CONTROLS)."""
        return np.column_stack(
            [np.ones(len(self.level)), self.level, self.level**2, self.foreseen.sum(axis=1), self.of_shape]
        )

    def along(self, joint: np.ndarray, state: np.ndarray) -> np.ndarray:
        """Directions of joint actions (N,) in states (N,), less what was foreseen there: float64 (N, sub-actions + 1)."""
        sub = self.common.table[joint]
        along = [main[state, sub[:, j]] for j, main in enumerate(self.mains)]
        rest = self.departure[state, joint] - np.sum(along, axis=0)
        return np.asarray(np.column_stack([*along, rest]) - self.foreseen[state])


def _mains_and_pairs(parts: Sequence[np.ndarray]) -> tuple[np.ndarray, int]:
    """Columns of single choices but the first of each, then of pairs of choices (N, K), and how many are single ones."""
    parts = [part for part in parts if part.shape[1] > 1]  # one choice has no effect
    mains = [part[:, 1:] for part in parts]
    pairs = [
        (one[:, :, None] * other[:, None, :]).reshape(len(one), -1) for one, other in itertools.combinations(parts, 2)
    ]
    return np.hstack([*mains, *pairs]), sum(one.shape[1] for one in mains)


def _product(mixes: Sequence[np.ndarray], dtype: np.dtype) -> np.ndarray:
    """Mix of joint actions of independent sub-actions, (S, A)."""
    joint = np.ones((len(mixes[0]), 1), dtype)
    for mix in mixes:
        joint = (joint[:, :, None] * mix.astype(dtype)[:, None, :]).reshape(len(joint), -1)
    return joint
