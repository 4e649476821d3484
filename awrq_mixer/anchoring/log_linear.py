"""A log-linear model of what requests earn: levels of states, tables of sub-actions, and few interactions between them.

log E[y | s, a] = level(s) + Σ tables of single sub-actions, pairs, … + Σ_j tables of sub-action j per coarse group of s.
Fitted by Tweedie quasi-likelihood with L-BFGS; no randomness, no network. The numbers of one table are draws of one variance,
which is fitted, too (empirical Bayes by MacKay's rule, 1992, with a diagonal curvature). So a table that the log knows little
of, such as a pair of sub-actions that are hardly explored, is held to zero, and one it knows well is left alone. Levels are
free: what is held back of a level would pass for an effect of the actions that such states are given.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from awrq_mixer.anchoring.contexts import Contexts
from marca_common.requests import RequestSpec

_FREE = 10.0  # variance of levels
_START, _PRIOR = 0.1, 0.01  # variance that a table begins with; one that it is drawn to, as if by one more number
_LEAST = 1e-6  # dispersion where there is hardly any noise
_ROUNDS = 4  # fits, with variances learned between them
_FIRST, _LATER = 200, 60  # most L-BFGS iterations of the first fit, and of later ones
_CLIP = 30.0  # a logarithm beyond this is numerical trouble on the way, not an answer


@dataclass(frozen=True)
class Shape:
    """What tables a model has, and how much large means weigh."""

    order: int  # most sub-actions of a table
    interactions: bool  # tables of single sub-actions per coarse group
    power: float  # Tweedie variance power: the closer to 2, the more every request weighs alike


def log_linear(
    y: np.ndarray,
    joint: np.ndarray,
    groups: Contexts,
    spec: RequestSpec,
    shape: Shape,
    offset: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Fit ``y`` (M,) ≥ 0 of joint actions (M,): levels exp(level(s)) in units of y (M,), and log effects.

    The effects are one table (C, A), a row per observed combination of coarse groups; rows of the log that share a
    combination share a row (see ``combinations``). ``offset`` (C, A) is added to them.
    """
    mean = float(y.mean())
    model, target = _Model(joint, groups, spec, shape, offset), torch.from_numpy((y / mean).astype(np.float32))
    for number in range(_ROUNDS):
        if number:
            model.learn_variances(target)
        _descend(model, target, _LATER if number else _FIRST)
    with torch.no_grad():
        return mean * model.level().exp().double().numpy(), model.effects().double().numpy()


def _descend(model: _Model, target: Tensor, iterations: int) -> None:
    """To the least penalised loss under the present variances."""
    optimiser = torch.optim.LBFGS(
        model.parameters(), max_iter=iterations, history_size=12, line_search_fn="strong_wolfe"
    )

    def closure() -> Tensor:
        optimiser.zero_grad()
        loss = _loss(model.log_mean(), target, model.power) + model.penalty()
        torch.autograd.backward(loss)
        return loss

    optimiser.step(closure)  # type: ignore[no-untyped-call]


def combinations(groups: Contexts) -> tuple[np.ndarray, np.ndarray]:
    """Which observed combination of coarse groups each row has (M,), and the groups of each combination (C, columns)."""
    row = first = np.zeros(len(groups.fine[0][0]), np.int64)
    for codes, size in groups.coarse:  # one by one: all sizes multiplied may be more than fits
        _, first, row = np.unique(row * size + codes, return_index=True, return_inverse=True)
    return row, np.stack([codes[first] for codes, _ in groups.coarse], axis=1)


def _loss(log_mean: Tensor, target: Tensor, power: float) -> Tensor:
    return ((log_mean * (2 - power)).exp() / (2 - power) - target * (log_mean * (1 - power)).exp() / (1 - power)).mean()


