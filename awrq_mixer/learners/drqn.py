"""DRQN is DQN with a recurrent network: one agent whose GRU runs over all sub-steps of the request.

Hausknecht and Stone, 2015: it observes what DQN observes, the state, at every sub-step, not the sub-actions taken
(``network.drqn_observe`` = state). With ``own`` it sees them too, and its last head covers the joint action.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from awrq_mixer.learners.base import Batch
from awrq_mixer.learners.dqn import DQN
from awrq_mixer.networks.agents import RecurrentAgent


class DRQN(DQN):
    """Recurrent single agent, max-bootstrap, reward at the last sub-step."""

    online: RecurrentAgent

    def build(self) -> nn.Module:
        """One recurrent agent for the whole request."""
        network = self.config.network.model_copy(
            update={"heads": self.heads, "observe": self.config.network.drqn_observe}
        )
        return RecurrentAgent(self.space, network, self.space.sizes)

    def q_values(self, network: nn.Module, batch: Batch) -> list[Tensor]:
        """Outputs along the logged sub-actions, T × (B, K, n_t)."""
        q: list[Tensor] = network(batch.codes, batch.numbers, batch.actions[:, :0], batch.actions)
        return q

    def raw_table(self, codes: Tensor, numbers: Tensor) -> Tensor:
        """The last head over the tree of sub-actions; without sight of them, the additive score of DQN."""
        if self.online.sees_own:
            return self.online.tree(codes, numbers).flatten(1)
        actions = torch.zeros(codes.shape[0], len(self.space.sizes), dtype=torch.long, device=codes.device)
        heads = [head.mean(1) for head in self.online(codes, numbers, actions[:, :0], actions)]
        return self.additive(heads)
