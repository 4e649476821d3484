"""Latent classes of states: a gate that guesses a state's class from its columns, and what logged rows say about it.

Every class has log surfaces over joint actions. A state belongs to one class; the network sees its columns, the log holds what
happened in it before. A logged *signal* has up to two parts: how often something happens (a count, Poisson) and how large it
is where it does (a size, Gaussian on a log scale). Each part has surfaces and a random level per state of its own. Levels
are integrated out in closed form, so the posterior over classes is a softmax of sums over rows.
"""

from __future__ import annotations

import itertools
import math
from abc import ABC, abstractmethod
from dataclasses import dataclass, fields
from typing import TypeVar

import torch
from torch import Tensor, nn

from awrq_mixer.learner_config import NetworkConfig, PlusConfig
from awrq_mixer.networks.space import Space
from marca_common.torch_seeding import Noisy, OwnInit, SeededDropout

S = TypeVar("S", bound="Sums")


@dataclass
class Sums(ABC):
    """What rows, or states, say of every class through one part of a signal: sums that add up over rows."""

    def by_state(self: S, state: Tensor, states: int) -> S:
        """Sums over the rows of each state; ``state`` (rows,)."""
        parts = (getattr(self, one.name) for one in fields(self))
        return type(self)(*(x.new_zeros(len(x), states, x.shape[2]).index_add(1, state, x) for x in parts))

    def without(self: S, rows: S, state: Tensor) -> S:
        """For each row, what the other rows of its state say."""
        names = [one.name for one in fields(self)]
        return type(self)(*(getattr(self, name)[:, state] - getattr(rows, name) for name in names))

    def plus(self: S, other: S) -> S:
        """Two sums added."""
        return type(self)(*(getattr(self, one.name) + getattr(other, one.name) for one in fields(self)))

    def take(self: S, rows: Tensor) -> S:
        """The given rows (M,)."""
        return type(self)(*(getattr(self, one.name)[:, rows] for one in fields(self)))

    @abstractmethod
    def log_likelihood(self, prior: Tensor) -> Tensor:
        """Of the rows under each class, the state's random level integrated out, (members, states, classes)."""

    @abstractmethod
    def level(self, prior: Tensor) -> Tensor:
        """Log of the posterior mean of the state's random factor under each class, (members, states, classes)."""


@dataclass
class SizeSums(Sums):
    """Precision-weighted residuals from every class, (members, rows or states, classes); the last two (…, 1).

    A state's log level is Gaussian around 0 with the precision ``prior``.
    """

    first: Tensor  # Σ e/σ²
    second: Tensor  # Σ e²/σ²
    precision: Tensor  # Σ 1/σ²
    log_precision: Tensor  # Σ log 1/σ²

    def log_likelihood(self, prior: Tensor) -> Tensor:
        explained = self.first**2 / (self.precision + prior)
        return 0.5 * (self.log_precision - self.second + explained - torch.log1p(self.precision / prior))

    def level(self, prior: Tensor) -> Tensor:
        return (self.first + 0.5) / (self.precision + prior)  # E exp(δ): half the posterior variance on top


@dataclass
class CountSums(Sums):
    """Counts against every class' rates, (members, rows or states, classes); the last (…, 1).

    A state's rate factor is Gamma distributed around 1 with the shape ``prior``.
    """

    log_rate: Tensor  # Σ y log μ
    rate: Tensor  # Σ μ
    count: Tensor  # Σ y

    def log_likelihood(self, prior: Tensor) -> Tensor:
        shape = prior + self.count
        normal = torch.lgamma(shape) - torch.lgamma(prior) + prior * prior.log()
        return self.log_rate + normal - shape * (prior + self.rate.clamp_min(0)).log()

    def level(self, prior: Tensor) -> Tensor:
        return (prior + self.count).log() - (prior + self.rate.clamp_min(0)).log()


