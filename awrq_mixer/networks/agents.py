"""Networks of the agents: state embeddings, recurrent cells over sub-steps, K value heads as one matrix product."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from awrq_mixer.learner_config import NetworkConfig
from awrq_mixer.networks.cell_kernels import grow
from awrq_mixer.networks.space import Space
from awrq_mixer.networks.training_cell import training_cell
from marca_common.torch_seeding import Noisy, OwnInit, SeededDropout


class StateEmbedding(Noisy):
    """Categorical codes and standardised numbers to one vector; row 0 of every column is the unseen category."""

    offsets: Tensor

    def __init__(self, space: Space, width: int, oov_rate: float) -> None:
        super().__init__()
        self.table = nn.Embedding(max(sum(space.categories), 1), width)
        offsets = torch.tensor([0, *space.categories[:-1]]).cumsum(0) if space.categories else torch.zeros(0)
        self.register_buffer("offsets", offsets.long(), persistent=False)
        self.oov_rate = oov_rate
        self.width = len(space.categories) * width + space.numeric

    def forward(self, codes: Tensor, numbers: Tensor) -> Tensor:
        """(B, columns) codes and (B, numeric) → (B, width); in training a few codes are shown as unseen."""
        if self.training and self.oov_rate > 0:
            codes = codes * self.drawn(codes.shape, 1 - self.oov_rate, self.table.weight).long()
        embedded = self.table(codes + self.offsets).flatten(1)  # (B, columns · width)
        return torch.cat([embedded, numbers], 1) if numbers.shape[1] else embedded


def mlp(width: int, layers: Sequence[int], dropout: float) -> tuple[nn.Sequential, int]:
    """ReLU layers with dropout, and the width they end in; no layers: the identity."""
    parts: list[nn.Module] = []
    for size in layers:
        parts += [nn.Linear(width, size), nn.ReLU(), SeededDropout(dropout)]
        width = size
    return nn.Sequential(*parts), width


class StateNet(nn.Module):
    """State embedding followed by trunk layers."""

    def __init__(self, space: Space, config: NetworkConfig, layers: Sequence[int] | None = None) -> None:
        super().__init__()
        self.embedding = StateEmbedding(space, config.embedding, config.oov_rate)
        chosen_layers = config.trunk_layers if layers is None else layers
        self.trunk, self.width = mlp(self.embedding.width, chosen_layers, config.dropout)

    def forward(self, codes: Tensor, numbers: Tensor) -> Tensor:
        """(B, columns), (B, numeric) → (B, width)."""
        hidden: Tensor = self.trunk(self.embedding(codes, numbers))
        return hidden


class StateHeads(nn.Module):
    """Heads of the state alone: Q_t(s, ·) for every sub-action, K of each; no head sees an earlier sub-action."""

    def __init__(self, space: Space, config: NetworkConfig) -> None:
        super().__init__()
        self.sizes, self.heads = space.sizes, config.heads
        self.state = StateNet(space, config, config.trunk_layers or [config.hidden, config.hidden])
        self.out = nn.Linear(self.state.width, self.heads * sum(self.sizes))

    def forward(self, codes: Tensor, numbers: Tensor) -> list[Tensor]:
        """One (B, K, n_t) per sub-step."""
        q = self.out(self.state(codes, numbers)).unflatten(1, (self.heads, -1))  # (B, K, Σ n)
        return list(q.split(self.sizes, dim=2))


class RecurrentAgent(OwnInit):
    """One agent: a GRU over its sub-steps (Eq. 7), K heads a sub-step.

    The input of a sub-step is the state and, by their embedding, the earlier sub-actions that it may see. The
    state's part of the input product is made once for all sub-steps; a sub-action's part is a row of a table. The
    first sub-step has no recurrent product because h_0 = 0.
    """

    def __init__(
        self, space: Space, config: NetworkConfig, sizes: tuple[int, ...], before: tuple[int, ...] = ()
    ) -> None:
        """``sizes``: choices of the agent's own sub-actions; ``before``: of earlier agents' that it may see."""
        super().__init__()
        hidden = config.hidden
        self.sizes, self.before, self.heads, self.hidden = sizes, before, config.heads, hidden
        self.sees_own = config.observe != "state"
        self.state = StateNet(space, config)
        self.input = nn.Linear(self.state.width, 3 * hidden)
        self.step_bias = nn.Parameter(torch.zeros(len(sizes) - 1, 3 * hidden))  # sub-step 0 has the input's bias
        seen = (*before, *sizes[:-1]) if self.sees_own else ()
        self.action_tables = nn.ParameterList([nn.Parameter(torch.zeros(n, 3 * hidden)) for n in seen])
        self.recurrent = nn.Linear(hidden, 3 * hidden, bias=False)
        self.candidate_bias = nn.Parameter(torch.zeros(hidden))  # r and z need none beside the input's
        bodies = [mlp(hidden, config.head_layers, config.dropout) for _ in sizes]
        self.bodies = nn.ModuleList([body for body, _ in bodies])
        self.out = nn.ModuleList([nn.Linear(width, self.heads * n) for (_, width), n in zip(bodies, sizes)])

    def reset(self, generator: torch.Generator) -> None:
        """Small tables of sub-actions."""
        for table in self.action_tables:
            nn.init.normal_(table, std=0.1, generator=generator)

    def forward(self, codes: Tensor, numbers: Tensor, earlier: Tensor, actions: Tensor) -> list[Tensor]:
        """Q of every sub-step along the logged sub-actions.

        ``earlier`` (B, len(before)) and ``actions`` (B, T_g) are integer; returns one (B, K, n_t) per sub-step.
        """
        return [self._heads(h, t) for t, h in enumerate(self.hidden_states(codes, numbers, earlier, actions))]

    def last(self, codes: Tensor, numbers: Tensor, earlier: Tensor, actions: Tensor) -> Tensor:
        """Q of the agent's last sub-step only, (B, K, n_T): its value of all its sub-actions together."""
        hidden = self.hidden_states(codes, numbers, earlier, actions)[-1]
        return self._heads(hidden, len(self.sizes) - 1)

    def hidden_states(self, codes: Tensor, numbers: Tensor, earlier: Tensor, actions: Tensor) -> list[Tensor]:
        """h_t of every sub-step, each (B, hidden)."""
        x = self.input(self.state(codes, numbers))  # (B, 3 hidden)
        if self.sees_own:
            for j in range(len(self.before)):
                x = x + self.action_tables[j][earlier[:, j]]
        if x.is_cuda or torch.compiler.is_compiling():
            return self._plain_states(x, actions)
        x = x.float()
        nothing, only = x.new_zeros(1, 3 * self.hidden), torch.zeros_like(actions[:, 0])
        h = training_cell(x, nothing, only, nothing, nothing[:, : self.hidden], self.candidate_bias)
        states = [h]
        for t in range(1, len(self.sizes)):
            table, choice = (self._table(t), actions[:, t - 1]) if self.sees_own else (self.step_bias[t - 1 : t], only)
            h = training_cell(x, table, choice, self.recurrent(h).float(), h, self.candidate_bias)
            states.append(h)
        return states

    def _plain_states(self, x: Tensor, actions: Tensor) -> list[Tensor]:
        """The same by torch's own operations, for other devices and torch's compiler."""
        h = self._first(x)
        states = [h]
        for t in range(1, len(self.sizes)):
            h = self._next(x + self._seen(t, actions), h)
            states.append(h)
        return states

    def tree(self, codes: Tensor, numbers: Tensor) -> Tensor:
        """Head-mean Q of the last sub-step for every combination of visible sub-actions.

        (S, P, N): P combinations of earlier agents' sub-actions (1 if it sees none), N of its own, row-major.
        Prefixes are computed once: a recurrent product belongs to the parent, not to each of its children.
        """
        x = self.input(self.state(codes, numbers))[:, None, :]  # (S, 1, 3 hidden)
        visible = self.sees_own
        for table in list(self.action_tables)[: len(self.before)] if visible else []:
            x = (x[:, :, None, :] + table).flatten(1, 2)  # (S, P, 3 hidden)
        size, earlier = x.shape[:2]
        x = x[:, :, None, :]  # (S, P, 1, 3 hidden): the same for all nodes of a prefix
        h = self._first(x)
        for t in range(1, len(self.sizes)):
            if visible:
                h = self._children(x, h, t)  # (S, P, n_0 … n_{t-1}, hidden)
            else:
                h = self._next(x + self.step_bias[t - 1], h)
        q = self._mean_heads(h, len(self.sizes) - 1)  # (S, P, nodes, n_T)
        if not visible:
            q = q.expand(-1, -1, math.prod(self.sizes[:-1]), -1)
        return q.reshape(size, earlier, math.prod(self.sizes))

    def _children(self, x: Tensor, parents: Tensor, t: int) -> Tensor:
        """Hidden states after each choice of the sub-action before sub-step ``t``: (S, P, M, H) → (S, P, M · n, H)."""
        gates = self.recurrent(parents)  # (S, P, M, 3 hidden)
        if not (torch.is_grad_enabled() or x.is_cuda) and x.dtype == gates.dtype == torch.float32:
            return self._compiled_children(x, gates, parents, t)
        gates = gates[:, :, :, None, :]
        step = x[:, :, :, None, :] + self._table(t)  # (S, P, 1, n, 3 hidden)
        return gru_cell(step, gates, parents[:, :, :, None, :], self.candidate_bias).flatten(2, 3)

    def _compiled_children(self, x: Tensor, gates: Tensor, parents: Tensor, t: int) -> Tensor:
        size, earlier, many, width = parents.shape
        out = x.new_empty(size * earlier, many, self.sizes[t - 1], width)
        parts = (x.flatten(0, 2), self._table(t), gates.flatten(0, 1), parents.flatten(0, 1), self.candidate_bias)
        x_, table, gates_, parents_, bias = (part.detach().contiguous().numpy() for part in parts)
        grow(x_, table, gates_, parents_, bias, out.numpy())
        return torch.unflatten(out, 0, (size, earlier)).flatten(2, 3)

    def _table(self, t: int) -> Tensor:
        """What sub-step ``t`` adds to the input product for each choice of the sub-action before it, (n, 3 hidden)."""
        table: Tensor = self.action_tables[len(self.before) + t - 1]
        return table + self.step_bias[t - 1]

    def _seen(self, t: int, actions: Tensor) -> Tensor:
        if not self.sees_own:
            return self.step_bias[t - 1]
        return nn.functional.embedding(actions[:, t - 1], self._table(t))  # (B, 3 hidden)

    def _first(self, x: Tensor) -> Tensor:
        """The cell from h_0 = 0, which needs no recurrent product."""
        gates, candidate = torch.split(x, [2 * self.hidden, self.hidden], -1)
        r, z = torch.sigmoid(gates).chunk(2, -1)
        n = _tanh(torch.addcmul(candidate, r, self.candidate_bias))
        return n - z * n

    def _next(self, x: Tensor, h: Tensor) -> Tensor:
        return gru_cell(x, self.recurrent(h), h, self.candidate_bias)

    def _heads(self, h: Tensor, t: int) -> Tensor:
        return torch.unflatten(self.out[t](self.bodies[t](h)), -1, (self.heads, self.sizes[t]))  # (B, K, n)

    def _mean_heads(self, h: Tensor, t: int) -> Tensor:
        """Plain mean over heads (Algorithm 2), taken on the weights so that it costs one head."""
        layer: Any = self.out[t]
        weight = layer.weight.unflatten(0, (self.heads, self.sizes[t])).mean(0)  # (n, width)
        bias = layer.bias.unflatten(0, (self.heads, self.sizes[t])).mean(0)
        return nn.functional.linear(self.bodies[t](h), weight, bias)


