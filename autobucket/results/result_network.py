"""The estimator's network: MMoE (shared experts, one gate per task) over a deep & cross network (Appendix B).

Every linear map of the input is applied to its state part and to its action part, and both are added. So the same code
serves rows (M, ·) and all joint actions at once: states (S, 1, ·) are broadcast against actions (1, A, ·), and the
state part is computed once. ``joint_scoring`` does the same with less work, on the CPU.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from autobucket.results.estimator_config import ModelConfig
from marca_common.torch_seeding import OwnInit, SeededDropout


def cross_v2(x0: Tensor, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """x0 ⊙ (W x + b) + x, the matrix cross of DCN-v2; x (…, d), weight (d, d)."""
    return torch.addcmul(x, x0, F.linear(x, weight, bias))


def cross_v1(x0: Tensor, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """x0 (wᵀ x) + b + x, the vector cross of DCN, as in the paper's code; x (…, d), weight (1, d)."""
    return x0 * F.linear(x, weight) + bias + x


class Cross(OwnInit):
    """Weights of one cross layer: (d, d) for v2, (1, d) for v1, and a bias (d,)."""

    def __init__(self, width: int, rows: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(rows, width))
        self.bias = nn.Parameter(torch.zeros(width))

    def reset(self, generator: torch.Generator) -> None:
        """Glorot uniform weights, no bias."""
        nn.init.xavier_uniform_(self.weight, generator=generator)


class DeepCross(nn.Module):
    """Cross layers and hidden layers side by side over one input made of a state and an action part."""

    def __init__(self, config: ModelConfig, state_width: int, action_width: int, dropout: float) -> None:
        super().__init__()
        self.kind, self.state_width = config.cross, state_width
        width = state_width + action_width
        layers = config.cross_layers if config.cross != "none" else 0
        rows = width if config.cross == "v2" else 1
        self.cross = nn.ModuleList(Cross(width, rows) for _ in range(layers))
        sizes = [width, *config.deep]
        self.deep = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(sizes))
        self.dropout = SeededDropout(dropout)
        self.cross_width = width if layers else 0
        self.width = self.cross_width + (sizes[-1] if config.deep else 0)

    def forward(self, state: Tensor, action: Tensor) -> Tensor:
        """Features (…, width) of broadcastable parts state (…, state_width) and action (…, action_width)."""
        outputs = []
        if len(self.cross):
            outputs.append(self.crossed(state, action))
        if len(self.deep):
            first = cast(nn.Linear, self.deep[0])
            outputs.append(self.dropout(self.hidden(self._split(first.weight, state, action) + first.bias)))
        return torch.cat(outputs, dim=-1)

    def crossed(self, state: Tensor, action: Tensor) -> Tensor:
        """Output of the cross layers (…, state_width + action_width); there must be one."""
        shape = torch.broadcast_shapes(state.shape[:-1], action.shape[:-1])  # type: ignore[no-untyped-call]
        x0 = torch.cat([state.expand(*shape, -1), action.expand(*shape, -1)], dim=-1)  # (…, d)
        first, *others = [cast(Cross, layer) for layer in self.cross]
        product = self._split(first.weight, state, action)  # the only product that the parts can share
        if self.kind == "v2":
            x = torch.addcmul(x0, x0, product + first.bias)
        else:
            x = x0 * product + first.bias + x0
        step = cross_v2 if self.kind == "v2" else cross_v1
        for layer in others:
            x = step(x0, x, layer.weight, layer.bias)
        return x

    def hidden(self, first: Tensor) -> Tensor:
        """Output of the hidden layers (…, units of the last) from the first one's, before its ReLU; ``first`` is overwritten."""
        hidden = F.relu_(first)
        for layer in self.deep[1:]:
            hidden = F.relu_(layer(self.dropout(hidden)))
        return hidden

    def _split(self, weight: Tensor, state: Tensor, action: Tensor) -> Tensor:
        return F.linear(state, weight[:, : self.state_width]) + F.linear(action, weight[:, self.state_width :])


