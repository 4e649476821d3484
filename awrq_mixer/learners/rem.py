"""REM is DQN with K heads joined by random convex weights, one draw a batch, the same for online and target nets.

Agarwal et al., 2020; the learner of RL-MPCA.
"""

from __future__ import annotations

import torch
from torch import Tensor

from awrq_mixer.equations import random_mixture
from awrq_mixer.learners.dqn import DQN


class REM(DQN):
    """Random ensemble mixture; serves the plain mean over heads."""

    many_heads = True

    def combine(self, q: list[Tensor], again: bool = False) -> list[Tensor]:
        """Σ_k α_k Q_k, (B, 1, n_t); ``again`` reuses the draw made for the online network."""
        if not again:
            assert self.generator is not None
            self.alpha = random_mixture(self.heads, self.generator, q[0].device)
        return [torch.einsum("k,bkn->bn", self.alpha.to(one.dtype), one)[:, None] for one in q]
