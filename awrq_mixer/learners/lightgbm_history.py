"""lightgbm_history is lightgbm plus what each state's training rows say: features that a careful team would build.

For the state (the ``plus.history`` columns), and for each coarser group that leaves one of these columns out, the features are

    count      log(1 + n), n the group's rows
    signal     shrunken mean of what levels and sub-actions leave of the log surrogate
    revenue    the same of revenue
    signal_t   per sub-action: shrunken mean over the group's rows with the same choice, drawn towards ``signal``

A shrunken mean is Σ r / (n + k), the empirical-Bayes estimate where k is the variance within groups over that between them
(one-way analysis of variance). Training rows get features out of fold: the rows of their own fold don't count.
Without a surrogate revenue takes its place. Trees are grown as for lightgbm.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from scipy.sparse import csr_matrix, hstack
from scipy.sparse.linalg import lsqr

from awrq_mixer.learners.base import Batch
from awrq_mixer.learners.state_memory import LEAST_SIGNAL
from marca_common.errors import UserError
from marca_common.seeding import numpy_generator

FOLDS = 10
LEAST, NEVER = 1e-6, 1e9  # k where groups differ by no noise, and by nothing but noise


@dataclass
class Group:
    """Sums over the training rows of each group of states that agree in some columns."""

    columns: list[int]  # places among the categorical columns
    key: np.ndarray  # (G,) int64, rising
    count: np.ndarray  # (G,)
    sums: np.ndarray  # (G, kinds) of the signal and, with a surrogate, of revenue
    shrink: np.ndarray  # (kinds,) k of each
    choice_count: np.ndarray  # (G, Σ sizes) rows by choice of every sub-action
    choice_sum: np.ndarray  # (G, Σ sizes) of the signal
    choice_shrink: np.ndarray  # (T,)


class History:
    """Features of pairs of state and joint action from the training rows of a state and of the groups it is in."""

    def __init__(self, groups: list[Group], categories: Sequence[int], sizes: Sequence[int], kinds: int) -> None:
        self.groups, self.categories, self.sizes, self.kinds = groups, tuple(categories), tuple(sizes), kinds
        self.offsets = np.concatenate([[0], np.cumsum(sizes)[:-1]]).astype(np.int64)

    @property
    def width(self) -> int:
        """Number of features."""
        return len(self.groups) * (1 + self.kinds + len(self.sizes))

    @classmethod
    def fit(
        cls, train: Batch, history: Sequence[int], categories: Sequence[int], sizes: Sequence[int], seed: int
    ) -> tuple[History, np.ndarray]:
        """Sums of the training rows, and the features of those rows out of fold, float32 (N, width)."""
        codes, actions = train.codes.numpy(), train.actions.numpy()
        rest = residuals(train, categories, sizes)  # (N, kinds)
        fold = numpy_generator(seed, "history_folds").integers(0, FOLDS, len(rest))
        found = cls([], categories, sizes, rest.shape[1])
        features = []
        for columns in groupings(history):
            group, own = found._group(columns, codes, actions, rest, fold)
            found.groups.append(group)
            features.append(own)
        return found, np.concatenate([np.zeros((len(rest), 0)), *features], axis=1).astype(np.float32)

    def features(self, codes: np.ndarray, actions: np.ndarray) -> np.ndarray:
        """Features of states with these codes (B, columns) under these sub-actions (B, T), float32 (B, width)."""
        parts = [np.zeros((len(codes), 0))]
        for group in self.groups:
            key = self._key(group.columns, codes)
            place = np.minimum(np.searchsorted(group.key, key), len(group.key) - 1)
            seen = (group.key[place] == key)[:, None]
            choice = self.offsets + actions  # (B, T)
            count, sums = group.count[place] * seen[:, 0], group.sums[place] * seen
            choice_count, choice_sum = (
                table[place[:, None], choice] * seen for table in (group.choice_count, group.choice_sum)
            )
            parts.append(_shrunken(count, sums, choice_count, choice_sum, group.shrink, group.choice_shrink))
        return np.concatenate(parts, axis=1).astype(np.float32)

    def _key(self, columns: list[int], codes: np.ndarray) -> np.ndarray:
        key = np.zeros(len(codes), np.int64)
        for j in columns:
            key = key * self.categories[j] + codes[:, j]
        return key

    def _group(
        self, columns: list[int], codes: np.ndarray, actions: np.ndarray, rest: np.ndarray, fold: np.ndarray
    ) -> tuple[Group, np.ndarray]:
        """Sums of one group, and what the rows in it know from other folds."""
        key, place = np.unique(self._key(columns, codes), return_inverse=True)
        count, sums, others, other_sums = _sums(place, rest, fold, len(key))
        shrink = np.array([shrinkage(place, one) for one in rest.T])
        drawn = other_sums[:, 0] / (others + shrink[0])  # the mean that choices are drawn towards
        tables = []
        for t, size in enumerate(self.sizes):
            cell = place * size + actions[:, t]
            mine, own, elsewhere, own_elsewhere = _sums(cell, rest[:, :1], fold, len(key) * size)
            by_choice = (mine.reshape(-1, size), own.reshape(-1, size), elsewhere[:, None], own_elsewhere)
            tables.append((*by_choice, np.array([shrinkage(cell, rest[:, 0] - drawn)])))
        choice_count, choice_sum, outside, outside_sum, choice_shrink = (
            np.concatenate(part, axis=-1) for part in zip(*tables)
        )
        narrow = [table.astype(np.float32) for table in (choice_count, choice_sum)]  # most of what a checkpoint holds
        group = Group(columns, key, count, sums, shrink, narrow[0], narrow[1], choice_shrink)
        return group, _shrunken(others, other_sums, outside, outside_sum, shrink, choice_shrink)

    def to_payload(self) -> list[dict[str, Any]]:
        """Tensors of every group, for a checkpoint."""
        return [
            {name: torch.from_numpy(getattr(group, name)) for name in _ARRAYS} | {"columns": group.columns}
            for group in self.groups
        ]

    @classmethod
    def from_payload(
        cls, payload: Any, history: Sequence[int], categories: Sequence[int], sizes: Sequence[int], kinds: int
    ) -> History:
        """The features a checkpoint holds; sums that don't fit the config or each other are a UserError."""
        found = cls([], categories, sizes, kinds)
        expected = groupings(history)
        if not isinstance(payload, list) or [part.get("columns") for part in payload] != expected:
            raise UserError("history: its groups are not those of plus.history: train again")
        for part in payload:
            if set(part) != {"columns", *_ARRAYS}:
                raise UserError(f"history: parts {sorted(part)}; expected {sorted(['columns', *_ARRAYS])}: train again")
            group = Group(part["columns"], *(part[name].numpy() for name in _ARRAYS))
            found._check(group)
            found.groups.append(group)
        return found

    def _check(self, group: Group) -> None:
        size, wide = len(group.key), sum(self.sizes)
        shapes = [(size,), (size,), (size, self.kinds), (self.kinds,), (size, wide), (size, wide), (len(self.sizes),)]
        good = (
            [getattr(group, name).shape for name in _ARRAYS] == shapes
            and size > 0
            and all(getattr(group, name).dtype == kind for name, kind in _ARRAYS.items())
            and bool((np.diff(group.key) > 0).all())
            and all((getattr(group, name) >= 0).all() for name in ("count", "choice_count"))
            and all((getattr(group, name) > 0).all() for name in ("shrink", "choice_shrink"))
        )
        if not good:
            raise UserError(f"history: sums of group {group.columns} do not fit each other: train again")