class Surface(OwnInit):
    """Factors of joint actions, (members, A, width): a table per sub-action, per pair, …, up to ``order`` of them."""

    def __init__(self, sizes: tuple[int, ...], joint: Tensor, members: int, width: int, order: int, std: float) -> None:
        super().__init__()
        counts: list[int] = []
        for number in range(1, order + 1):
            for chosen in itertools.combinations(range(len(sizes)), number):
                row = torch.zeros_like(joint[:, 0])
                for t in chosen:
                    row = row * sizes[t] + joint[:, t]
                self.register_buffer(f"row_{len(counts)}", row, persistent=False)  # of each joint action, (A,)
                counts.append(math.prod(sizes[t] for t in chosen))
        self.tables = nn.ParameterList([nn.Parameter(torch.zeros(members, n, width)) for n in counts])
        self.single, self.std = len(sizes), std

    def reset(self, generator: torch.Generator) -> None:
        """Normal draws, smaller for more than one sub-action."""
        for k, table in enumerate(self.tables):
            nn.init.normal_(table, std=self.std * (1.0 if k < self.single else 0.3), generator=generator)

    def forward(self) -> Tensor:
        """(members, A, width)."""
        return self.by_table().sum(0)

    def by_table(self, joint: Tensor | None = None) -> Tensor:
        """What each table adds for the joint actions ``joint`` (B,), all of them by default: (tables, members, B, width)."""
        rows = [self.get_buffer(f"row_{k}") for k in range(len(self.tables))]
        return torch.stack([table[:, one if joint is None else one[joint]] for table, one in zip(self.tables, rows)])

    def pair_tables(self) -> list[Tensor]:
        """Tables of more than one sub-action, (members, n, width) each."""
        return list(self.tables)[self.single :]


def profile_order(plus: PlusConfig) -> int:
    """Highest order of the common profile's tables: triples need a side column, revenue alone is too noisy for them."""
    return 1 if not plus.pairs else 2 if plus.surrogate is None else 3


class Part(OwnInit):
    """One part of a signal: log surfaces of the classes around one profile, and a level by a state's columns."""

    def __init__(self, space: Space, plus: PlusConfig, joint: Tensor, rows: int) -> None:
        super().__init__()
        m, k, sizes = plus.members, plus.classes, space.sizes
        self.coefficients = nn.Parameter(torch.zeros(m, k, plus.rank))
        self.class_level = nn.Parameter(torch.zeros(m, k, 1))
        self.levels = nn.Parameter(torch.zeros(m, rows, 1))
        self.slopes = nn.Parameter(torch.zeros(m, space.numeric, 1))
        self.actions = Surface(sizes, joint, m, plus.rank, 2 if plus.pairs else 1, 0.3)
        self.profile = Surface(sizes, joint, m, 1, profile_order(plus), 0.01)

    def reset(self, generator: torch.Generator) -> None:
        """Classes that differ, around one profile."""
        nn.init.normal_(self.coefficients, std=0.3, generator=generator)

    def surfaces(self) -> Tensor:
        """Log surface of every class, (members, classes, A)."""
        own: Tensor = self.coefficients @ self.actions().transpose(1, 2) + self.profile().transpose(1, 2)
        return own + self.class_level

    def level(self, places: Tensor, numbers: Tensor) -> Tensor:
        """Log level by a state's columns, (members, S, 1); ``places`` (S, columns) rows of the tables."""
        return self.levels[:, places].sum(2) + numbers @ self.slopes