class _Model:
    def __init__(
        self, joint: np.ndarray, groups: Contexts, spec: RequestSpec, shape: Shape, offset: np.ndarray | None
    ) -> None:
        table, sizes = spec.joint_table(), spec.shape
        self.power, self.joint = shape.power, torch.from_numpy(joint)
        row, combined = combinations(groups)
        self.combined = torch.from_numpy(combined)
        self.levels = [(torch.from_numpy(codes), _zeros(size)) for codes, size in groups.levels]
        self.tables = []
        for order in range(1, shape.order + 1):
            for chosen in itertools.combinations(range(len(sizes)), order):
                shape_of = [sizes[j] for j in chosen]
                index = np.ravel_multi_index([table[:, j] for j in chosen], shape_of)
                self.tables.append((torch.from_numpy(index), _zeros(math.prod(shape_of))))
        self.by_group = [
            (c, [(torch.from_numpy(np.ascontiguousarray(table[:, j])), _zeros(size, n)) for j, n in enumerate(sizes)])
            for c, (_, size) in enumerate(groups.coarse)
            if shape.interactions
        ]
        self.groups = [torch.from_numpy(combined[row, c]) for c, _ in self.by_group]  # of the rows
        self.cells = [group * len(table) + self.joint for group in self.groups]
        self.own = torch.from_numpy(row * len(table) + joint)  # entry of ``effects``
        self.constant = _zeros(1)
        self.offset = None if offset is None else torch.from_numpy(offset.astype(np.float32))
        self.dispersion = 1.0
        self.variances = [_FREE] * len(self.levels) + [_START] * (len(self.parameters()) - 1 - len(self.levels))

    def parameters(self) -> list[Tensor]:
        return [self.constant, *(one for _, one in self.levels), *(one for _, one in self.tables), *self.interactions]

    @property
    def interactions(self) -> list[Tensor]:
        """Every table of a sub-action per coarse group."""
        return [one for _, tables in self.by_group for _, one in tables]

    def level(self) -> Tensor:
        """(M,)."""
        return self.constant + torch.stack([one.index_select(0, codes) for codes, one in self.levels]).sum(0)

    def effects(self) -> Tensor:
        """(C, A)."""
        found = self._common().expand(len(self.combined), -1)
        for c, of_group in self._of_groups():
            found = found + of_group[self.combined[:, c]]
        return found if self.offset is None else found + self.offset

    def log_mean(self) -> Tensor:
        """(M,), not beyond ±30: entries of ``effects`` are looked up row by row, as there may be far more of them than rows."""
        found = self.level() + self._common().index_select(0, self.joint)
        for cell, (_, of_group) in zip(self.cells, self._of_groups()):
            found = found + of_group.reshape(-1).index_select(0, cell)
        found = found if self.offset is None else found + self.offset.reshape(-1).index_select(0, self.own)
        return found.clamp(-_CLIP, _CLIP)

    def _common(self) -> Tensor:
        """What joint actions have in common over all groups, (A,)."""
        return torch.stack([one[index] for index, one in self.tables]).sum(0)

    def _of_groups(self) -> Iterator[tuple[int, Tensor]]:
        """(column, what joint actions have beside that in each of its groups (groups, A))."""
        for c, tables in self.by_group:
            yield c, torch.stack([one[:, index] for index, one in tables]).sum(0)

    def penalty(self) -> Tensor:
        """−log prior of all numbers but the constant, in units of the mean loss."""
        unit = self.dispersion / (2 * len(self.joint))
        return torch.stack(
            [unit / v * one.square().sum() for v, one in zip(self.variances, self.parameters()[1:])]
        ).sum()

    @torch.no_grad()
    def learn_variances(self, target: Tensor) -> None:
        """From the fit: the noise of ``target`` (M,), and of each table Σ number² over how many numbers the rows decide."""
        log_mean, p = self.log_mean(), self.power
        weight = (2 - p) * ((2 - p) * log_mean).exp() + (p - 1) * target * ((1 - p) * log_mean).exp()
        known = [
            torch.bincount(place, weight, one.numel()) for place, one in zip(self._places(), self.parameters()[1:])
        ]
        decided = [float((k / (k + self.dispersion / v)).sum()) for k, v in zip(known, self.variances)]
        errors = ((target - log_mean.exp()).square() * (-p * log_mean).exp()).sum()
        self.dispersion = max(float(errors) / max(len(target) - sum(decided), 1.0), _LEAST)
        squares = [float(one.square().sum()) for one in self.parameters()[1:]]
        found = [(s + _PRIOR) / (d + 1) for s, d in zip(squares, decided)]
        self.variances[len(self.levels) :] = found[len(self.levels) :]

    def _places(self) -> Iterator[Tensor]:
        """Which number of each table the rows use, (M,), in the order of ``parameters``."""
        yield from (codes for codes, _ in self.levels)
        yield from (index[self.joint] for index, _ in self.tables)
        for group, (_, tables) in zip(self.groups, self.by_group):
            yield from (group * one.shape[1] + index[self.joint] for index, one in tables)


def _zeros(*shape: int) -> Tensor:
    return torch.zeros(*shape, requires_grad=True)
