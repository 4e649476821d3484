"""Results of every joint action of a state, without the network's work that joint actions share.

The cross layers are a polynomial of the state and the sub-actions. L layers multiply at most L + 1 factors, so what
depends on the state at all joins at most L sub-actions at a time. Such a function is known everywhere once it is known
where at most L sub-actions differ from the first choice: 116 of 1,000 joint actions with two layers. What does not depend
on the state is computed once for all states.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import combinations
from typing import cast

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from autobucket.results.result_kernels import spread
from autobucket.results.result_network import ActionResultModel


class JointScorer:
    """A network's outputs for all joint actions of states; equal to the network's own up to rounding. CPU, no gradient."""

    def __init__(self, model: ActionResultModel, table: np.ndarray) -> None:
        """``table`` (A, T): the sub-actions of every joint action, in joint-index order."""
        self.model, self.action = model, model.embed_actions(torch.from_numpy(table))[None]  # (1, A, da)
        self.layers = len(model.body.cross)
        width = model.body.cross_width
        self.cross_weight, self.deep_weight = model.experts.weight[:, :width], model.experts.weight[:, width:].T
        self.fixed = model.experts.bias.expand(len(table), -1).contiguous()  # (A, E · U)
        if self.layers:
            self.fixed = self.fixed + self._crossed(torch.zeros(1, 1, model.body.state_width), self.action)[0]
            anchored, self.terms, self.signs = interactions(table, self.layers)
            self.anchored, self.fixed_anchored = self.action[:, anchored], self.fixed[anchored] - model.experts.bias
        if len(model.body.deep):
            first, width = cast(nn.Linear, model.body.deep[0]), model.body.state_width
            self.first_weight = first.weight[:, :width]
            self.first_fixed = F.linear(self.action, first.weight[:, width:], first.bias)  # (1, A, units)

    def __call__(self, state: Tensor, tasks: Sequence[int]) -> list[Tensor]:
        """One output (S, A) per index in ``tasks`` from state parts (S, ds)."""
        state = state[:, None]
        experts = self._cross_part(state)  # (S, A, E · U)
        if len(self.model.body.deep):
            hidden = self.model.body.hidden(F.linear(state, self.first_weight) + self.first_fixed)  # (S, A, units)
            experts.view(-1, experts.shape[-1]).addmm_(hidden.flatten(0, 1), self.deep_weight)
        return self.model.outputs(F.relu_(experts), state, self.action, tasks)

    def _cross_part(self, state: Tensor) -> Tensor:
        """The cross layers' share of the experts' input and their bias, (S, A, E · U)."""
        if not self.layers:
            return self.fixed.repeat(len(state), 1, 1)
        known = self._crossed(state, self.anchored) - self.fixed_anchored  # (S, P, E · U)
        out = np.empty((len(state), *self.fixed.shape), np.float32)
        spread(known.numpy(), self.fixed.numpy(), self.terms, self.signs, out)
        return torch.from_numpy(out)

    def _crossed(self, state: Tensor, action: Tensor) -> Tensor:
        return F.linear(self.model.body.crossed(state, action), self.cross_weight)


def interactions(table: np.ndarray, order: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """How a function of joint actions that joins at most ``order`` sub-actions follows from a few of its values.

    ``table`` (A, T): all joint actions, row-major. Returns the joint actions to evaluate (P,), for every joint action
    their positions among those (A, K), and the factors of the sum (K,): f(a) = Σ_k factor_k · f(evaluated[position_k(a)]).
    """
    steps, sizes = table.shape[1], tuple(table.max(0) + 1)
    order = min(order, steps)
    subsets = [kept for size in range(order + 1) for kept in combinations(range(steps), size)]
    used = [(kept, factor) for kept in subsets if (factor := _factor(len(kept), order, steps))]
    first = [np.where(np.isin(np.arange(steps), kept), table, 0) for kept, _ in used]
    rows = np.stack([np.ravel_multi_index(tuple(part.T), sizes) for part in first], axis=1)  # (A, K)
    evaluated, terms = np.unique(rows, return_inverse=True)
    return evaluated, terms.reshape(rows.shape), np.array([factor for _, factor in used], np.float32)


def _factor(size: int, order: int, steps: int) -> int:
    """Factor of a value with ``size`` sub-actions kept and the others at their first choice."""
    if order == steps:
        return int(size == steps)
    return int((-1) ** (order - size)) * math.comb(steps - size - 1, order - size)
