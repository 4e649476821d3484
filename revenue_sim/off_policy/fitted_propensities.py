"""Propensities that no log holds: each sub-action's mix in groups of like requests, counted, shrunk and cross-validated.

In a group of n requests, N of which got choice a, the choice has the probability (N + α·m(a)) / (n + α), with m(a) its share in all
requests. Which grouping and which α is best, each row tells: its probability is worked out from the other rows (leave one out, in
closed form). Sub-actions are taken to be independent given the state; ``agreement`` tells where propensities are logged.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from marca_common.errors import UserError

STRENGTHS = (1.0, 5.0, 25.0, 125.0)  # α, rows
EVERYBODY = "all requests"


@dataclass(frozen=True)
class FittedPropensities:
    """Of every sub-action: the grouping that tells its mix best, and the mixes of its groups."""

    groupings: tuple[str, ...]
    strengths: tuple[float, ...]
    group: tuple[np.ndarray, ...]  # of each row (M,)
    mixes: tuple[np.ndarray, ...]  # (groups, choices)
    logged: np.ndarray  # propensity of each row's joint action by the other rows (M,)

    @classmethod
    def fit(cls, groupings: Mapping[str, np.ndarray], actions: np.ndarray, sizes: Sequence[int]) -> FittedPropensities:
        """``groupings``: codes (M,) by name; ``actions`` (M, sub-actions); ``sizes``: choices of each."""
        if actions.ndim != 2 or actions.shape[1] != len(sizes) or len(actions) < 2:
            raise UserError(f"actions: got shape {actions.shape}; expected at least 2 rows of {len(sizes)} sub-actions")
        everybody = {EVERYBODY: np.zeros(len(actions), np.int64)}
        dense = {name: pd.factorize(codes)[0] for name, codes in (everybody | dict(groupings)).items()}
        best = [_best(dense, actions[:, j], size) for j, size in enumerate(sizes)]
        names, strengths, mixes, own = zip(*best)
        return cls(names, strengths, tuple(dense[name] for name in names), mixes, np.prod(own, axis=0))

    def of_rows(self, rows: np.ndarray) -> list[np.ndarray]:
        """Mix of every sub-action for ``rows`` (N,): (N, choices) each."""
        return [mix[group[rows]] for mix, group in zip(self.mixes, self.group)]

    def decided(self, actions: np.ndarray) -> np.ndarray:
        """Mean fitted probability of the choices that were taken, of every sub-action: ``actions`` (M, sub-actions); 1: by rule."""
        taken = [mix[group, actions[:, j]] for j, (mix, group) in enumerate(zip(self.mixes, self.group))]
        shares: np.ndarray = np.stack(taken).mean(axis=1)
        return shares

    def agreement(self, propensity: np.ndarray) -> float:
        """Median size of the log of fitted over logged propensities (M,): 0.1 is an error of ten percent."""
        return float(np.median(np.abs(np.log(self.logged) - np.log(propensity))))

    def calibration(self, actions: np.ndarray) -> float:
        """Largest error of a fitted probability, in standard errors: of choices, in tenths of rows by that probability.

        ``actions`` (M, sub-actions): mixes are counted on every other row and held against the rest. Below 5 is chance, 10 is not.
        """
        even = np.arange(len(actions)) % 2 == 0
        worst = 0.0
        for j, (group, strength, mix) in enumerate(zip(self.group, self.strengths, self.mixes)):
            told, _, _ = _mixes(group[even], actions[even, j], strength, *mix.shape)
            expected, taken = told[group[~even]], np.eye(mix.shape[1])[actions[~even, j]]
            worst = max([worst, *(_worst_tenth(expected[:, a], taken[:, a]) for a in range(mix.shape[1]))])
        return worst


def _worst_tenth(expected: np.ndarray, taken: np.ndarray) -> float:
    """Largest difference of what was expected and what was taken (M,) in tenths by the former, in standard errors."""
    worst = 0.0
    for tenth in np.array_split(np.argsort(expected, kind="stable"), 10):
        error = np.sqrt(max(float((expected[tenth] * (1 - expected[tenth])).sum()), 1e-12))
        worst = max(worst, abs(float((taken[tenth] - expected[tenth]).sum())) / error)
    return worst


def _mixes(
    group: np.ndarray, action: np.ndarray, strength: float, groups: int, size: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Mixes (groups, size) with prior ``strength``, the prior (size,), and rows of each group and choice (groups, size)."""
    prior = strength * (np.bincount(action, minlength=size) + 1) / (len(action) + size)
    count = np.bincount(group * size + action, minlength=groups * size).reshape(-1, size)
    return (count + prior) / (count.sum(axis=1, keepdims=True) + strength), prior, count


def _best(
    groupings: Mapping[str, np.ndarray], action: np.ndarray, size: int
) -> tuple[str, float, np.ndarray, np.ndarray]:
    """Name, strength, mixes (groups, size) and each row's propensity by the others (M,): those with the least log loss."""
    best: tuple[str, float, np.ndarray, np.ndarray] | None = None
    least = np.inf
    for name, group in groupings.items():
        for strength in STRENGTHS:
            mixes, prior, count = _mixes(group, action, strength, int(group.max()) + 1, size)
            own = (count[group, action] - 1 + prior[action]) / (count.sum(axis=1)[group] - 1 + strength)
            loss = -float(np.log(own).mean())
            if loss < least - 1e-9:
                least, best = loss, (name, strength, mixes, own)
    assert best is not None
    return best
