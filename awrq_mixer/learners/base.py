"""What every learner shares: sizes, loss on scaled money, target network, values of all joint actions."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from awrq_mixer.equations import choice_sums, elementwise_loss, link
from awrq_mixer.learner_config import LearnerConfig
from awrq_mixer.networks.space import Space


class ValuesAbove(NamedTuple):
    """How the values of a column ≥ 0 lie about 0."""

    share: float  # of the rows above 0
    mean: float  # of these
    whole: bool  # are all values whole numbers?


@dataclass
class Batch:
    """Rows of a log as tensors."""

    codes: Tensor  # (B, categorical columns) int64, 0 = unseen
    numbers: Tensor  # (B, numeric columns) float32
    actions: Tensor  # (B, T) int64
    reward: Tensor  # (B,) float32, money
    surrogate: Tensor  # (B,) float32, an observed column that is less noisy than revenue; NaN where there is none

    def __len__(self) -> int:
        return len(self.reward)

    def take(self, rows: Tensor | slice) -> Batch:
        """The given rows (M,)."""
        return Batch(*(getattr(self, field.name)[rows] for field in fields(self)))

    def to(self, device: torch.device) -> Batch:
        """The same rows on another device."""
        return Batch(*(getattr(self, field.name).to(device) for field in fields(self)))

    @classmethod
    def joined(cls, parts: Sequence[Batch]) -> Batch:
        """The rows of several batches, one after the other."""
        return Batch(*(torch.cat([getattr(part, field.name) for part in parts]) for field in fields(cls)))

    def mean(self, column: str) -> float:
        """Mean of ``reward`` or ``surrogate``, money."""
        return float(getattr(self, column).double().mean())

    def values_above(self, column: str) -> ValuesAbove:
        """How the values of ``reward`` or ``surrogate`` lie about 0."""
        values = getattr(self, column)
        there = values > 0
        mean = float(values[there].double().mean()) if there.any() else 0.0
        return ValuesAbove(float(there.double().mean()), mean, bool((values == values.round()).all()))

    def by_choice(self, column: str, scale: Tensor, sizes: tuple[int, ...]) -> Tensor:
        """``choice_sums`` of a column over its scale, (2, T, most choices)."""
        return choice_sums(getattr(self, column) / scale, self.actions, sizes)


@dataclass
class Totals:
    """All that most learners need to know of the training rows as a whole; rows that lie in shards are summed up in it."""

    counts: Tensor  # (T, most choices) float64, rows of every choice of every sub-action
    sums: dict[str, Tensor]  # column → the same for its sum, money
    above: dict[str, int]  # column → rows in which it is above 0
    whole: dict[str, int]  # column → rows in which it is a whole number

    def __len__(self) -> int:
        return int(self.counts[0].sum())

    def mean(self, column: str) -> float:
        """As that of a batch."""
        return float(self.sums[column][0].sum()) / len(self)

    def values_above(self, column: str) -> ValuesAbove:
        """As that of a batch."""
        above = self.above[column]
        mean = float(self.sums[column][0].sum()) / max(above, 1)
        return ValuesAbove(above / len(self), mean, self.whole[column] == len(self))

    def by_choice(self, column: str, scale: Tensor, sizes: tuple[int, ...]) -> Tensor:
        """As that of a batch, in single precision."""
        return torch.stack([self.counts, self.sums[column] / scale.double().cpu()]).float().to(scale.device)


class Learner(nn.Module, ABC):
    """Base of the gradient learners. A subclass builds ``self.online`` and defines ``loss`` and ``raw_table``.

    ``self.online`` holds what is trained; learners that bootstrap keep a frozen copy in ``self.target``.
    """

    bootstraps: ClassVar[bool] = False
    many_heads: ClassVar[bool] = False  # K value heads (``network.heads``), not one
    uses_surrogate: ClassVar[bool] = False  # can it learn from ``plus.surrogate``?
    known_rows: ClassVar[tuple[str, ...]] = ()  # buffers that hold training rows: ``prepare`` finds them again
    any_size: ClassVar[tuple[str, ...]] = ()  # whole-number buffers, and lengths, that the training rows decide
    # Numbers of ``loss`` that metrics.csv keeps.
    metrics: ClassVar[tuple[str, ...]] = ("td_last", "tot", "eta_min", "eta_max")
    online: Any
    target: Any
    reward_scale: Tensor  # money that stands for 1 in the losses
    surrogate_scale: Tensor  # the same for ``plus.surrogate``, where there is one
    profile: Tensor  # (A,) logged action mix
    joint: Tensor  # (A, T) sub-actions of every joint action

    def __init__(self, space: Space, config: LearnerConfig) -> None:
        super().__init__()
        self.space, self.config = space, config
        self.heads = config.network.heads if self.many_heads else 1
        self.register_buffer("reward_scale", torch.tensor(config.loss.reward_scale or 1.0))
        self.register_buffer("profile", torch.full((space.n_joint,), 1.0 / space.n_joint))
        joint = torch.cartesian_prod(*(torch.arange(n) for n in space.sizes)).reshape(space.n_joint, -1)
        self.register_buffer("joint", joint, persistent=False)  # (A, T)
        if config.plus.surrogate:
            self.register_buffer("surrogate_scale", torch.tensor(1.0))
        self.generator: torch.Generator | None = None
        # Σ over the ranks that share a batch: for whatever of a loss is no mean over rows.
        self.over_ranks: Callable[[Tensor], Tensor] = _of_one_rank
        self.online = self.build()
        self.target = None

    @classmethod
    def check(cls, config: LearnerConfig) -> None:
        """Refuse, with a ValueError, a config that this learner can make nothing of."""
        if config.plus.surrogate and not cls.uses_surrogate:
            raise ValueError(f"plus.surrogate: learner {config.learner!r} cannot learn from it; expected null")

    @abstractmethod
    def build(self) -> nn.Module:
        """The networks that are trained."""

    def prepare(self, train: Batch | Totals, profile: Tensor) -> None:
        """Take what the learner needs from the training rows as a whole: scale of the reward, logging profile."""
        if self.config.loss.reward_scale is None:
            mean = train.mean("reward")
            self.reward_scale.fill_(mean if mean > 0 else 1.0)
        self.profile.copy_(profile)
        if self.config.plus.surrogate:
            self.surrogate_scale.fill_(train.mean("surrogate"))
        if self.bootstraps:
            self.target = copy.deepcopy(self.online).requires_grad_(False).eval()

    def groups(self, data: Batch) -> Tensor | None:
        """Numbers of rows (N,) that must come in one batch; None: rows are shuffled one by one."""
        return None

    @abstractmethod
    def loss(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """Loss to minimise on one batch (reward already scaled), and numbers worth logging."""

    @abstractmethod
    def raw_table(self, codes: Tensor, numbers: Tensor) -> Tensor:
        """Network output (before the link) of all joint actions, (S, A)."""

    def values(self, codes: Tensor, numbers: Tensor) -> Tensor:
        """Q(s, a) of all joint actions in money, float32 (S, A)."""
        return self.money(self.raw_table(codes, numbers)) * self.reward_scale

    def to_payload(self) -> dict[str, Any]:
        """What a checkpoint must hold to serve this learner: all weights but the target network's."""
        return {"weights": {name: w for name, w in self.state_dict().items() if not name.startswith("target.")}}

    def learned(self) -> dict[str, Tensor]:
        """All weights but what holds training rows: what a run must keep to go on."""
        return {name: weight for name, weight in self.state_dict().items() if name not in self.known_rows}

    def with_rows(self, learned: dict[str, Tensor]) -> dict[str, Tensor]:
        """``learned`` weights of this learner, and the training rows that it holds."""
        return {**learned, **{name: getattr(self, name) for name in self.known_rows}}

    def after_step(self, step: int) -> None:
        """Copy the online weights to the target network every τ updates."""
        if self.target is not None and step % self.config.td.target_update == 0:
            self.target.load_state_dict(self.online.state_dict())

    def fit_to(self, raw: Tensor, target: Tensor) -> Tensor:
        """Elementwise loss of outputs against targets in scaled money."""
        loss = self.config.loss
        return elementwise_loss(raw.float(), target, loss.kind, power=loss.tweedie_power, delta=loss.huber_delta)

    def money(self, raw: Tensor) -> Tensor:
        """Value in scaled money of a network output."""
        return link(raw.float(), self.config.loss.kind)


def _of_one_rank(tensor: Tensor) -> Tensor:
    return tensor
