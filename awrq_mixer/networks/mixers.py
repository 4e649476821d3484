"""Mixers: the agents' values into Q_tot, monotone in each of them."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from awrq_mixer.learner_config import MixerConfig, NetworkConfig
from awrq_mixer.networks.agents import StateNet, mlp
from awrq_mixer.networks.mixing_kernels import EXP_RANGE, mix_elu, mix_relu
from awrq_mixer.networks.space import Space


class VDNMixer(nn.Module):
    """Value decomposition: Q_tot = Σ_g Q_g."""

    def forward(self, q: Tensor, codes: Tensor, numbers: Tensor, actions: Tensor) -> Tensor:
        """``q`` (B, agents) → (B,)."""
        return q.sum(1)

    def table(self, q: list[Tensor], codes: Tensor, numbers: Tensor, sub_actions: Tensor) -> Tensor:
        """Q_tot of all joint actions from each agent's (S, P_g, N_g): (S, A)."""
        total = q[0].flatten(1)
        for one in q[1:]:
            total = _outer_sum(total[..., None], one[..., None])[..., 0]
        return total


class MonotonicMixer(nn.Module):
    """SMC (Eqs. 11–15): Q_tot = act([Q_1..Q_n] W1 + b1) W2 + b2 with W1, W2 > 0 from a hypernetwork.

    QMIX is the same with absolute values in place of softplus.
    """

    offsets: Tensor

    def __init__(self, space: Space, config: MixerConfig, network: NetworkConfig) -> None:
        super().__init__()
        self.agents, self.embed = len(space.agents), config.embed
        self.positive, self.activation = config.weights, config.activation
        self.state = StateNet(space, network, [])
        self.sees_action = config.hypernetwork == "state_action"
        width = network.embedding * len(space.sizes) if self.sees_action else 0
        self.action_embedding = nn.Embedding(sum(space.sizes), network.embedding) if self.sees_action else None
        offsets = torch.tensor([0, *space.sizes[:-1]]).cumsum(0)
        self.register_buffer("offsets", offsets, persistent=False)
        self.hyper, hyper_width = mlp(self.state.width + width, config.hyper_layers, 0.0)
        self.hyper_out = nn.Linear(hyper_width, self.agents * self.embed + 2 * self.embed + 1)

    def forward(self, q: Tensor, codes: Tensor, numbers: Tensor, actions: Tensor) -> Tensor:
        """``q`` (B, agents) → Q_tot (B,); ``actions`` (B, T) matter only to a (state, action) hypernetwork."""
        w1, b1, w2, b2 = self.weights(codes, numbers, actions)
        hidden = self._activate(torch.einsum("bn,bne->be", q, w1) + b1)  # (B, E)
        return (hidden * w2).sum(1) + b2

    def weights(self, codes: Tensor, numbers: Tensor, actions: Tensor | None) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """W1 (B, agents, E), b1 (B, E), W2 (B, E), b2 (B,); both W are positive (Eqs. 11–14)."""
        x = self.state(codes, numbers)
        if self.action_embedding is not None:
            assert actions is not None
            x = torch.cat([x, self.action_embedding(actions + self.offsets).flatten(1)], 1)
        out = self.hyper_out(self.hyper(x)).float()
        n, e = self.agents, self.embed
        w1, b1, w2, b2 = out.split([n * e, e, e, 1], dim=1)
        # Softplus of values near zero is .69: the division keeps Q_tot on the scale of the agents' values at the start.
        return torch.unflatten(self._positive(w1), 1, (n, e)) / n, b1, self._positive(w2) * (2.0 / e), b2[:, 0]

    def table(self, q: list[Tensor], codes: Tensor, numbers: Tensor, sub_actions: Tensor) -> Tensor:
        """Q_tot of all joint actions, (S, A), from each agent's (S, P_g, N_g).

        ``sub_actions`` (A, T) is the joint table. With a state hypernetwork the first layer is made per agent and
        only added per joint action; with (state, action) every pair has weights of its own.
        """
        if self.sees_action:
            return self._table_with_actions(q, codes, numbers, sub_actions)
        w1, b1, w2, b2 = self.weights(codes, numbers, None)
        parts = [one[..., None] * w1[:, None, None, g] for g, one in enumerate(q)]  # each (S, P_g, N_g, E)
        hidden = parts[0].flatten(1, 2) + b1[:, None]  # (S, N_0, E)
        for part in parts[1:-1]:
            hidden = _outer_sum(hidden, part)  # (S, N_0 … N_g, E)
        if len(parts) > 1 and parts[-1].shape[1] == 1 and not (torch.is_grad_enabled() or hidden.is_cuda):
            compiled = self._compiled_table(hidden, parts[-1][:, 0], w2, b2)
            if compiled is not None:
                return compiled
        hidden = _outer_sum(hidden, parts[-1]) if len(parts) > 1 else hidden  # (S, A, E)
        return torch.bmm(self._activate(hidden), w2[..., None])[..., 0] + b2[:, None]

    def _compiled_table(self, left: Tensor, right: Tensor, w2: Tensor, b2: Tensor) -> Tensor | None:
        """The same in one compiled pass; None where its split of the exponential would lose precision."""
        parts = [one.float().contiguous() for one in (left, right)]
        arrays = [one.numpy() for one in (*parts, w2.contiguous(), b2.contiguous())]
        if self.activation == "relu":
            return torch.from_numpy(mix_relu(*arrays))
        if max(float(one.abs().max()) for one in parts) > EXP_RANGE:
            return None
        exponentials = [one.exp().numpy() for one in parts]
        return torch.from_numpy(mix_elu(*arrays[:2], *exponentials, *arrays[2:]))

    def _table_with_actions(self, q: list[Tensor], codes: Tensor, numbers: Tensor, sub_actions: Tensor) -> Tensor:
        size, joint = codes.shape[0], len(sub_actions)
        total = q[0].flatten(1)[..., None]
        columns = [total]
        for one in q[1:]:
            own = one.shape[2]
            columns = [column.repeat_interleave(own, 1) for column in columns]
            columns.append(_outer_sum(torch.zeros_like(columns[0][:, ::own]), one[..., None]))
        stacked = torch.cat(columns, 2).reshape(size * joint, self.agents)
        repeated = sub_actions.repeat(size, 1)
        values: Tensor = self(stacked, codes.repeat_interleave(joint, 0), numbers.repeat_interleave(joint, 0), repeated)
        return values.reshape(size, joint)

    def _positive(self, w: Tensor) -> Tensor:
        return F.softplus(w) if self.positive == "softplus" else w.abs()

    def _activate(self, x: Tensor) -> Tensor:
        return F.relu(x) if self.activation == "relu" else F.elu(x)


class ResidualMixer(MonotonicMixer):
    """The same less its value where all agents say 0, so that agents with nothing to say change nothing."""

    def weights(self, codes: Tensor, numbers: Tensor, actions: Tensor | None) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """As above; b2 takes off Q_tot of zeros."""
        w1, b1, w2, _ = super().weights(codes, numbers, actions)
        return w1, b1, w2, -(self._activate(b1) * w2).sum(1)


def _outer_sum(left: Tensor, right: Tensor) -> Tensor:
    """Sums over joint choices: ``left`` (S, N, E) of the agents so far, ``right`` (S, P, n, E) of the next.

    P is N where the next agent sees the earlier choices, else 1. Returns (S, N · n, E).
    """
    return (left[:, :, None, :] + right).flatten(1, 2)
