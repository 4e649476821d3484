"""dqn_joint, the obvious deep bandit: one head per joint action, each trained on the reward of the requests that got it.

Observes the state; the action is the joint action. A request is one step, so there is nothing to bootstrap from.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from awrq_mixer.learners.base import Batch, Learner
from awrq_mixer.networks.agents import StateNet


class DQNJoint(Learner):
    """A network of the state with A outputs, E[R | s, a]."""

    def build(self) -> nn.Module:
        """DQN's trunk, and a head for every joint action."""
        network = self.config.network
        state = StateNet(self.space, network, network.trunk_layers or [network.hidden, network.hidden])
        return nn.Sequential(state, nn.Linear(state.width, self.space.n_joint))

    def loss(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """Mean loss of the logged action's head."""
        joint = torch.zeros_like(batch.actions[:, 0])
        for t, size in enumerate(self.space.sizes):
            joint = joint * size + batch.actions[:, t]
        q = self.raw_table(batch.codes, batch.numbers).gather(1, joint[:, None])[:, 0]
        tot = self.fit_to(q, batch.reward).mean()
        return tot, {"tot": tot.detach()}

    def raw_table(self, codes: Tensor, numbers: Tensor) -> Tensor:
        """All heads, (S, A)."""
        state, heads = self.online
        table: Tensor = heads(state(codes, numbers))
        return table
