"""Coarse groups of states, by which a log-linear model tells who was asked from what was done."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from marca_common.column_values import categories, is_identifier
from marca_common.requests import RequestSpec

GROUPS = 10  # most groups of a column
PRIOR = 20  # rows that stand for the mean of all in a category's mean: a rare one is not grouped by its own luck
FEW = 12  # a column of no more categories keeps them as its groups


@dataclass(frozen=True)
class Contexts:
    """Codes of a log's rows: fine ones per state column, and coarse groups of the same columns."""

    fine: list[tuple[np.ndarray, int]]  # code per row (M,), number of codes
    coarse: list[tuple[np.ndarray, int]]

    @property
    def levels(self) -> list[tuple[np.ndarray, int]]:
        """What a state's level depends on: every fine code, and every pair of coarse groups."""
        pairs = [
            (one * m + other, n * m) for i, (one, n) in enumerate(self.coarse) for other, m in self.coarse[i + 1 :]
        ]
        return [*self.fine, *pairs]


def contexts(frame: pd.DataFrame, spec: RequestSpec, signal: np.ndarray) -> Contexts:
    """Groups of a log's rows: a column of many categories is cut into tenths by their mean ``signal`` (M,), a numeric one by size.

    Groups of equal means are what a logging policy that follows value can be told apart by.
    """
    fine = fine_codes(frame, spec)
    coarse = [
        (codes, size) if kind == "numeric" or size <= FEW else (_by_mean(codes, size, signal), GROUPS)
        for (codes, size), kind in zip(fine, spec.state.values())
    ]
    return Contexts(fine, coarse)


def fine_codes(frame: pd.DataFrame, spec: RequestSpec) -> list[tuple[np.ndarray, int]]:
    """Of every state column: code per row (M,), int64, and number of codes. A numeric column is cut into tenths.

    An identifier has one code: groups made of its values would be told apart by their only row.
    """
    fine = []
    for name, kind in spec.state.items():
        if kind == "numeric":
            fine.append((_tenths(frame[name].to_numpy(np.float64), np.ones(len(frame))), GROUPS))
            continue
        column = categories(frame, name).cat.remove_unused_categories()  # a cut log keeps those of all its rows
        size, codes = max(len(column.cat.categories), 1), column.cat.codes.to_numpy().astype(np.int64)
        fine.append((np.zeros_like(codes), 1) if is_identifier(size, len(frame)) else (codes, size))
    return fine


def _by_mean(codes: np.ndarray, size: int, signal: np.ndarray) -> np.ndarray:
    """Tenth of each row (M,): categories in order of their mean ``signal`` (M,)."""
    count = np.bincount(codes, minlength=size)
    mean = (np.bincount(codes, signal, minlength=size) + PRIOR * signal.mean()) / (count + PRIOR)
    tenth: np.ndarray = _tenths(mean, count)[codes]
    return tenth


def _tenths(values: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """Which tenth of the total weight each value lies in, smallest values first, int64; equal values share one."""
    order = np.argsort(values, kind="stable")
    before = np.cumsum(weight[order]) - weight[order]
    first = np.searchsorted(values[order], values[order], side="left")  # equal values: where the first of them stands
    found = np.empty(len(values), np.int64)
    found[order] = np.minimum(GROUPS * before[first] / max(weight.sum(), 1e-300), GROUPS - 1).astype(np.int64)
    return found
