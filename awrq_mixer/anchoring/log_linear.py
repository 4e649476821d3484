"""A log-linear model of what requests earn: levels of states, tables of sub-actions, and few interactions between them.

log E[y | s, a] = level(s) + Σ tables of single sub-actions, pairs, … + Σ_j tables of sub-action j per coarse group of s.
Fitted by Tweedie quasi-likelihood under ridge penalties with L-BFGS; no randomness, no network.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from awrq_mixer.anchoring.contexts import Contexts
from marca_common.requests import RequestSpec

_LEVEL_RIDGE = 1e-5  # of every level, per row; the same for interactions with groups
_CLIP = 30.0  # a logarithm beyond this is numerical trouble on the way, not an answer


@dataclass(frozen=True)
class Shape:
    """What tables a model has, how strongly each order is held to zero, and how much large means weigh."""

    ridge: Sequence[float]  # penalty of tables of one sub-action, of two, …; its length is the highest order
    interactions: bool  # tables of single sub-actions per coarse group
    power: float  # Tweedie variance power: the closer to 2, the more every request weighs alike


def log_linear(
    y: np.ndarray,
    joint: np.ndarray,
    groups: Contexts,
    spec: RequestSpec,
    shape: Shape,
    offset: np.ndarray | None = None,
    iterations: int = 200,
) -> tuple[np.ndarray, np.ndarray]:
    """Fit ``y`` (M,) ≥ 0 of joint actions (M,): levels exp(level(s)) in units of y (M,), and log effects.

    The effects are one table (C, A), a row per observed combination of coarse groups; rows of the log that share a
    combination share a row (see ``combinations``). ``offset`` (C, A) is added to them.
    """
    mean = float(y.mean())
    model = _Model(groups, spec, shape, offset)
    target, joints = torch.from_numpy((y / mean).astype(np.float32)), torch.from_numpy(joint)
    optimiser = torch.optim.LBFGS(
        model.parameters(), max_iter=iterations, history_size=12, line_search_fn="strong_wolfe"
    )

    def closure() -> Tensor:
        optimiser.zero_grad()
        loss = _loss(model.log_mean(joints).clamp(-_CLIP, _CLIP), target, shape.power) + model.penalty()
        torch.autograd.backward(loss)
        return loss

    optimiser.step(closure)  # type: ignore[no-untyped-call]
    with torch.no_grad():
        return mean * model.level().exp().double().numpy(), model.effects().double().numpy()


def combinations(groups: Contexts) -> tuple[np.ndarray, np.ndarray]:
    """Which observed combination of coarse groups each row has (M,), and the groups of each combination (C, columns)."""
    row = first = np.zeros(len(groups.fine[0][0]), np.int64)
    for codes, size in groups.coarse:  # one by one: all sizes multiplied may be more than fits
        _, first, row = np.unique(row * size + codes, return_index=True, return_inverse=True)
    return row, np.stack([codes[first] for codes, _ in groups.coarse], axis=1)


def _loss(log_mean: Tensor, target: Tensor, power: float) -> Tensor:
    return ((log_mean * (2 - power)).exp() / (2 - power) - target * (log_mean * (1 - power)).exp() / (1 - power)).mean()


class _Model:
    def __init__(self, groups: Contexts, spec: RequestSpec, shape: Shape, offset: np.ndarray | None) -> None:
        table, sizes = spec.joint_table(), spec.shape
        self.actions = len(table)
        row, combined = combinations(groups)
        self.row, self.combined = torch.from_numpy(row), torch.from_numpy(combined)
        self.levels = [(torch.from_numpy(codes), _zeros(size)) for codes, size in groups.levels]
        self.tables, self.ridge = [], []
        for order, ridge in enumerate(shape.ridge, start=1):
            for chosen in itertools.combinations(range(len(sizes)), order):
                shape_of = [sizes[j] for j in chosen]
                index = np.ravel_multi_index([table[:, j] for j in chosen], shape_of)
                self.tables.append((torch.from_numpy(index), _zeros(math.prod(shape_of))))
                self.ridge.append(ridge)
        self.by_group = [
            (c, [(torch.from_numpy(np.ascontiguousarray(table[:, j])), _zeros(size, n)) for j, n in enumerate(sizes)])
            for c, (_, size) in enumerate(groups.coarse)
            if shape.interactions
        ]
        self.constant = _zeros(1)
        self.offset = None if offset is None else torch.from_numpy(offset.astype(np.float32))

    def parameters(self) -> list[Tensor]:
        return [self.constant, *(one for _, one in self.levels), *(one for _, one in self.tables), *self.interactions]

    @property
    def interactions(self) -> list[Tensor]:
        """Every table of a sub-action per coarse group."""
        return [one for _, tables in self.by_group for _, one in tables]

    def level(self) -> Tensor:
        """(M,)."""
        return self.constant + torch.stack([one[codes] for codes, one in self.levels]).sum(0)

    def effects(self) -> Tensor:
        """(C, A)."""
        found = self._common().expand(len(self.combined), -1)
        for c, of_group in self._of_groups():
            found = found + of_group[self.combined[:, c]]
        return found if self.offset is None else found + self.offset

    def log_mean(self, joint: Tensor) -> Tensor:
        """(M,): entries of ``effects`` are looked up row by row, as there may be far more of them than rows."""
        found = self.level() + self._common()[joint]
        for c, of_group in self._of_groups():
            found = found + of_group.reshape(-1)[self.combined[self.row, c] * self.actions + joint]
        return found if self.offset is None else found + self.offset.reshape(-1)[self.row * self.actions + joint]

    def _common(self) -> Tensor:
        """What joint actions have in common over all groups, (A,)."""
        return torch.stack([one[index] for index, one in self.tables]).sum(0)

    def _of_groups(self) -> Iterator[tuple[int, Tensor]]:
        """(column, what joint actions have beside that in each of its groups (groups, A))."""
        for c, tables in self.by_group:
            yield c, torch.stack([one[:, index] for index, one in tables]).sum(0)

    def penalty(self) -> Tensor:
        loss = torch.zeros(())
        for one in [*(one for _, one in self.levels), *self.interactions]:
            loss = loss + _LEVEL_RIDGE * one.square().sum()
        for (_, one), ridge in zip(self.tables, self.ridge):
            loss = loss + ridge * one.square().sum()
        return loss


def _zeros(*shape: int) -> Tensor:
    return torch.zeros(*shape, requires_grad=True)
