"""DQN over the sub-steps of a request, in the paper's single-agent sense.

Observes the state only. An action is one sub-action; each has a head of its own. The reward enters at the last
sub-step; every earlier one bootstraps from the best next sub-action, r_t + γ max Q'(s, ·).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from awrq_mixer.equations import chosen, td_target
from awrq_mixer.learners.base import Batch, Learner
from awrq_mixer.networks.agents import StateHeads


class DQN(Learner):
    """State-only heads, max-bootstrap, reward at the end."""

    bootstraps = True

    def build(self) -> nn.Module:
        """One head (or K) per sub-action."""
        return StateHeads(self.space, self.config.network.model_copy(update={"heads": self.heads}))

    def loss(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """Sum over sub-steps of the TD loss, mean over batch and heads."""
        q = self.combine(self.q_values(self.online, batch))  # T × (B, K, n_t)
        with torch.no_grad():
            assert self.target is not None
            q_target = self.combine(self.q_values(self.target, batch), again=True)
            targets = [self.td(t, batch, q, q_target) for t in range(len(q))]
        losses = [self.fit_to(chosen(q[t], batch.actions[:, t]), targets[t]).mean() for t in range(len(q))]
        return torch.stack(losses).sum(), {"td_last": losses[-1].detach()}

    def q_values(self, network: nn.Module, batch: Batch) -> list[Tensor]:
        """Outputs of a network for a batch, T × (B, K, n_t)."""
        q: list[Tensor] = network(batch.codes, batch.numbers)
        return q

    def td(self, t: int, batch: Batch, q: list[Tensor], q_target: list[Tensor]) -> Tensor:
        """Target of sub-step ``t``, (B, K) or (B, 1)."""
        if t == len(q) - 1:
            return td_target(batch.reward, None, 0.0)
        nothing = torch.zeros_like(batch.reward)
        return td_target(nothing, self.next_value(q[t + 1], q_target[t + 1]), self.config.td.gamma)

    def next_value(self, q: Tensor, q_target: Tensor) -> Tensor:
        """Value of the next sub-step in scaled money: (B, K, n), (B, K, n) → (B, K)."""
        return self.money(q_target.max(2).values)

    def combine(self, q: list[Tensor], again: bool = False) -> list[Tensor]:
        """Hook of the ensemble learners: how heads are joined before the loss; here they stay apart."""
        return q

    def raw_table(self, codes: Tensor, numbers: Tensor) -> Tensor:
        """Joint score of state-only heads, (S, A)."""
        return self.additive([head.mean(1) for head in self.online(codes, numbers)])

    def additive(self, heads: list[Tensor]) -> Tensor:
        """Mean state value plus each sub-action's advantage over the logged mix: T × (S, n_t) → (S, A).

        Under independent exploration this is the additive projection of the reward; no head sees another sub-action.
        """
        shares = _marginals(self.profile, self.space.sizes)
        means = [(head * share).sum(1, keepdim=True) for head, share in zip(heads, shares)]
        total = torch.stack(means).mean(0)  # (S, 1)
        for head, mean in zip(heads, means):
            total = (total[:, :, None] + (head - mean)[:, None, :]).flatten(1)
        return total


def _marginals(profile: Tensor, sizes: tuple[int, ...]) -> list[Tensor]:
    """Share of each sub-action in the logged mix, from its joint profile (A,)."""
    joint = profile.reshape(sizes)
    axes = range(len(sizes))
    return [joint.sum([other for other in axes if other != t]) if len(sizes) > 1 else joint for t in axes]
