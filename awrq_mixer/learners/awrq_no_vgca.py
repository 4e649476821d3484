"""AWRQ-Mixer without VGCA: the reward enters at the last sub-step only (Table 2)."""

from __future__ import annotations

import torch
from torch import Tensor

from awrq_mixer.learners.awrq_mixer import AWRQMixer


class AWRQNoVGCA(AWRQMixer):
    """Reward weights 0, …, 0, 1."""

    def credit_of(self, sums: Tensor) -> Tensor:
        """All credit to the last sub-step, (T,)."""
        weights = torch.zeros(len(self.space.sizes), device=sums.device)
        weights[-1] = 1.0
        return weights