def _tanh(x: Tensor) -> Tensor:
    """tanh; without gradients by the sigmoid, which torch's CPU kernel computes three times as fast."""
    return torch.tanh(x) if torch.is_grad_enabled() else torch.sigmoid(x.mul_(2)).mul_(2).sub_(1)


def gru_cell(x: Tensor, g: Tensor, h: Tensor, candidate_bias: Tensor) -> Tensor:
    """A GRU cell from its input product ``x`` and recurrent product ``g`` (without bias), gates in torch's order r, z, n."""
    width = h.shape[-1]
    x_gates, x_candidate = torch.split(
        x, [2 * width, width], -1
    )  # split, not slices: their gradient is one concatenation
    g_gates, g_candidate = torch.split(g, [2 * width, width], -1)
    r, z = torch.sigmoid(x_gates + g_gates).chunk(2, -1)
    n = _tanh(torch.addcmul(x_candidate, r, g_candidate + candidate_bias))
    return torch.lerp(n, h, z)


def initialise(module: nn.Module, kind: str, generator: torch.Generator) -> None:
    """Draw all weights from ``generator``: Glorot uniform (Table 6) or torch's own bounds; biases zero, tables small."""
    for child in module.modules():
        if isinstance(child, OwnInit):
            child.reset(generator)
        elif isinstance(child, nn.Linear):
            fan_out, fan_in = child.weight.shape
            bound = math.sqrt(6 / (fan_in + fan_out)) if kind == "glorot_uniform" else 1 / math.sqrt(fan_in)
            nn.init.uniform_(child.weight, -bound, bound, generator=generator)
            if child.bias is not None:
                nn.init.zeros_(child.bias)
        elif isinstance(child, nn.Embedding):
            nn.init.normal_(child.weight, std=0.1, generator=generator)
