"""Results of every joint action of a state, without the network's work that joint actions share.

The cross layers are a polynomial of the state and the sub-actions. L layers multiply at most L + 1 factors, so what
depends on the state at all joins at most L sub-actions at a time. Such a function is known everywhere once it is known
where at most L sub-actions differ from the first choice: 116 of 1,000 joint actions with two layers. What does not depend
on the state is computed once for all states.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import cast

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from autobucket.results.result_kernels import first_cross, mix, next_cross, relu_pairs, relu_rows, spread
from autobucket.results.result_network import ActionResultModel, Cross


class JointScorer:
    """A network's outputs for all joint actions of states; equal to the network's own up to rounding. CPU, no gradient."""

    def __init__(self, model: ActionResultModel, table: np.ndarray) -> None:
        """``table`` (A, T): the sub-actions of every joint action, in joint-index order."""
        self.model, body = model, model.body
        self.kept: dict[str, Tensor] = {}  # memory that calls use again; fresh pages cost as much as the work
        self.action = action = model.embed_actions(torch.from_numpy(table))  # (A, da)
        self.gates = {  # (1, A, E) of the tasks whose gate sees no state
            t: model.gate(t, action, action).expand(1, len(table), -1)
            for t, (seen, _) in enumerate(model.gate_parts)
            if not seen
        }
        self.cross_weight, self.deep_weight = model.experts.weight.T.tensor_split([body.cross_width])
        self.layers = [_numbers(cast(Cross, layer), body.kind) for layer in body.cross]
        known, self.steps, self.sums, self.ends = interactions(table, len(self.layers))
        self.known = self._by_action(action[known])
        values = self._crossed(torch.zeros(1, body.state_width), *self._by_action(action))[0].numpy()
        rows = np.zeros((len(known) + len(self.sums) + 1, values.shape[1]), np.float32)
        spread(values[known], self.steps, self.sums, rows)
        self.fixed = values - rows[self.ends].sum(1) + model.experts.bias.numpy()  # (A, E · U), what no state changes
        if len(body.deep):
            first = cast(nn.Linear, body.deep[0])
            self.first_weight = first.weight[:, : body.state_width]
            self.first_action = F.linear(action, first.weight[:, body.state_width :], first.bias).T.contiguous().numpy()

    def __call__(self, state: Tensor, tasks: Sequence[int]) -> list[Tensor]:
        """One output (S, A) per index in ``tasks`` from state parts (S, ds)."""
        crossed = self._crossed(state, *self.known).numpy()
        gates, deep = self._gates(state, tasks), self._deep(state)
        mixed = self._memory("mixed", len(tasks), *deep.shape[:2], deep.shape[2] // gates.shape[-1])
        mix(deep, self.fixed, crossed, self.steps, self.sums, self.ends, gates, mixed.numpy())
        return [self._tower(t, one).view(len(state), -1) for t, one in zip(tasks, mixed)]

    def _gates(self, state: Tensor, tasks: Sequence[int]) -> np.ndarray:
        """Weights of the experts (tasks, S or 1, A, E)."""
        gates = [self.gates[t] if t in self.gates else self.model.gate(t, state[:, None], self.action) for t in tasks]
        shape = max(map(len, gates)), len(self.action), -1
        return torch.stack([gate.expand(shape) for gate in gates]).numpy()

    def _deep(self, state: Tensor) -> np.ndarray:
        """The hidden layers' share of the experts (S, A, E · U)."""
        if not len(self.model.body.deep):
            return np.zeros((len(state), *self.fixed.shape), np.float32)
        hidden = self._memory("first", len(self.first_action), len(state), len(self.action))
        relu_pairs(F.linear(state, self.first_weight).numpy(), self.first_action, hidden.numpy())
        hidden = self._layers("deep", hidden.flatten(1), list(self.model.body.deep)[1:])  # (units, S · A)
        out = self._memory("experts", hidden.shape[1], self.fixed.shape[1])
        return torch.mm(hidden.T, self.deep_weight, out=out).view(len(state), *self.fixed.shape).numpy()

    def _by_action(self, action: Tensor) -> tuple[Tensor, Tensor]:
        """Actions (P, da) and their share of the first cross layer's product (P, d), if there is one."""
        if not self.layers:
            return action, action
        weight, inner, _ = self.layers[0]
        return action, F.linear(action, weight[:, -action.shape[1] :], torch.from_numpy(inner))

    def _crossed(self, state: Tensor, action: Tensor, by_action: Tensor) -> Tensor:
        """The cross layers' share of the experts at states (S, ds) and actions (P, da): (S, P, E · U)."""
        if not self.layers:
            return torch.zeros(len(state), len(action), self.model.experts.out_features)
        (weight, _, outer), *others = self.layers
        by_state = F.linear(state, weight[:, : state.shape[1]])
        x0, x = first_cross(state.numpy(), action.numpy(), by_state.numpy(), by_action.numpy(), outer)
        for weight, inner, outer in others:
            next_cross(x, x0, (torch.from_numpy(x) @ weight.T).numpy(), inner, outer)
        return (torch.from_numpy(x) @ self.cross_weight).view(len(state), len(action), -1)

    def _tower(self, task: int, mixed: Tensor) -> Tensor:
        """Outputs (S · A,) of a task from its mixed experts (S, A, U)."""
        *hidden, last = [
            layer for layer in cast(nn.Sequential, self.model.towers[task]) if isinstance(layer, nn.Linear)
        ]
        return last.weight[0] @ self._layers("tower", mixed.flatten(0, 1).T, hidden) + last.bias

    def _layers(self, name: str, x: Tensor, layers: Sequence[nn.Module]) -> Tensor:
        """Columns x (units, N) through linear layers, each with its ReLU."""
        for depth, layer in enumerate(layers):
            linear = cast(nn.Linear, layer)
            x = torch.mm(linear.weight, x, out=self._memory(f"{name} {depth}", linear.out_features, x.shape[1]))
            relu_rows(x.numpy(), linear.bias.numpy())
        return x

    def _memory(self, name: str, *shape: int) -> Tensor:
        """A tensor that holds anything and is overwritten by the next call."""
        size = math.prod(shape)
        if name not in self.kept or len(self.kept[name]) < size:
            self.kept[name] = torch.empty(size)
        return self.kept[name][:size].view(shape)


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
    first = np.arange(len(table))[:, None] - table * strides  # (A, T): with the first choice of one sub-action
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
    ends = np.stack([row[first[:, -1]], np.where((table[:, -1] > 0) & (row >= 0), row, made)], 1)
    return known, np.concatenate(steps), np.concatenate(sums), ends
