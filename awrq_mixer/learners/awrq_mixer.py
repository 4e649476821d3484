"""AWRQ-Mixer is QMIX plus K weighted heads per agent (AW, Eqs. 8–10) and softplus mixing weights (SMC, Eqs. 11–15).
Every sub-step has a TD loss, whose reward is scaled by how much the sub-action moves revenue (VGCA, Eq. 16).

Algorithm 1. Agents observe the state and their own earlier sub-actions. Sub-step t's target is
w_t R + γ Q'_k(o_{t+1}, a_{t+1}) with the logged next sub-action, inside an agent and across to the next one. Q_tot's
target is R. ``algorithm1``: the heads' losses train the agents, Q_tot's only the mixer. ``end_to_end``: both reach
the agents, the heads' losses weighted by η, which carries no gradient. Serving takes the plain mean over heads.
"""

from __future__ import annotations

import itertools
from typing import Any

import torch
from torch import Tensor, nn

from awrq_mixer.equations import adaptive_weights, choice_sums, chosen, credit_weights
from awrq_mixer.learners.base import Batch, Totals
from awrq_mixer.learners.qmix import QMIX
from awrq_mixer.networks.mixers import MonotonicMixer


class AWRQMixer(QMIX):
    """The paper's learner."""

    bootstraps = True
    many_heads = True
    train_credit: Tensor  # (T,) credit weights of the whole training log

    def build(self) -> nn.ModuleDict:
        """QMIX's networks, and room for the credit weights of the whole training log."""
        self.steps = [len(sizes) for sizes in self.space.agents]  # sub-steps of every agent
        self.ends = [steps - 1 for steps in itertools.accumulate(self.steps)]  # index of every agent's last one
        self.register_buffer("train_credit", torch.zeros(len(self.space.sizes)))
        return super().build()

    def make_mixer(self) -> nn.Module:
        """Weights and activation as configured; softplus by default (SMC)."""
        return MonotonicMixer(self.space, self.config.mixer, self.config.network)

    def prepare(self, train: Batch | Totals, profile: Tensor) -> None:
        """Also the credit weights of the whole training log, where VGCA is not taken from each batch."""
        super().prepare(train, profile)
        self.train_credit.copy_(self.credit_of(train.by_choice(*self.signal_column(), self.space.sizes)))

    def signal_column(self) -> tuple[str, Tensor]:
        """What agents learn, and the money that stands for 1 in it: the reward."""
        return "reward", self.reward_scale

    def loss(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """Heads' TD losses and the loss of Q_tot, joined as ``td.gradient_flow`` says."""
        outputs = self.sub_steps(self.online, batch)  # T × (B, K, n_t)
        q = self.at_logged(outputs, batch)  # (B, T, K)
        heads, eta = self.heads_loss(q, self.targets(outputs, q, batch))
        tot = self.fit_to(self.mixed(q, eta, batch), batch.reward).mean()
        return tot + heads, {"tot": tot.detach(), "eta_min": eta.min(), "eta_max": eta.max()}

    def heads_loss(self, q: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """The heads' part of the loss, and their weights η (agents, K), which carry no gradient."""
        losses = self.head_losses(q, targets)  # (agents, K)
        eta = self.head_weights(self.over_ranks(losses.detach()))
        if self.config.td.gradient_flow == "algorithm1":
            return losses.sum(), eta
        return self.config.td.head_loss_weight * (eta * losses).sum(), eta

    def mixed(self, q: Tensor, eta: Tensor, batch: Batch) -> Tensor:
        """Q_tot (B,) of the heads (B, T, K) at every agent's last sub-step, weighted by η (Eq. 10)."""
        q_g = (q[:, self.ends] * eta).sum(2)  # (B, agents)
        q_g = q_g.detach() if self.config.td.gradient_flow == "algorithm1" else q_g
        q_tot: Tensor = self.online["mixer"](q_g, batch.codes, batch.numbers, batch.actions)
        return q_tot

    def head_losses(self, q: Tensor, targets: Tensor) -> Tensor:
        """L_k of every agent (Eq. 8), mean over the batch and its sub-steps: two (B, T, K) → (agents, K)."""
        losses = self.fit_to(q, targets).mean(0)  # (T, K)
        return torch.stack([part.mean(0) for part in torch.split(losses, self.steps)])

    @torch.no_grad()
    def targets(self, outputs: list[Tensor], q: Tensor, batch: Batch) -> Tensor:
        """w_t R + γ Q'_k(o_{t+1}, a_{t+1}) of every sub-step, (B, T, K); no next value after the last."""
        later = self.next_values(outputs, q, batch)[:, 1:]  # (B, T - 1, K)
        w = self.train_credit if self.config.td.vgca_scope == "train" else self.credit(batch.reward, batch.actions)
        last = torch.zeros_like(q[:, :1], dtype=torch.float32)
        return (batch.reward[:, None] * w)[:, :, None] + self.config.td.gamma * torch.cat([self.money(later), last], 1)

    def next_values(self, outputs: list[Tensor], q: Tensor, batch: Batch) -> Tensor:
        """Target network's raw value of every sub-step, (B, T, K), at the logged or the best choice (``td.bootstrap``).

        A target copied after every update is the online network itself, whose outputs are at hand.
        """
        own = self.config.td.target_update == 1
        if not own:
            assert self.target is not None
            outputs = self.sub_steps(self.target, batch)
        if self.config.td.bootstrap == "max":
            return torch.stack([one.max(2).values for one in outputs], 1)
        return q if own else self.at_logged(outputs, batch)

    def sub_steps(self, networks: Any, batch: Batch) -> list[Tensor]:
        """Every sub-step's heads along the logged sub-actions, T × (B, K, n_t)."""
        return [
            q
            for agent, (_, earlier, own) in zip(networks["agents"], self.by_agent(batch))
            for q in agent(batch.codes, batch.numbers, earlier, own)
        ]

    @staticmethod
    def at_logged(outputs: list[Tensor], batch: Batch) -> Tensor:
        """Heads at the logged sub-actions, (B, T, K)."""
        return torch.stack([chosen(q, batch.actions[:, t]) for t, q in enumerate(outputs)], 1)

    def head_weights(self, head_losses: Tensor) -> Tensor:
        """η (Eq. 9), (agents, K)."""
        return adaptive_weights(head_losses)

    def credit(self, reward: Tensor, actions: Tensor) -> Tensor:
        """Reward weight of every sub-step (Eq. 16), (T,), by the batches of all ranks."""
        return self.credit_of(self.over_ranks(choice_sums(reward, actions, self.space.sizes)))

    def credit_of(self, sums: Tensor) -> Tensor:
        """The same from ``choice_sums``, (2, T, most choices) → (T,)."""
        return credit_weights(sums, self.config.td.vgca)
