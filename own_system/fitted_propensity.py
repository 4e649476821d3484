"""How well can the logged action be foretold? Counts, cross-validated: a propensity model where none was logged.

For each sub-action, columns are added one by one to the key by which rows are counted, as long as held-out rows are
foretold better. Each half of the rows is foretold by counts of the other half, drawn towards the key without the last column.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from own_system.coded_log import CodedLog, Grouped, joined

_DRAW = 5.0  # rows that the shorter key's prediction weighs
_GAIN = 0.002  # mean log-likelihood, nats a row, that a column has to add


@dataclass(frozen=True)
class Foretold:
    """A sub-action foretold: probability (M,) of the taken value, by counts of other rows, and the columns of the key."""

    probability: np.ndarray
    columns: list[str]


def foretell(log: CodedLog) -> dict[str, Foretold]:
    """Every sub-action, from the state and the sub-actions before it."""
    known: dict[str, Grouped] = dict(log.states)
    found = {}
    for name, action in log.actions.items():
        found[name] = _foretold(action, known)
        known[name] = action
    return found


def _foretold(action: Grouped, known: dict[str, Grouped]) -> Foretold:
    half = np.arange(len(action.codes)) % 2
    share = np.full(len(action.codes), 1.0 / len(action.labels))
    key = np.zeros(len(action.codes), np.int64)
    best = _held_out(key, action, half, share)
    columns: list[str] = []
    while True:
        tried = {}
        for name in known.keys() - set(columns):
            longer = joined([key, known[name].codes])
            tried[name] = (longer, _held_out(longer, action, half, best))
        if not tried:
            return Foretold(best, columns)
        name = max(sorted(tried), key=lambda one: float(np.log(tried[one][1]).mean()))
        longer, probability = tried[name]
        if np.log(probability).mean() < np.log(best).mean() + _GAIN:
            return Foretold(best, columns)
        key, best = longer, probability
        columns.append(name)


def _held_out(key: np.ndarray, action: Grouped, half: np.ndarray, shorter: np.ndarray) -> np.ndarray:
    """Probability (M,) of the taken value by the counts of the other half under an equal key."""
    size, keys = len(action.labels), int(key.max()) + 1
    cell = (half * keys + key) * size + action.codes
    total = half * keys + key
    hits = np.bincount(cell, minlength=2 * keys * size).reshape(2, keys, size)
    rows = np.bincount(total, minlength=2 * keys).reshape(2, keys)
    other = 1 - half
    return np.asarray((hits[other, key, action.codes] + _DRAW * shorter) / (rows[other, key] + _DRAW))
