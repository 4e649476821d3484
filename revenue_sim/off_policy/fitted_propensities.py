"""Propensities that no log holds: each sub-action's mix in groups of like requests, counted, shrunk and cross-validated.

In a group of n requests, N of which got choice a, the choice has the probability (N + α·m(a)) / (n + α), with m(a) its share in all
requests. Which grouping and which α is best, each row tells: its probability is worked out from the other rows (leave one out, in
closed form). Sub-actions are taken to be independent given the state; ``agreement`` tells where propensities are logged.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from marca_common.errors import UserError

STRENGTHS = (1.0, 5.0, 25.0, 125.0)  # α, rows
EVERYBODY = "all requests"
LEAST_OVERLAP = 0.01  # a choice that is rarer where it is decided for is not judged by its own rows


@dataclass(frozen=True)
class FittedPropensities:
    """Of every sub-action: the grouping that tells its mix best, and the mixes of its groups."""

    groupings: tuple[str, ...]
    group: tuple[np.ndarray, ...]  # of each row (M,)
    mixes: tuple[np.ndarray, ...]  # (groups, choices)
    logged: np.ndarray  # propensity of each row's joint action by the other rows (M,)

    @classmethod
    def fit(cls, groupings: Mapping[str, np.ndarray], actions: np.ndarray, sizes: Sequence[int]) -> FittedPropensities:
        """``groupings``: codes (M,) by name; ``actions`` (M, sub-actions); ``sizes``: choices of each."""
        if actions.ndim != 2 or actions.shape[1] != len(sizes) or len(actions) < 2:
            raise UserError(f"actions: got shape {actions.shape}; expected at least 2 rows of {len(sizes)} sub-actions")
        everybody = {EVERYBODY: np.zeros(len(actions), np.int64)}
        dense = {
            name: np.unique(codes, return_inverse=True)[1] for name, codes in (everybody | dict(groupings)).items()
        }
        best = [_best(dense, actions[:, j], size) for j, size in enumerate(sizes)]
        names, mixes, own = zip(*best)
        return cls(tuple(names), tuple(dense[name] for name in names), tuple(mixes), np.prod(own, axis=0))

    def of_rows(self, rows: np.ndarray) -> list[np.ndarray]:
        """Mix of every sub-action for ``rows`` (N,): (N, choices) each."""
        return [mix[group[rows]] for mix, group in zip(self.mixes, self.group)]

    def agreement(self, propensity: np.ndarray) -> float:
        """Median size of the log of fitted over logged propensities (M,): 0.1 is an error of ten percent."""
        return float(np.median(np.abs(np.log(self.logged) - np.log(propensity))))


def calibration(mixes: Sequence[np.ndarray], actions: np.ndarray) -> float:
    """Largest error of a fitted probability in standard errors: choices in tenths of rows by that probability.

    ``mixes``: (M, choices) per sub-action, of rows that they were not fitted on; ``actions`` (M, sub-actions). Around 3 is chance.
    """
    worst = 0.0
    for j, mix in enumerate(mixes):
        for a in range(mix.shape[1]):
            order = np.argsort(mix[:, a], kind="stable")
            for tenth in np.array_split(order, 10):
                expected, taken = mix[tenth, a], actions[tenth, j] == a
                error = np.sqrt(max(float((expected * (1 - expected)).sum()), 1e-12))
                worst = max(worst, abs(float((taken - expected).sum())) / error)
    return worst


def _best(groupings: Mapping[str, np.ndarray], action: np.ndarray, size: int) -> tuple[str, np.ndarray, np.ndarray]:
    """Name, mixes (groups, size) and each row's propensity by the others (M,) of the grouping with the least log loss."""
    overall = (np.bincount(action, minlength=size) + 1) / (len(action) + size)
    best: tuple[str, np.ndarray, np.ndarray] | None = None
    least = np.inf
    for name, group in groupings.items():
        count = np.bincount(group * size + action, minlength=(int(group.max()) + 1) * size).reshape(-1, size)
        total = count.sum(axis=1, keepdims=True)
        for strength in STRENGTHS:
            prior = strength * overall
            own = (count[group, action] - 1 + prior[action]) / (total[group, 0] - 1 + strength)
            loss = -float(np.log(own).mean())
            if loss < least - 1e-9:
                least, best = loss, (name, (count + prior) / (total + strength), own)
    assert best is not None
    return best
