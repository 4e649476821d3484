"""low_rank, a mixed model: awrq_plus with a Gaussian vector per state in place of latent classes.

Observes what awrq_plus does: the state, revenue, the surrogate, and each state's own training rows. With V(a) the factors of a
joint action (tables per sub-action and per pair of them), P(a) one profile and δ(s) the state's own level,

    log surrogate = level'(s) + P(a) + centre(columns of s) · V(a) + u_s · V(a) + δ(s) + noise,     u_s ~ N(0, I)
    log Q(s, a)   = level(s) + c(a) + log E[surrogate | columns of s, logged rows of s]

u_s and δ(s) are integrated out in closed form: training maximises the marginal likelihood of all rows of a state together, and
the posterior of a state's vector serves it. Revenue corrects level(s) and c(a) alone, each row against what the other rows of
its state say. Without a surrogate revenue teaches level, profile and centre, and nothing is remembered. ``plus.members``
such models are averaged in the log domain; ``plus.rank`` is the length of u_s.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from awrq_mixer.learner_config import NetworkConfig, PlusConfig
from awrq_mixer.learners.base import Batch
from awrq_mixer.learners.state_memory import StateMemory
from awrq_mixer.networks.agents import StateNet
from awrq_mixer.networks.gaussian_states import StateVectors, infer, without_own
from awrq_mixer.networks.latent_classes import Surface, profile_order
from awrq_mixer.networks.space import Space
from marca_common.torch_seeding import Noisy, OwnInit


class LowRank(StateMemory):
    """Low-rank mixed model with a surrogate and a memory of each state's rows."""

    def build(self) -> nn.Module:
        """The members, side by side."""
        config = self.config
        members = range(config.plus.members)
        return nn.ModuleList([MixedModel(self.space, config.network, config.plus, self.joint) for _ in members])

    def loss(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """Negative log likelihood of the surrogate per row plus the mean loss on revenue, summed over members."""
        parts = [self._loss(model, batch) for model in self.online]
        tot, unlikely = (torch.stack(part).sum() for part in zip(*parts))
        return tot + unlikely, {"tot": tot.detach() / len(parts)}

    def _loss(self, model: MixedModel, batch: Batch) -> tuple[Tensor, Tensor]:
        """Of one member: mean loss on revenue, and negative log likelihood of the surrogate per row."""
        codes, joint = model.hide(batch.codes), self.joint_of(batch)
        level, expected = model.level(codes, batch.numbers), model.expected(codes, batch.numbers, joint)
        unlikely = expected.new_zeros(())
        if self.config.plus.surrogate:
            rows, first = self.rows_of(batch)
            residual = rows.signal - level[:, 0] - expected
            read = (model.factors_and_level()[joint], residual, model.precision()[joint])
            known = infer(*read, rows.state, len(first))
            unlikely = -known.log_likelihood.sum() / len(batch)
            with torch.no_grad():  # revenue teaches neither profile nor factors
                mean, variance = without_own(known, *read, rows.state)
                expected = level[:, 0] + expected + mean + variance / 2
        raw = expected + level[:, 1] + model.correction()[0, joint, 0]
        return self.fit_to(raw, batch.reward).mean(), unlikely

    def raw_table(self, codes: Tensor, numbers: Tensor) -> Tensor:
        """Mean over members of log Q, (S, A)."""
        return self.log_q(codes, numbers, self.said(codes) if self.config.plus.surrogate else None)

    def said(self, codes: Tensor) -> list[tuple[Tensor, Tensor]]:
        """Mean (S, r) and covariance (S, r, r) of each state's vector by its remembered rows, of every member."""
        return [(known.mean, known.covariance) for known in (self._known(model, codes) for model in self.online)]

    def log_q(self, codes: Tensor, numbers: Tensor, said: list[tuple[Tensor, Tensor]] | None) -> Tensor:
        """Mean over members of log Q, (S, A), given what remembered rows ``said``."""
        known = [None] * len(self.online) if said is None else said
        return torch.stack([self._table(model, codes, numbers, one) for model, one in zip(self.online, known)]).mean(0)

    def _table(self, model: MixedModel, codes: Tensor, numbers: Tensor, said: tuple[Tensor, Tensor] | None) -> Tensor:
        level, factors = model.level(codes, numbers), model.factors_and_level()
        table: Tensor = model.centre(codes, numbers) @ model.factors()[0].T + model.profile()[0, :, 0]  # (S, A)
        if said is not None:
            mean, covariance = said
            variance = ((factors @ covariance) * factors).sum(2)  # (S, A)
            table = table + level[:, :1] + mean @ factors.T + variance / 2
        correction: Tensor = model.correction()[0, :, 0]
        return table + level[:, 1:] + correction

    def _known(self, model: MixedModel, codes: Tensor) -> StateVectors:
        """What the training rows of each state say of its vector; the prior for a state that was not there."""
        rows = self.remembered(codes)
        level, expected = model.level(rows.codes, rows.numbers), model.expected(rows.codes, rows.numbers, rows.joint)
        factors, precision = model.factors_and_level()[rows.joint], model.precision()[rows.joint]
        return infer(factors, rows.signal - level[:, 0] - expected, precision, rows.state, len(codes))


class MixedModel(OwnInit, Noisy):
    """Levels, profile, factors of joint actions, and where a state's columns centre its vector."""

    offsets: Tensor

    def __init__(self, space: Space, network: NetworkConfig, plus: PlusConfig, joint: Tensor) -> None:
        super().__init__()
        self.register_buffer("offsets", torch.tensor([0, *space.categories]).cumsum(0)[:-1], persistent=False)
        self.oov_rate = network.oov_rate
        shown = network.model_copy(update={"oov_rate": 0.0})  # codes are hidden here, for levels and centre alike
        self.state = StateNet(space, shown, [network.hidden, network.hidden])
        self.to_centre = nn.Linear(self.state.width, plus.rank)
        self.levels = nn.Parameter(torch.zeros(max(sum(space.categories), 1), 2))  # of the signal, of revenue
        self.slopes = nn.Parameter(torch.zeros(space.numeric, 2))
        self.bias = nn.Parameter(torch.zeros(2))
        self.factors = Surface(space.sizes, joint, 1, plus.rank, 2 if plus.pairs else 1, 0.1)
        self.profile = Surface(space.sizes, joint, 1, 1, profile_order(plus), 0.01)
        self.correction = Surface(space.sizes, joint, 1, 1, 1, 0.0)
        self.log_noise = Surface(space.sizes, joint, 1, 1, 1, 0.0)
        self.log_variance = nn.Parameter(torch.zeros(2))  # of a row, of a state's level

    def reset(self, generator: torch.Generator) -> None:
        """Variances of about what a surrogate has."""
        nn.init.constant_(self.log_variance, math.log(0.2))

    def hide(self, codes: Tensor) -> Tensor:
        """In training a few codes are shown as unseen, so that the unseen row learns."""
        if not (self.training and self.oov_rate > 0):
            return codes
        return codes * self.drawn(codes.shape, 1 - self.oov_rate, self.bias).long()

    def level(self, codes: Tensor, numbers: Tensor) -> Tensor:
        """Log level of the signal, and what revenue's is above it, by a state's columns, (S, 2)."""
        return self.levels[codes + self.offsets].sum(1) + numbers @ self.slopes + self.bias

    def centre(self, codes: Tensor, numbers: Tensor) -> Tensor:
        """Where the vector of a state lies by its columns alone, (S, r)."""
        found: Tensor = self.to_centre(self.state(codes, numbers))
        return found

    def expected(self, codes: Tensor, numbers: Tensor, joint: Tensor) -> Tensor:
        """Log shape of each row's joint action by its columns alone, (B,)."""
        own = (self.centre(codes, numbers) * self.factors()[0, joint]).sum(1)
        shape: Tensor = own + self.profile()[0, joint, 0]
        return shape

    def factors_and_level(self) -> Tensor:
        """V(a), and the deviation of a state's level as one more factor that all joint actions share, (A, r + 1)."""
        factors: Tensor = self.factors()[0]
        level = torch.exp(self.log_variance[1] / 2).expand(len(factors), 1)
        return torch.cat([factors, level], 1)

    def precision(self) -> Tensor:
        """1/σ²(a) of the signal, (A,)."""
        found: Tensor = torch.exp(-self.log_variance[0] - self.log_noise()[0, :, 0])
        return found
