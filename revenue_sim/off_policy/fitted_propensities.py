"""Propensities that no log holds: each sub-action's mix in cells of like requests, counted, and drawn to that of coarser cells.

The mix of all requests is counted first. Then columns are crossed one by one, so that every cell lies within one of those before:
in a cell of n requests, N of which got choice a, the choice has the probability

    p(a) = (N + α·p₀(a)) / (n + α)

with p₀ that of the cell around it. Which column comes next, how strong α is, and when to stop, each row tells: its probability is
worked out from the other rows. As cells are nested, a row is left out of all its cells at once, in closed form. Sub-actions are
taken to be independent given the state; ``agreement`` tells where propensities are logged.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from marca_common.errors import UserError

STRENGTHS = (1.0, 5.0, 25.0, 125.0, 625.0)  # α, rows
GAIN = 0.001  # mean log-likelihood, nats a row, that a column has to add


@dataclass(frozen=True)
class Cells:
    """A sub-action's mix in cells of like requests; ``columns`` are what was crossed."""

    columns: tuple[str, ...]
    cell: np.ndarray  # of each row (M,)
    mix: np.ndarray  # (cells, choices)
    others: np.ndarray  # probability of a choice by all rows but one that took it (cells, choices)
    loss: float  # mean −log of the latter, over rows

    @classmethod
    def of_all(cls, action: np.ndarray, size: int, counted: np.ndarray) -> Cells:
        """One cell: rows that are ``counted`` (M,), and one more of each choice."""
        count = np.bincount(action[counted], minlength=size)[None]
        total = count.sum() + size
        others = count / (total - 1)
        return cls((), np.zeros(len(action), np.int64), (count + 1) / total, others, _loss(count, others))

    def crossed(self, column: str, codes: np.ndarray, action: np.ndarray, counted: np.ndarray) -> Cells:
        """Crossed with ``codes`` (M,), at the strength that foretells rows best by the others."""
        wide, size = int(codes.max()) + 1, self.mix.shape[1]
        cell, pairs = pd.factorize(self.cell * wide + codes)
        count = np.bincount((cell * size + action)[counted], minlength=len(pairs) * size).reshape(-1, size)
        rows, around = count.sum(axis=1, keepdims=True), pairs // wide
        left_out = {a: (count - 1 + a * self.others[around]) / np.maximum(rows - 1 + a, 1) for a in STRENGTHS}
        losses = {strength: _loss(count, others) for strength, others in left_out.items()}
        best = min(losses, key=losses.__getitem__)
        mix = (count + best * self.mix[around]) / (rows + best)
        return Cells((*self.columns, column), cell, mix, left_out[best], losses[best])

    @property
    def name(self) -> str:
        """Columns as text."""
        return " × ".join(self.columns) or "all requests"


@dataclass(frozen=True)
class FittedPropensities:
    """Of every sub-action: the cells that tell its mix best."""

    groupings: Mapping[str, np.ndarray]  # columns that could be crossed (M,)
    cells: tuple[Cells, ...]
    logged: np.ndarray  # propensity of each row's joint action by the other rows (M,)

    @classmethod
    def fit(cls, groupings: Mapping[str, np.ndarray], actions: np.ndarray, sizes: Sequence[int]) -> FittedPropensities:
        """``groupings``: codes (M,) ≥ 0 by name; ``actions`` (M, sub-actions); ``sizes``: choices of each."""
        if actions.ndim != 2 or actions.shape[1] != len(sizes) or len(actions) < 2:
            raise UserError(f"actions: got shape {actions.shape}; expected at least 2 rows of {len(sizes)} sub-actions")
        everybody = np.ones(len(actions), bool)
        cells = tuple(_best(groupings, actions[:, j], size, everybody) for j, size in enumerate(sizes))
        own = [one.others[one.cell, actions[:, j]] for j, one in enumerate(cells)]
        return cls(groupings, cells, np.prod(own, axis=0))

    def of_rows(self, rows: np.ndarray) -> list[np.ndarray]:
        """Mix of every sub-action for ``rows`` (N,): (N, choices) each."""
        return [one.mix[one.cell[rows]] for one in self.cells]

    def decided(self, actions: np.ndarray) -> np.ndarray:
        """Mean fitted probability of the choices that were taken, of every sub-action: ``actions`` (M, sub-actions); 1: by rule."""
        taken = [one.mix[one.cell, actions[:, j]] for j, one in enumerate(self.cells)]
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
        for j, one in enumerate(self.cells):
            found = {name: self.groupings[name] for name in one.columns}
            told = _best(found, actions[:, j], one.mix.shape[1], even)
            expected, taken = told.mix[told.cell[~even]], np.eye(one.mix.shape[1])[actions[~even, j]]
            worst = max([worst, *(_worst_tenth(expected[:, a], taken[:, a]) for a in range(one.mix.shape[1]))])
        return worst


def _best(groupings: Mapping[str, np.ndarray], action: np.ndarray, size: int, counted: np.ndarray) -> Cells:
    """Columns are crossed one by one, the best first, as long as they add ``GAIN``."""
    best, left = Cells.of_all(action, size, counted), dict(groupings)
    while left:
        tried = [best.crossed(name, codes, action, counted) for name, codes in left.items()]
        new = min(tried, key=lambda one: one.loss)
        if new.loss > best.loss - GAIN:
            break
        best = new
        del left[new.columns[-1]]
    return best


def _loss(count: np.ndarray, others: np.ndarray) -> float:
    """Mean −log of the probability by the others, over the rows that were counted (cells, choices)."""
    seen = count > 0
    return -float(count[seen] @ np.log(others[seen])) / max(int(count.sum()), 1)


def _worst_tenth(expected: np.ndarray, taken: np.ndarray) -> float:
    """Largest difference of what was expected and what was taken (M,) in tenths by the former, in standard errors."""
    worst = 0.0
    for tenth in np.array_split(np.argsort(expected, kind="stable"), 10):
        error = np.sqrt(max(float((expected[tenth] * (1 - expected[tenth])).sum()), 1e-12))
        worst = max(worst, abs(float((taken[tenth] - expected[tenth]).sum())) / error)
    return worst
