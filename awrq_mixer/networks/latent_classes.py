"""Latent classes of states: a gate that guesses a state's class from its columns, and what logged rows say about it.

Every class has a log surface over joint actions. A state belongs to one class; the network sees its columns, the log holds what
happened in it before. On a log scale rows of a state are Gaussian around level + surface. The state's random level is integrated
out, so the posterior over classes is a softmax of sums over rows.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from awrq_mixer.learner_config import NetworkConfig, PlusConfig
from awrq_mixer.networks.space import Space
from marca_common.torch_seeding import OwnInit, SeededDropout


@dataclass
class Evidence:
    """Precision-weighted sums of residuals from every class, (members, rows or states, classes); last two (…, 1)."""

    first: Tensor  # Σ e/σ²
    second: Tensor  # Σ e²/σ²
    precision: Tensor  # Σ 1/σ²
    log_precision: Tensor  # Σ log 1/σ²

    def parts(self) -> list[Tensor]:
        """The four sums."""
        return [self.first, self.second, self.precision, self.log_precision]

    def by_state(self, state: Tensor, states: int) -> Evidence:
        """Sums over the rows of each state; ``state`` (rows,)."""
        return Evidence(*(x.new_zeros(len(x), states, x.shape[2]).index_add(1, state, x) for x in self.parts()))

    def without(self, rows: Evidence, state: Tensor) -> Evidence:
        """For each row, what the other rows of its state say."""
        return Evidence(*(mine[:, state] - own for mine, own in zip(self.parts(), rows.parts())))

    def log_likelihood(self, state_precision: Tensor) -> Tensor:
        """Of the rows under each class, the state's random level integrated out, (members, states, classes)."""
        explained = self.first**2 / (self.precision + state_precision)
        return 0.5 * (self.log_precision - self.second + explained - torch.log1p(self.precision / state_precision))

    def level(self, state_precision: Tensor) -> Tensor:
        """Posterior mean of the state's random level under each class."""
        return self.first / (self.precision + state_precision)


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


class ClassNet(OwnInit):
    """Gate, class surfaces and levels of ``members`` models side by side."""

    offsets: Tensor

    def __init__(self, space: Space, network: NetworkConfig, plus: PlusConfig, joint: Tensor) -> None:
        super().__init__()
        m, h, k, sizes = plus.members, network.hidden, plus.classes, space.sizes
        self.register_buffer("offsets", torch.tensor([0, *space.categories]).cumsum(0)[:-1], persistent=False)
        rows, width = max(sum(space.categories), 1), len(space.categories) * network.embedding + space.numeric
        self.embedding = nn.Parameter(torch.zeros(m, rows, network.embedding))
        shapes = [(width, h), (h, h), (h, k)]
        self.weights = nn.ParameterList([nn.Parameter(torch.zeros(m, *shape)) for shape in shapes])
        self.biases = nn.ParameterList([nn.Parameter(torch.zeros(m, 1, shape[1])) for shape in shapes])
        self.levels = nn.Parameter(torch.zeros(m, rows, 2))  # of the signal, of revenue
        self.slopes = nn.Parameter(torch.zeros(m, space.numeric, 2))
        self.bias = nn.Parameter(torch.zeros(m, 1, 1))  # of revenue
        self.coefficients = nn.Parameter(torch.zeros(m, k, plus.rank))
        self.class_level = nn.Parameter(torch.zeros(m, k, 1))
        self.actions = Surface(sizes, joint, m, plus.rank, plus.pairs, 0.3)
        self.profile = Surface(sizes, joint, m, 1, plus.pairs, 0.01)
        self.correction = Surface(sizes, joint, m, 1, False, 0.0)
        self.log_noise = Surface(sizes, joint, m, 1, False, 0.0)
        self.log_variance = nn.Parameter(torch.zeros(m, 1, 2))  # of a row, of a state's level
        self.dropout, self.oov_rate = SeededDropout(network.dropout), network.oov_rate
        self.generator: torch.Generator | None = None

    def reset(self, generator: torch.Generator) -> None:
        """Glorot weights; classes that differ, around one profile."""
        nn.init.normal_(self.embedding, std=0.3, generator=generator)
        nn.init.normal_(self.coefficients, std=0.3, generator=generator)
        nn.init.constant_(self.log_variance, math.log(0.2))
        for weight in self.weights:
            bound = math.sqrt(6 / (weight.shape[1] + weight.shape[2]))
            nn.init.uniform_(weight, -bound, bound, generator=generator)

    def hide(self, codes: Tensor) -> Tensor:
        """In training a few codes are shown as unseen, so that the unseen row learns."""
        if not (self.training and self.oov_rate > 0):
            return codes
        seen = torch.empty(codes.shape, device=codes.device).bernoulli_(1 - self.oov_rate, generator=self.generator)
        return codes * seen.long()

    def gate(self, codes: Tensor, numbers: Tensor) -> Tensor:
        """Log shares of the classes by a state's columns alone, (members, S, classes)."""
        x = self.embedding[:, codes + self.offsets].flatten(2)  # (members, S, columns · width)
        x = torch.cat([x, numbers.expand(len(x), -1, -1)], 2)
        for weight, bias in zip(self.weights[:2], self.biases[:2]):
            x = torch.relu(torch.baddbmm(bias, x, weight))
        return torch.log_softmax(torch.baddbmm(self.biases[2], self.dropout(x), self.weights[2]), 2)

    def surfaces(self) -> Tensor:
        """Log surface of every class, (members, classes, A)."""
        own: Tensor = self.coefficients @ self.actions().transpose(1, 2) + self.profile().transpose(1, 2)
        return own + self.class_level

    def level(self, codes: Tensor, numbers: Tensor) -> Tensor:
        """Log level of the signal and of revenue by a state's columns, (members, S, 2)."""
        return self.levels[:, codes + self.offsets].sum(2) + numbers @ self.slopes

    def evidence(self, codes: Tensor, numbers: Tensor, joint: Tensor, signal: Tensor, at: Tensor) -> Evidence:
        """What each row says: its signal (B,) on a log scale, the surfaces ``at`` its action (members, B, classes)."""
        log_precision = -(self.log_variance[..., :1] + self.log_noise()[:, joint])  # (members, B, 1)
        precision = log_precision.exp()
        residual = signal[:, None] - self.level(codes, numbers)[..., :1] - at
        weighted = residual * precision
        return Evidence(weighted, weighted * residual, precision, log_precision)

    @property
    def state_precision(self) -> Tensor:
        """1/τ² of a state's random level, (members, 1, 1)."""
        return torch.exp(-self.log_variance[..., 1:])