_ARRAYS = {
    "key": np.int64,
    "count": np.float64,
    "sums": np.float64,
    "shrink": np.float64,
    "choice_count": np.float32,
    "choice_sum": np.float32,
    "choice_shrink": np.float64,
}


def groupings(history: Sequence[int]) -> list[list[int]]:
    """Columns of each group: all of them, then all but one in turn; none without history."""
    whole = list(history)
    if not whole:
        return []
    return [whole, *([j for j in whole if j != left] for left in whole if len(whole) > 1)]


def residuals(train: Batch, categories: Sequence[int], sizes: Sequence[int]) -> np.ndarray:
    """What levels of columns and of sub-actions leave of the signal and of revenue over its mean, (N, 1 or 2).

    The signal is the log surrogate; without one, revenue stands alone.
    """
    reward = train.reward.double().numpy()
    targets = [reward / (reward.mean() or 1.0)]
    surrogate = train.surrogate.double().numpy()
    if not np.isnan(surrogate).all():
        targets.insert(0, np.log(np.maximum(surrogate / surrogate.mean(), LEAST_SIGNAL)))
    design = _design(train, categories, sizes)
    means = [target.mean() for target in targets]
    left = [y - m - design @ lsqr(design, y - m, damp=1.0, iter_lim=100)[0] for y, m in zip(targets, means)]
    return np.stack(left, axis=1)


