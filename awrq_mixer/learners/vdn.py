"""VDN: one recurrent agent per stage, whose values add up to Q_tot; trained end to end on the request's reward.

Each agent observes the state and its own earlier sub-actions; its value Q_g is that of its last sub-step, so that it
covers all of them. A request is one team step: the reward enters once, at Q_tot, and nothing is bootstrapped.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from awrq_mixer.equations import chosen
from awrq_mixer.learners.base import Batch, Learner
from awrq_mixer.networks.agents import RecurrentAgent
from awrq_mixer.networks.mixers import VDNMixer


class VDN(Learner):
    """Sunehag et al., 2018. ``self.online`` holds ``agents`` and ``mixer``."""

    def build(self) -> nn.ModuleDict:
        """Agents and mixer."""
        network = self.config.network.model_copy(update={"heads": self.heads})
        agents: list[RecurrentAgent] = []
        before: tuple[int, ...] = ()
        for sizes in self.space.agents:
            agents.append(RecurrentAgent(self.space, network, sizes, before if network.observe == "all" else ()))
            before = (*before, *sizes)
        return nn.ModuleDict({"agents": nn.ModuleList(agents), "mixer": self.make_mixer()})

    def make_mixer(self) -> nn.Module:
        """How agents' values become Q_tot."""
        return VDNMixer()

    def loss(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """Loss of Q_tot against the reward."""
        q = [
            chosen(agent.last(batch.codes, batch.numbers, earlier, own), own[:, -1]).mean(1)
            for agent, earlier, own in self.by_agent(batch)
        ]  # agents × (B,)
        q_tot = self.online["mixer"](torch.stack(q, 1), batch.codes, batch.numbers, batch.actions)
        losses = self.fit_to(q_tot, batch.reward)
        return (self.sample_weights(q_tot, batch) * losses).mean(), {"tot": losses.detach().mean()}

    def sample_weights(self, q_tot: Tensor, batch: Batch) -> Tensor:
        """Weight of every sample's loss, (B,)."""
        return torch.ones_like(batch.reward)

    def by_agent(self, batch: Batch) -> Iterator[tuple[RecurrentAgent, Tensor, Tensor]]:
        """Each agent with the earlier sub-actions it may see and its own."""
        start = 0
        for agent in self.online["agents"]:
            own = batch.actions[:, start : start + len(agent.sizes)]
            yield agent, batch.actions[:, : len(agent.before)], own
            start += len(agent.sizes)

    def raw_table(self, codes: Tensor, numbers: Tensor) -> Tensor:
        """Agents' trees, mixed."""
        table: Tensor = self.online["mixer"].table(self.agent_tables(codes, numbers), codes, numbers, self.joint)
        return table

    def agent_tables(self, codes: Tensor, numbers: Tensor) -> list[Tensor]:
        """Every agent's values of its own choices, (S, P_g, N_g) each; what it decides by when it acts alone."""
        return [agent.tree(codes, numbers).float() for agent in self.online["agents"]]
