"""DQN with the reward at every head: DQN, but each sub-action's head regresses the request's reward; no bootstrap.

Not in the paper: shown so that the single-agent baseline is no straw man.
"""

from __future__ import annotations

from torch import Tensor

from awrq_mixer.equations import td_target
from awrq_mixer.learners.base import Batch
from awrq_mixer.learners.dqn import DQN


class DQNRewardEverywhere(DQN):
    """State-only heads, each trained on E[R | s, a_t]."""

    def td(self, t: int, batch: Batch, q: list[Tensor], q_target: list[Tensor]) -> Tensor:
        """The reward itself."""
        return td_target(batch.reward, None, 0.0)
