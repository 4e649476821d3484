"""AWRQ-Mixer without AW: random head weights in place of η (Table 2)."""

from __future__ import annotations

import torch
from torch import Tensor

from awrq_mixer.equations import random_mixture
from awrq_mixer.learners.awrq_mixer import AWRQMixer


class AWRQNoAW(AWRQMixer):
    """Convex weights drawn anew for every batch and agent."""

    def head_weights(self, head_losses: Tensor) -> Tensor:
        """Random convex weights, (agents, K)."""
        assert self.generator is not None
        draws = [random_mixture(self.heads, self.generator, head_losses.device) for _ in head_losses]
        return torch.stack(draws)
