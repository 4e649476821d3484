"""Results of every joint action of a state, without the network's work that joint actions share.

The cross layers are a polynomial of the state and the sub-actions. L layers multiply at most L + 1 factors, so what
depends on the state at all joins at most L sub-actions at a time. Such a function is known everywhere once it is known
where at most L sub-actions differ from the first choice: 116 of 1,000 joint actions with two layers. What does not depend
on the state is computed once for all states.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from autobucket.results.result_kernels import first_cross, mix, next_cross, relu_pairs, relu_rows, spread
from autobucket.results.result_network import ActionResultModel, Cross

_PAIRS = 4096  # state-action pairs at a time: what is computed of them stays in the cache of a core


class JointScorer:
    """A network's outputs for all joint actions of states; equal to the network's own up to rounding. CPU, no gradient."""

    def __init__(self, model: ActionResultModel, table: np.ndarray) -> None:
        """``table`` (A, T): the sub-actions of every joint action, in joint-index order."""
        self.model, self.action = model, model.embed_actions(torch.from_numpy(table))  # (A, da)
        self.gates = [
            None if in_state else model.gate(t, self.action, self.action).numpy()  # (A, E)
            for t, (in_state, _) in enumerate(model.gate_parts)
        ]
        body = model.body
        self.cross_weight, self.deep_weight = model.experts.weight.T.tensor_split([body.cross_width])
        self.layers = [_numbers(cast(Cross, layer), body.kind) for layer in body.cross]
        if self.layers:
            known, *self.rows = interactions(table, len(self.layers))
            weight, inner, _ = self.layers[0]
            by_action = self.action @ weight[:, body.state_width :].T + torch.from_numpy(inner)
            values = self._crossed(torch.zeros(1, body.state_width), self.action, by_action)[0].numpy()
            self.known_at = self.action[known], by_action[known]
            spread(values[None, known], *self.rows, np.zeros_like(values), follows := np.empty((1, *values.shape), np.float32))
            self.fixed = values - follows[0] + model.experts.bias.numpy()  # (A, E · U), what no state changes
        if len(body.deep):
            first = cast(nn.Linear, body.deep[0])
            self.first_weight = first.weight[:, : body.state_width]
            by_action = F.linear(self.action, first.weight[:, body.state_width :], first.bias)
            self.first_action = by_action.T.contiguous().numpy()  # (units, A)

    def __call__(self, state: Tensor, tasks: Sequence[int]) -> list[Tensor]:
        """One output (S, A) per index in ``tasks`` from state parts (S, ds)."""
        outputs = [torch.empty(len(state), len(self.action)) for _ in tasks]
        crossed = self._crossed(state, *self.known_at) if self.layers else state
        first = F.linear(state, self.first_weight) if len(self.model.body.deep) else state
        step = max(1, _PAIRS // len(self.action))
        for start in range(0, len(state), step):
            rows = slice(start, start + step)
            experts = self._experts(crossed[rows], first[rows])
            for t, out in zip(tasks, outputs):
                out[rows] = self._tower(t, experts, self._gate(t, state[rows])).view(-1, len(self.action))
        return outputs

    def _experts(self, crossed: Tensor, first: Tensor) -> Tensor:
        """The experts before their ReLU (S · A, E · U)."""
        experts = self.model.experts.bias
        if self.layers:
            experts = torch.empty(len(crossed), *self.fixed.shape)
            spread(crossed.numpy(), *self.rows, self.fixed, experts.numpy())
            experts = experts.flatten(0, 1)
        if not len(self.model.body.deep):
            return experts
        hidden = torch.empty(len(self.first_action), len(first), len(self.action))
        relu_pairs(first.numpy(), self.first_action, hidden.numpy())
        hidden = _layers(hidden.flatten(1), self.model.body.deep[1:])  # (units, S · A)
        return torch.addmm(experts, hidden.T, self.deep_weight, out=experts if self.layers else None)

    def _crossed(self, state: Tensor, action: Tensor, by_action: Tensor) -> Tensor:
        """The cross layers' share at states (S, ds) and actions (P, da): (S, P, E · U)."""
        (weight, _, outer), *others = self.layers
        by_state = state @ weight[:, : state.shape[1]].T
        x0, x = first_cross(state.numpy(), action.numpy(), by_state.numpy(), by_action.numpy(), outer)
        x0, x = x0.reshape(-1, x0.shape[2]), x.reshape(-1, x0.shape[2])
        for weight, inner, outer in others:
            next_cross(x, x0, (torch.from_numpy(x) @ weight.T).numpy(), inner, outer)
        return (torch.from_numpy(x) @ self.cross_weight).view(len(state), len(action), -1)

    def _gate(self, task: int, state: Tensor) -> np.ndarray:
        gate = self.gates[task]
        if gate is None:
            weights = self.model.gate(task, state[:, None], self.action[None])
            gate = weights.expand(len(state), len(self.action), -1).flatten(0, 1).numpy()
        return gate

    def _tower(self, task: int, experts: Tensor, gate: np.ndarray) -> Tensor:
        """Outputs (S · A,) of a task."""
        mixed = torch.empty(len(experts), experts.shape[1] // gate.shape[1])
        mix(experts.view(len(experts), gate.shape[1], -1).numpy(), gate, mixed.numpy())
        *hidden, last = [layer for layer in self.model.towers[task] if isinstance(layer, nn.Linear)]
        return torch.mv(_layers(mixed.T, hidden).T, last.weight[0]) + last.bias


def _layers(x: Tensor, layers: Sequence[nn.Linear]) -> Tensor:
    """Columns x (units, N) through linear layers, each with its ReLU."""
    for layer in layers:
        x = layer.weight @ x
        relu_rows(x.numpy(), layer.bias.numpy())
    return x


def _numbers(cross: Cross, kind: str) -> tuple[Tensor, np.ndarray, np.ndarray]:
    """Weight W (d, d) and biases i and o (d,) of a cross layer x0 ⊙ (W x + i) + x + o of either kind."""
    width, bias = len(cross.bias), cross.bias.numpy()
    none = np.zeros_like(bias)
    return cross.weight.expand(width, width), *((bias, none) if kind == "v2" else (none, bias))


def interactions(table: np.ndarray, order: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """How a function of joint actions that joins at most ``order`` sub-actions follows from a few of its values.

    ``table`` (A, T): all joint actions, row-major. Returns those to evaluate (P,), with at most ``order`` sub-actions past
    their first choice, and the rows that ``result_kernels.spread`` adds. A difference is what the sub-actions past their
    first choice add jointly; a value is the sum of the differences of all their subsets, one sub-action after another.
    """
    known = np.flatnonzero((table > 0).sum(1) <= order)
    strides = np.cumprod([1, *table.max(0)[:0:-1] + 1])[::-1]
    row, steps, sums = np.full(len(table), -1), [np.zeros((0, 2), np.int64)], [np.zeros((0, 2), np.int64)]
    row[known] = np.arange(len(known))  # where the sum so far of a joint action's differences is; -1: all of them are 0
    first = np.arange(len(table))[:, None] - table * strides  # (A, T): the joint action with one sub-action's first choice
    for t in range(table.shape[1]):
        changed = known[table[known, t] > 0]
        steps.append(np.stack([row[changed], row[first[changed, t]]], 1))
    made = len(known)
    for t in range(table.shape[1] - 1):
        pairs = np.stack([row[first[:, t]], row], 1)
        row = pairs.max(1)
        both = (table[:, t] > 0) & (pairs >= 0).all(1)
        found, inverse = np.unique(pairs[both], axis=0, return_inverse=True)
        row[both], made = made + inverse.ravel(), made + len(found)
        sums.append(found)
    ends = np.stack([row[first[:, -1]], np.where(table[:, -1] > 0, row, made)], 1)
    return known, np.concatenate(steps), np.concatenate(sums), ends
