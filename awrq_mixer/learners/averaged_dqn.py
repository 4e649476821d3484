"""Averaged Ensemble-DQN is DQN with K networks, each trained on its own error against the mean of all K target networks.

The networks share nothing: linear heads on one trunk, averaged, would be a single head again. Their mean serves.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from awrq_mixer.learners.dqn import DQN
from awrq_mixer.networks.agents import StateHeads


class AveragedDQN(DQN):
    """K = ``network.heads`` independent networks."""

    many_heads = True

    def build(self) -> nn.Module:
        """K networks of one head per sub-action."""
        one = self.config.network.model_copy(update={"heads": 1})
        return Ensemble([StateHeads(self.space, one) for _ in range(self.heads)])

    def combine(self, q: list[Tensor], again: bool = False) -> list[Tensor]:
        """Online values stay apart, (B, K, n_t); those of the target networks become their mean, (B, 1, n_t)."""
        return [one.mean(1, keepdim=True) for one in q] if again else q


class Ensemble(nn.ModuleList):
    """Networks of one head each, side by side."""

    def forward(self, codes: Tensor, numbers: Tensor) -> list[Tensor]:
        """One (B, K, n_t) per sub-step."""
        return [torch.cat(heads, 1) for heads in zip(*(network(codes, numbers) for network in self))]
