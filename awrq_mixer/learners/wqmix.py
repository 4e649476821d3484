"""Weighted QMIX is QMIX with a weight on every sample's error, so that good joint actions are not averaged away.

``ow``: weight 1 where Q_tot is below its target, else α. ``cw``: weight 1 where the logged joint action is the greedy
one, or its target beats the greedy one's value under an unrestricted central network Q̂*; else α. Q̂* is trained along.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from awrq_mixer.equations import central_weights, optimistic_weights
from awrq_mixer.learners.base import Batch
from awrq_mixer.learners.qmix import QMIX
from awrq_mixer.networks.agents import StateNet, mlp


class WQMIX(QMIX):
    """Rashid et al., 2020, for requests of one team step."""

    def build(self) -> nn.ModuleDict:
        """QMIX's networks, and for ``cw`` the central one."""
        networks = super().build()
        if self.config.td.wqmix == "cw":
            networks["central"] = CentralNet(self)
        return networks

    def loss(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """QMIX's loss, weighted, plus the central network's own."""
        loss, logged = super().loss(batch)
        if self.config.td.wqmix == "ow":
            return loss, logged
        central = self.online["central"](batch.codes, batch.numbers, batch.actions)
        return loss + self.fit_to(central, batch.reward).mean(), logged

    def sample_weights(self, q_tot: Tensor, batch: Batch) -> Tensor:
        """Weights of the chosen variant, compared in money."""
        alpha = self.config.td.wqmix_alpha
        if self.config.td.wqmix == "ow":
            return optimistic_weights(self.money(q_tot), batch.reward, alpha)
        with torch.no_grad():
            tables = self.agent_tables(batch.codes, batch.numbers)
            greedy = self.online["mixer"].table(tables, batch.codes, batch.numbers, self.joint).argmax(1)  # (B,)
            value = self.money(self.online["central"](batch.codes, batch.numbers, self.joint[greedy]))
        is_greedy = (self.joint[greedy] == batch.actions).all(1)
        return central_weights(batch.reward, value, is_greedy, alpha)


class CentralNet(nn.Module):
    """Q̂*(s, a): no monotonicity, all actions as inputs."""

    offsets: Tensor

    def __init__(self, learner: QMIX) -> None:
        super().__init__()
        config, space = learner.config.network, learner.space
        self.state = StateNet(space, config, [])
        self.actions = nn.Embedding(sum(space.sizes), config.embedding)
        self.register_buffer("offsets", torch.tensor([0, *space.sizes[:-1]]).cumsum(0), persistent=False)
        width = self.state.width + config.embedding * len(space.sizes)
        self.body, width = mlp(width, [config.hidden, config.hidden], 0.0)
        self.out = nn.Linear(width, 1)

    def forward(self, codes: Tensor, numbers: Tensor, actions: Tensor) -> Tensor:
        """Raw value, (B,)."""
        joined = torch.cat([self.state(codes, numbers), self.actions(actions + self.offsets).flatten(1)], 1)
        raw: Tensor = self.out(self.body(joined))
        return raw[:, 0]
