"""Direct regression, the obvious rival: revenue on embeddings of the state and of all sub-actions, no agents, no TD.

Observes state and joint action; the action is the joint action; the reward is the target of its output. With
``plus.surrogate`` a second output learns that column. It sees no logged rows of a state, as ``neural_process`` does.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from awrq_mixer.learners.base import Batch, Learner
from awrq_mixer.networks.agents import StateNet, mlp
from awrq_mixer.networks.space import Space
from marca_common.torch_seeding import OwnInit


class Regression(Learner):
    """A ReLU network on [state, actions]; MSE or Tweedie by ``loss.kind``."""

    uses_surrogate = True
    online: JointNet

    def build(self) -> nn.Module:
        """The network."""
        return JointNet(self.space, self)

    def loss(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """Mean loss against the reward, and against the surrogate where there is one."""
        return loss_of(self, self.online(batch.codes, batch.numbers, batch.actions), batch)

    def raw_table(self, codes: Tensor, numbers: Tensor) -> Tensor:
        """First layer made once per state and once per joint action, then the rest per pair."""
        return self.online.table(codes, numbers, self.joint)


def loss_of(learner: Learner, raw: Tensor, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
    """Loss of the outputs (1 or 2, B): of revenue, plus weight × that of the surrogate."""
    revenue, *surrogate = raw
    tot = learner.fit_to(revenue, batch.reward).mean()
    loss = tot
    for second in surrogate:  # one or none
        apart = learner.fit_to(second, batch.surrogate / learner.surrogate_scale)
        loss = tot + (learner.config.plus.surrogate_weight * apart).mean()
    return loss, {"tot": tot.detach()}


class JointNet(OwnInit):
    """Two hidden layers; the first is a state part plus one table row per sub-action (and per pair of them)."""

    def __init__(self, space: Space, learner: Learner) -> None:
        super().__init__()
        config = learner.config.network
        self.state = StateNet(space, config)
        self.first = nn.Linear(self.state.width, config.hidden)
        self.tables = nn.ParameterList([nn.Parameter(torch.zeros(n, config.hidden)) for n in space.sizes])
        body, width = mlp(config.hidden, config.head_layers or [config.hidden], config.dropout)
        self.rest = nn.Sequential(*body, nn.Linear(width, 2 if learner.config.plus.surrogate else 1))

    def reset(self, generator: torch.Generator) -> None:
        """Small tables of sub-actions."""
        for table in self.tables:
            nn.init.normal_(table, std=0.1, generator=generator)

    def forward(self, codes: Tensor, numbers: Tensor, actions: Tensor) -> Tensor:
        """Raw outputs of the logged joint actions, (1 or 2, B)."""
        return self.outputs(self.first(self.state(codes, numbers)), actions)

    def outputs(self, x: Tensor, actions: Tensor) -> Tensor:
        """Raw outputs of rows whose states have the first layer ``x`` (B, H), (1 or 2, B)."""
        for t, table in enumerate(self.tables):
            x = x + table[actions[:, t]]
        raw: Tensor = self.rest(torch.relu(x))
        return raw.T

    def table(self, codes: Tensor, numbers: Tensor, joint: Tensor) -> Tensor:
        """Raw value of all joint actions, (S, A)."""
        return self.joint_outputs(self.first(self.state(codes, numbers)), joint)

    def joint_outputs(self, x: Tensor, joint: Tensor) -> Tensor:
        """Raw value of all joint actions of states with the first layer ``x`` (S, H), (S, A)."""
        actions = torch.stack([table[joint[:, t]] for t, table in enumerate(self.tables)]).sum(0)  # (A, H)
        raw: Tensor = self.rest(torch.relu(x[:, None] + actions))
        return raw[..., 0]