class SizePart(Part):
    """Logarithms of sizes are Gaussian; their spread depends on the sub-actions."""

    def __init__(self, space: Space, plus: PlusConfig, joint: Tensor, rows: int) -> None:
        super().__init__(space, plus, joint, rows)
        self.log_noise = Surface(space.sizes, joint, plus.members, 1, 1, 0.0)
        self.log_variance = nn.Parameter(torch.zeros(plus.members, 1, 2))  # of a row, of a state's level

    def reset(self, generator: torch.Generator) -> None:
        """As any part; variances of a fifth."""
        super().reset(generator)
        nn.init.constant_(self.log_variance, math.log(0.2))

    def evidence(self, log_size: Tensor, level: Tensor, joint: Tensor, at: Tensor, there: Tensor) -> SizeSums:
        """What each row says: ``log_size`` (B,), ``at`` its action (members, B, classes); nothing where not ``there`` (B,)."""
        log_precision = -(self.log_variance[..., :1] + self.log_noise()[:, joint]) * there[:, None]  # (members, B, 1)
        precision = log_precision.exp() * there[:, None]
        residual = log_size[:, None] - level - at
        weighted = residual * precision
        return SizeSums(weighted, weighted * residual, precision, log_precision)

    @property
    def prior(self) -> Tensor:
        """1/τ² of a state's random level, (members, 1, 1)."""
        return torch.exp(-self.log_variance[..., 1:])


class CountPart(Part):
    """Counts are Poisson; a state's rate has a Gamma factor."""

    def __init__(self, space: Space, plus: PlusConfig, joint: Tensor, rows: int) -> None:
        super().__init__(space, plus, joint, rows)
        self.log_shape = nn.Parameter(torch.zeros(plus.members, 1, 1))

    def reset(self, generator: torch.Generator) -> None:
        """As any part; a factor with a variance of a fifth."""
        super().reset(generator)
        nn.init.constant_(self.log_shape, math.log(5.0))

    def evidence(self, count: Tensor, level: Tensor, at: Tensor) -> CountSums:
        """What each row says: ``count`` (B,), ``level`` (members, B, 1), ``at`` its action (members, B, classes)."""
        log_rate = level + at
        return CountSums(count[:, None] * log_rate, log_rate.exp(), count[None, :, None].expand(len(at), -1, 1))

    @property
    def prior(self) -> Tensor:
        """Shape of the Gamma factor, (members, 1, 1)."""
        return self.log_shape.exp()


class ClassNet(OwnInit, Noisy):
    """Gate, surfaces and levels of ``members`` models side by side."""

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
        self.size = SizePart(space, plus, joint, rows)
        self.count = CountPart(space, plus, joint, rows) if plus.surrogate else None
        self.levels = nn.Parameter(torch.zeros(m, rows, 1))  # of revenue
        self.slopes = nn.Parameter(torch.zeros(m, space.numeric, 1))
        self.bias = nn.Parameter(torch.zeros(m, 1, 1))
        self.correction = Surface(sizes, joint, m, 1, 1, 0.0)
        self.dropout, self.oov_rate = SeededDropout(network.dropout), network.oov_rate

    def reset(self, generator: torch.Generator) -> None:
        """Glorot weights of the gate."""
        nn.init.normal_(self.embedding, std=0.3, generator=generator)
        for weight in self.weights:
            bound = math.sqrt(6 / (weight.shape[1] + weight.shape[2]))
            nn.init.uniform_(weight, -bound, bound, generator=generator)

    def hide(self, codes: Tensor) -> Tensor:
        """In training a few codes are shown as unseen, so that the unseen row learns."""
        if not (self.training and self.oov_rate > 0):
            return codes
        return codes * self.drawn(codes.shape, 1 - self.oov_rate, self.bias).long()

    def gate(self, codes: Tensor, numbers: Tensor, of: str = "rows") -> Tensor:
        """Log shares of the classes by a state's columns alone, (members, S, classes); ``of``: are these rows or states?"""
        x = self.embedding[:, codes + self.offsets].flatten(2)  # (members, S, columns · width)
        x = torch.cat([x, numbers.expand(len(x), -1, -1)], 2)
        for weight, bias in list(zip(self.weights, self.biases))[:2]:  # no slices: torch.export can't follow them
            x = torch.relu(torch.baddbmm(bias, x, weight))
        return torch.log_softmax(torch.baddbmm(self.biases[2], self.dropout(x, 1, of), self.weights[2]), 2)

    def level(self, codes: Tensor, numbers: Tensor) -> Tensor:
        """Log level of revenue by a state's columns, (members, S, 1)."""
        return self.levels[:, codes + self.offsets].sum(2) + numbers @ self.slopes + self.bias