class ActionResultModel(nn.Module):
    """Predicts T results of a (state, action) on each task's own scale (see tasks.py)."""

    state_offsets: Tensor
    action_offsets: Tensor
    state_sizes: Tensor
    action_sizes: Tensor

    def __init__(
        self,
        config: ModelConfig,
        state_columns: Sequence[str],
        vocabulary_sizes: Sequence[int],
        n_numeric: int,
        action_columns: Sequence[str],
        action_sizes: Sequence[int],
        gates: Sequence[Sequence[str]],
        dropout: float = 0.0,
    ) -> None:
        """``state_columns``: categorical ones first, then numeric; ``gates``: the columns of each task's gate."""
        super().__init__()
        self.ids, self.n_numeric = config.ids, n_numeric
        plain = config.ids == "standardised"
        state_dims = [1 if plain else config.state_dim] * len(vocabulary_sizes) + [1] * n_numeric
        action_dims = [1 if plain else config.action_dim] * len(action_sizes)
        self.register_buffer("state_offsets", _offsets(vocabulary_sizes))
        self.register_buffer("action_offsets", _offsets(action_sizes))
        self.register_buffer("state_sizes", torch.tensor(list(vocabulary_sizes), dtype=torch.float32))
        self.register_buffer("action_sizes", torch.tensor(list(action_sizes), dtype=torch.float32))
        if not plain:
            self.state_embedding = nn.Embedding(max(sum(vocabulary_sizes), 1), config.state_dim)
            self.action_embedding = nn.Embedding(sum(action_sizes), config.action_dim)
        self.body = DeepCross(config, sum(state_dims), sum(action_dims), dropout)
        self.experts = nn.Linear(self.body.width, config.experts * config.expert_units)
        self.n_experts = config.experts
        self.gate_parts = [
            (_part_index(state_columns, state_dims, names), _part_index(action_columns, action_dims, names))
            for names in gates
        ]
        self.gates = nn.ModuleList(nn.Linear(len(s) + len(a), config.experts) for s, a in self.gate_parts)
        self.towers = nn.ModuleList(_tower(config.expert_units, config.tower) for _ in gates)

    def fits_sizes(self) -> bool:
        """Whether loaded sizes are at least 1, as those of a config are; codes are divided by them."""
        return bool((self.state_sizes >= 1).all() and (self.action_sizes >= 1).all())

    def embed_states(self, codes: Tensor, numbers: Tensor) -> Tensor:
        """Codes int64 (M, categorical columns) and numbers (M, numeric columns) to the state part (M, ds)."""
        if self.ids == "standardised":
            values = codes.to(numbers.dtype) / self.state_sizes
        else:
            values = F.embedding(codes + self.state_offsets, self.state_embedding.weight).flatten(1)
        return torch.cat([values, numbers], dim=1) if self.n_numeric else values

    def embed_actions(self, actions: Tensor) -> Tensor:
        """Sub-actions int64 (M, sub-actions) to the action part (M, da)."""
        if self.ids == "standardised":
            return actions.to(torch.float32) / self.action_sizes
        return F.embedding(actions + self.action_offsets, self.action_embedding.weight).flatten(1)

    def forward(self, state: Tensor, action: Tensor, tasks: Sequence[int] | None = None) -> list[Tensor]:
        """One output (…) per task (or per index in ``tasks``) from broadcastable state and action parts."""
        experts = F.relu_(self.experts(self.body(state, action)))
        experts = experts.view(*experts.shape[:-1], self.n_experts, -1)  # (…, E, U)
        outputs = []
        for t in range(len(self.towers)) if tasks is None else tasks:
            mixed = _mix(experts, self.gate(t, state, action))  # (…, U)
            outputs.append(self.towers[t](mixed).squeeze(-1))
        return outputs

    def gate(self, task: int, state: Tensor, action: Tensor) -> Tensor:
        """Weights of the experts (…, E); parts that the gate does not see stay unexpanded: one of actions is (1, A, E)."""
        in_state, in_action = self.gate_parts[task]
        gate = cast(nn.Linear, self.gates[task])
        weight: Tensor = gate.weight
        logits: Tensor = gate.bias
        if in_state:
            logits = logits + F.linear(state[..., in_state], weight[:, : len(in_state)])
        if in_action:
            logits = logits + F.linear(action[..., in_action], weight[:, len(in_state) :])
        return torch.softmax(logits, dim=-1)


def initialise(model: ActionResultModel, generator: torch.Generator) -> None:
    """Draw all weights: embeddings of a small spread, layers in torch's own bounds, cross layers Glorot uniform."""
    if model.ids == "embedding":
        tables = [model.state_embedding.weight, model.action_embedding.weight]
        for table in tables:
            nn.init.normal_(table, generator=generator)  # thrown away; without it every seed has another network
        for table, spread in zip(tables, (0.05, 0.3)):
            nn.init.normal_(table, std=spread, generator=generator)
    for child in model.modules():
        if isinstance(child, OwnInit):
            child.reset(generator)
        elif isinstance(child, nn.Linear):
            bound = 1 / math.sqrt(child.in_features)
            nn.init.kaiming_uniform_(child.weight, a=math.sqrt(5), generator=generator)
            nn.init.uniform_(child.bias, -bound, bound, generator=generator)


def _mix(experts: Tensor, weights: Tensor) -> Tensor:
    """Σ_e weights_e · experts_e: (…, E, U), (…, E) → (…, U); a loop of fused multiply-adds beats tiny matrix products."""
    mixed = experts[..., 0, :] * weights[..., 0, None]
    for e in range(1, experts.shape[-2]):
        mixed = torch.addcmul(mixed, experts[..., e, :], weights[..., e, None])
    return mixed


def _offsets(sizes: Sequence[int]) -> Tensor:
    return torch.tensor([0, *sizes[:-1]], dtype=torch.int64).cumsum(0)[: len(sizes)]


def _part_index(columns: Sequence[str], dims: Sequence[int], wanted: Sequence[str]) -> list[int]:
    """Positions that the wanted columns occupy in a part made of ``columns`` of widths ``dims``."""
    starts = [sum(dims[:j]) for j in range(len(dims))]
    return [starts[j] + k for j, name in enumerate(columns) if name in wanted for k in range(dims[j])]


def _tower(units: int, hidden: Sequence[int]) -> nn.Sequential:
    layers: list[nn.Module] = []
    for width in hidden:
        layers += [nn.Linear(units, width), nn.ReLU()]
        units = width
    return nn.Sequential(*layers, nn.Linear(units, 1))
