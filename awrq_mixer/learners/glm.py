"""glm, the reference that knows no one: revenue = level of the state × effect of the joint action, nothing personal.

Observes state and joint action. Levels have a number per category and a slope per numeric column; effects a table per
sub-action and one per pair (``plus.pairs``). All states share one order of the joint actions.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from awrq_mixer.learners.base import Batch, Learner
from awrq_mixer.networks.agents import StateEmbedding
from awrq_mixer.networks.latent_classes import Surface
from awrq_mixer.networks.space import Space


class GLM(Learner):
    """A generalised linear model without interactions of state and action; its link is that of ``loss.kind``."""

    def build(self) -> nn.Module:
        """Level of a state and effects of joint actions."""
        effects = Surface(self.space.sizes, self.joint, 1, 1, 2 if self.config.plus.pairs else 1, 0.0)
        return nn.ModuleDict({"level": Level(self.space, self.config.network.oov_rate), "effects": effects})

    def loss(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """Mean loss against the reward."""
        effects = self.online["effects"]()[0, :, 0].reshape(self.space.sizes)
        raw = self.online["level"](batch.codes, batch.numbers) + effects[batch.actions.unbind(1)]
        tot = self.fit_to(raw, batch.reward).mean()
        return tot, {"tot": tot.detach()}

    def raw_table(self, codes: Tensor, numbers: Tensor) -> Tensor:
        """Level plus effect, (S, A)."""
        level: Tensor = self.online["level"](codes, numbers)
        effects: Tensor = self.online["effects"]()[0, :, 0]
        return level[:, None] + effects


class Level(nn.Module):
    """A number per category of every column, and a slope per numeric one."""

    def __init__(self, space: Space, oov_rate: float) -> None:
        super().__init__()
        self.columns = len(space.categories)
        self.embedding = StateEmbedding(space, 1, oov_rate)
        self.slopes = nn.Parameter(torch.zeros(space.numeric))
        self.bias = nn.Parameter(torch.zeros(()))

    def forward(self, codes: Tensor, numbers: Tensor) -> Tensor:
        """(B, columns), (B, numeric) → (B,)."""
        own: Tensor = self.embedding(codes, numbers)
        return self.bias + own[:, : self.columns].sum(1) + own[:, self.columns :] @ self.slopes
