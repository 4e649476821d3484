"""awrq_plus, our own: log Q is a level of the state plus an action surface, and a denser signal teaches the surface.

Observes the state and, in training, revenue and a *surrogate*: an observed column that is less noisy than revenue (the
ranker's own estimate of what it showed). Both are modelled with a log link,

    log E[surrogate | s, a] = level'(s) + g(a)        + u(s) · v(a)
    log Q(s, a)             = level(s)  + g(a) + c(a) + u(s) · v(a)

so that revenue pays only for its own level and for c(a), a correction per sub-action of what the surrogate gets wrong.
g and v are sums of one table per sub-action (the stages' own parts) and one per pair of them; u(s) is small at the
start, so that states begin with the global profile. ``members`` such models are averaged in the log domain.
"""

from __future__ import annotations

import itertools
import math

import torch
from torch import Tensor, nn

from awrq_mixer.config import NetworkConfig, PlusConfig
from awrq_mixer.data import Batch
from awrq_mixer.learners.base import Learner
from awrq_mixer.networks import OwnInit, SeededDropout, Space


class AWRQPlus(Learner):
    """Low-rank log surfaces with a shared surrogate; without a surrogate, revenue alone teaches everything."""

    def build(self) -> nn.Module:
        """All members in one batched network."""
        return SurfaceNet(self.space, self.config.network, self.config.plus, self.joint)

    def loss(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """Mean loss on revenue plus the weighted one on the surrogate, summed over members."""
        joint = (batch.actions * self.online.strides).sum(1)
        revenue, surrogate = self.online(batch.codes, batch.numbers, joint)  # (members, B) each
        tot = self.fit_to(revenue, batch.reward).mean(1).sum()
        loss = tot
        if self.config.plus.surrogate:
            loss = loss + self.surrogate_loss(surrogate, batch).mean(1).sum()
        return loss, {"tot": tot.detach() / self.config.plus.members}

    def raw_table(self, codes: Tensor, numbers: Tensor) -> Tensor:
        """Mean over members of log Q: one matrix product of states' and actions' factors, (S, A)."""
        return self.online.table(codes, numbers)


class Surface(OwnInit):
    """Factors of joint actions, (members, A, width): a table per sub-action, and one per pair where asked for."""

    def __init__(
        self, sizes: tuple[int, ...], joint: Tensor, members: int, width: int, pairs: bool, std: float
    ) -> None:
        super().__init__()
        columns = [(joint[:, t], n) for t, n in enumerate(sizes)]
        if pairs:
            for i, j in itertools.combinations(range(len(sizes)), 2):
                columns.append((joint[:, i] * sizes[j] + joint[:, j], sizes[i] * sizes[j]))
        self.rows = [rows for rows, _ in columns]
        self.tables = nn.ParameterList([nn.Parameter(torch.zeros(members, n, width)) for _, n in columns])
        self.single, self.std = len(sizes), std

    def reset(self, generator: torch.Generator) -> None:
        """Normal draws, smaller for pairs."""
        for k, table in enumerate(self.tables):
            nn.init.normal_(table, std=self.std * (1.0 if k < self.single else 0.3), generator=generator)

    def forward(self) -> Tensor:
        """(members, A, width)."""
        parts = [table[:, rows.to(table.device)] for table, rows in zip(self.tables, self.rows)]
        return torch.stack(parts).sum(0)


class SurfaceNet(OwnInit):
    """Levels and factors of states by a small network per member; global profile, correction and factors of actions."""

    strides: Tensor
    offsets: Tensor

    def __init__(self, space: Space, network: NetworkConfig, plus: PlusConfig, joint: Tensor) -> None:
        super().__init__()
        m, h, sizes = plus.members, network.hidden, space.sizes
        strides = [math.prod(sizes[t + 1 :]) for t in range(len(sizes))]
        self.register_buffer("strides", torch.tensor(strides), persistent=False)
        self.register_buffer("offsets", torch.tensor([0, *space.categories]).cumsum(0)[:-1], persistent=False)
        rows, width = max(sum(space.categories), 1), len(space.categories) * network.embedding + space.numeric
        self.embedding = nn.Parameter(torch.zeros(m, rows, network.embedding))
        self.level = nn.Parameter(torch.zeros(m, rows, 2))
        self.weights = nn.ParameterList([torch.zeros(m, width, h), torch.zeros(m, h, h), torch.zeros(m, h, 2)])
        self.biases = nn.ParameterList([torch.zeros(m, 1, h), torch.zeros(m, 1, h), torch.zeros(m, 1, 2)])
        self.factors = nn.Parameter(torch.zeros(m, h, plus.rank))
        self.profile = Surface(sizes, joint, m, 2, plus.pairs, 0.01)
        self.correction = Surface(sizes, joint, m, 1, False, 0.0)
        self.actions = Surface(sizes, joint, m, plus.rank, plus.pairs, 0.3)
        self.dropout = SeededDropout(network.dropout)
        self.shared, self.oov_rate = plus.shared_profile and plus.surrogate is not None, network.oov_rate
        self.generator: torch.Generator | None = None

    def reset(self, generator: torch.Generator) -> None:
        """Glorot weights; factors of states near zero, so that training begins at the global profile."""
        nn.init.normal_(self.embedding, std=0.1, generator=generator)
        nn.init.normal_(self.factors, std=0.01, generator=generator)
        for weight in self.weights:
            bound = math.sqrt(6 / (weight.shape[1] + weight.shape[2]))
            nn.init.uniform_(weight, -bound, bound, generator=generator)
        nn.init.zeros_(self.weights[2])

    def forward(self, codes: Tensor, numbers: Tensor, joint: Tensor) -> tuple[Tensor, Tensor]:
        """Raw revenue and raw surrogate of logged joint actions (B,): two (members, B)."""
        level, u = self.states(codes, numbers)
        shape = (u * self.actions()[:, joint]).sum(2)
        profile = self.profiles()[:, joint]
        return level[..., 0] + profile[..., 0] + shape, level[..., 1] + profile[..., 1] + shape

    def table(self, codes: Tensor, numbers: Tensor) -> Tensor:
        """Raw revenue of all joint actions, mean over members, (S, A)."""
        level, u = self.states(codes, numbers)
        members, size, rank = u.shape
        left = u.transpose(0, 1).reshape(size, members * rank) / members
        right = self.actions().transpose(1, 2).reshape(members * rank, -1)
        return level[..., 0].mean(0)[:, None] + self.profiles()[..., 0].mean(0) + left @ right

    def profiles(self) -> Tensor:
        """Global profile of revenue and of the surrogate, (members, A, 2)."""
        own = self.profile()
        if not self.shared:
            return own
        return torch.cat([own[..., 1:] + self.correction(), own[..., 1:]], 2)

    def states(self, codes: Tensor, numbers: Tensor) -> tuple[Tensor, Tensor]:
        """Levels (members, S, 2) and factors (members, S, rank)."""
        if self.training and self.oov_rate > 0:
            seen = torch.empty(codes.shape, device=codes.device).bernoulli_(1 - self.oov_rate, generator=self.generator)
            codes = codes * seen.long()
        rows = codes + self.offsets
        x = self.embedding[:, rows].flatten(2)  # (members, S, columns · width)
        x = torch.cat([x, numbers.expand(len(x), -1, -1)], 2)
        for weight, bias in zip(self.weights[:2], self.biases[:2]):
            x = torch.relu(torch.baddbmm(bias, x, weight))
        x = self.dropout(x)
        level = self.level[:, rows].sum(2) + torch.baddbmm(self.biases[2], x, self.weights[2])
        return level, torch.bmm(x, self.factors)