def _design(train: Batch, categories: Sequence[int], sizes: Sequence[int]) -> csr_matrix:
    """One column per category and per choice of a sub-action, and the numeric columns themselves."""
    chosen = np.concatenate([train.codes.numpy(), train.actions.numpy()], axis=1)
    widths = [*categories, *sizes]
    place = chosen + np.concatenate([[0], np.cumsum(widths)[:-1]]).astype(np.int64)
    row = np.repeat(np.arange(len(place)), place.shape[1])
    ones = csr_matrix((np.ones(place.size), (row, place.ravel())), shape=(len(place), sum(widths)))
    return hstack([ones, csr_matrix(train.numbers.double().numpy())], format="csr")


def shrinkage(group: np.ndarray, values: np.ndarray) -> float:
    """k of the shrunken mean Σ r/(n + k): variance within groups over variance between them, by the method of moments.

    ``group`` and ``values`` (N,). Groups that differ by no more than noise, or never repeat, have k = ``NEVER``.
    """
    _, place, count = np.unique(group, return_inverse=True, return_counts=True)
    rows, groups = len(values), len(count)
    if groups in (1, rows):
        return NEVER
    mean = np.bincount(place, values) / count
    within = float(((values - mean[place]) ** 2).sum()) / (rows - groups)
    between = float(count @ (mean - values.mean()) ** 2) / (groups - 1)
    typical = (rows - float((count.astype(np.float64) ** 2).sum()) / rows) / (groups - 1)
    variance = (between - within) / typical
    return float(np.clip(within / variance, LEAST, NEVER)) if variance > 0 else NEVER


def _sums(
    place: np.ndarray, values: np.ndarray, fold: np.ndarray, size: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Count (G,) and sums (G, kinds) of each group, and for each row those of its group's rows in other folds."""
    _, own = np.unique(place * FOLDS + fold, return_inverse=True)
    count, own_count = np.bincount(place, minlength=size).astype(np.float64), np.bincount(own)
    sums = np.stack([np.bincount(place, one, size) for one in values.T], axis=1)
    own_sums = np.stack([np.bincount(own, one) for one in values.T], axis=1)
    return count, sums, count[place] - own_count[own], sums[place] - own_sums[own]


def _shrunken(
    count: np.ndarray,
    sums: np.ndarray,
    choice_count: np.ndarray,
    choice_sum: np.ndarray,
    shrink: np.ndarray,
    choice_shrink: np.ndarray,
) -> np.ndarray:
    """Features from counts (B,), sums (B, kinds), and both by choice (B, T): (B, 1 + kinds + T)."""
    means = sums / (count[:, None] + shrink)
    by_choice = (choice_sum + choice_shrink * means[:, :1]) / (choice_count + choice_shrink)
    return np.concatenate([np.log1p(count)[:, None], means, by_choice], axis=1)
