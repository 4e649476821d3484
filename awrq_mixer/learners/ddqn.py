"""Double DQN is DQN, but the online network picks the next sub-action and the target network values it."""

from __future__ import annotations

from torch import Tensor

from awrq_mixer.learners.dqn import DQN


class DoubleDQN(DQN):
    """van Hasselt et al., 2016, over the sub-steps of a request."""

    def next_value(self, q: Tensor, q_target: Tensor) -> Tensor:
        """Q'(s, argmax Q(s, ·)), (B, K)."""
        best = q.argmax(2, keepdim=True)
        return self.money(q_target.gather(2, best)[:, :, 0])
