"""What every learner shares: sizes, loss on scaled money, target network, values of all joint actions."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from dataclasses import dataclass, fields
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from awrq_mixer.equations import elementwise_loss, link
from awrq_mixer.learner_config import LearnerConfig
from awrq_mixer.networks.space import Space


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

    def take(self, rows: Tensor) -> Batch:
        """The given rows (M,)."""
        return Batch(*(getattr(self, field.name)[rows] for field in fields(self)))

    def to(self, device: torch.device) -> Batch:
        """The same rows on another device."""
        return Batch(*(getattr(self, field.name).to(device) for field in fields(self)))


class Learner(nn.Module, ABC):
    """Base of the gradient learners. A subclass builds ``self.online`` and defines ``loss`` and ``raw_table``.

    ``self.online`` holds what is trained; learners that bootstrap keep a frozen copy in ``self.target``.
    """

    bootstraps: ClassVar[bool] = False
    many_heads: ClassVar[bool] = False  # K value heads (``network.heads``), not one
    uses_surrogate: ClassVar[bool] = False  # can it learn from ``plus.surrogate``?
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

    def prepare(self, train: Batch, profile: Tensor) -> None:
        """Take what the learner needs from the training rows as a whole: scale of the reward, logging profile."""
        if self.config.loss.reward_scale is None:
            mean = train.reward.double().mean()
            self.reward_scale.fill_(float(mean) if mean > 0 else 1.0)
        self.profile.copy_(profile)
        if self.config.plus.surrogate:
            self.surrogate_scale.fill_(float(train.surrogate.double().mean()))
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
