"""AWRQ-Mixer that learns only how a state departs from what is common to all states (not in the paper).

    log Q(s, a) = level(s) + effect(a) + mixer(agents; s) − mixer(0; s)

Level and effects are those of the ``glm``: numbers per column of the state, per sub-action and per pair of them. They are shrunk
as their own noise asks for. Agents, K heads, AW, VGCA and the monotone mixer are the paper's, and start near 0. Each sub-step's
head is held to level + the effects of the sub-actions so far + a constant, so its loss pulls at nothing that is not personal.

With ``plus.surrogate`` all of that is learned from the side column in revenue's place. Revenue then corrects levels and effects,
pairs reluctantly. Without the Tweedie loss everything is a sum of money in place of logarithms.
"""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from awrq_mixer.learner_config import LearnerConfig
from awrq_mixer.learners.awrq_mixer import AWRQMixer
from awrq_mixer.learners.base import Batch, Totals
from awrq_mixer.learners.glm import Level
from awrq_mixer.networks.latent_classes import Surface
from awrq_mixer.networks.mixers import ResidualMixer
from awrq_mixer.networks.space import Space

START = 0.1  # of the heads' usual initial weights: departures are small until something speaks for them
# Ridges of the tables of levels and of pairs: variance of revenue / mean² (about 20) over that of the table's entries.
RIDGES = (240.0, 2000.0)
CORRECTION_RIDGES = (2400.0, 6000.0)  # a side column is wrong by less than revenue varies


class AWRQResidual(AWRQMixer):
    """AWRQ-Mixer on top of levels and effects."""

    uses_surrogate = True
    prefix: Tensor  # (T, tables of effects): 1 where a table is known at a sub-step
    rows: Tensor  # training rows

    def __init__(self, space: Space, config: LearnerConfig) -> None:
        super().__init__(space, config)
        last = [*range(len(space.sizes))]  # the sub-step at which each table of effects is known
        if config.plus.pairs:
            last += [j for _, j in itertools.combinations(range(len(space.sizes)), 2)]
        known = torch.tensor(last) <= torch.arange(len(space.sizes))[:, None]
        self.register_buffer("prefix", known.float(), persistent=False)
        self.register_buffer("rows", torch.tensor(1.0), persistent=False)

    @classmethod
    def check(cls, config: LearnerConfig) -> None:
        """Departures say nothing of the best next sub-action by themselves."""
        super().check(config)
        if config.td.bootstrap == "max":
            raise ValueError("td.bootstrap: got 'max'; awrq_residual knows the logged next sub-action only")

    def build(self) -> nn.ModuleDict:
        """AWRQ-Mixer's networks, levels and effects, a constant per sub-step, and what revenue corrects."""
        networks = super().build()
        networks["level"], networks["effects"] = self._level(), self._effects()
        networks["constants"] = nn.ParameterList([nn.Parameter(torch.zeros(len(self.space.sizes)))])
        if self.config.plus.surrogate:
            networks["paid_level"], networks["paid_effects"] = self._level(), self._effects()
        return networks

    def levels(self) -> list[Level]:
        """Those of the signal and, where that is a side column, of revenue's correction."""
        return [self.online[name] for name in ("level", "paid_level") if name in self.online]

    def _level(self) -> Level:
        return Level(self.space, self.config.network.oov_rate)

    def _effects(self) -> Surface:
        return Surface(self.space.sizes, self.joint, 1, 1, 2 if self.config.plus.pairs else 1, 0.0)

    def make_mixer(self) -> nn.Module:
        """AWRQ-Mixer's, less what it says where agents say 0."""
        return ResidualMixer(self.space, self.config.mixer, self.config.network)

    @torch.no_grad()
    def prepare(self, train: Batch | Totals, profile: Tensor) -> None:
        """Also the number of rows that ridges are shared by. Heads start small, and levels at 0."""
        self.rows.fill_(len(train))
        for level in self.levels():
            level.embedding.table.weight.zero_()
        for agent in self.online["agents"]:
            for out in agent.out:
                out.weight.mul_(START)
        super().prepare(train, profile)

    def signal_column(self) -> tuple[str, Tensor]:
        """The side column where there is one, else the reward."""
        return ("surrogate", self.surrogate_scale) if self.config.plus.surrogate else super().signal_column()

    def signal(self, batch: Batch) -> Tensor:
        """The scaled side column where there is one, else the reward, (B,)."""
        return batch.surrogate / self.surrogate_scale if self.config.plus.surrogate else batch.reward

    def loss(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """AWRQ-Mixer's loss of the signal, ridges, and revenue's loss of its corrections."""
        mine = replace(batch, reward=self.signal(batch))
        outputs = self.sub_steps(self.online, mine)
        departures = self.at_logged(outputs, mine)  # (B, T, K)
        level, effects = self.shared(self.online, mine)
        q = departures + self.so_far(self.online, level, effects)
        heads, eta = self.heads_loss(q, self.targets(outputs, q, mine))
        raw = level + effects.sum(0) + self.mixed(departures, eta, mine)
        tot = self.fit_to(raw, mine.reward).mean()
        loss = tot + heads + self.ridge()
        if self.config.plus.surrogate:
            tot = self.fit_to(raw.detach() + self._correction(batch), batch.reward).mean()
            loss = loss + tot
        return loss, {"tot": tot.detach(), "eta_min": eta.min(), "eta_max": eta.max()}

    def shared(self, networks: Any, batch: Batch) -> tuple[Tensor, Tensor]:
        """Level of each row's state (B,), and the effects of its joint action by table (tables, B)."""
        effects = networks["effects"].by_table(self._joint_of(batch))[:, 0, :, 0]
        return networks["level"](batch.codes, batch.numbers), effects

    def so_far(self, networks: Any, level: Tensor, effects: Tensor) -> Tensor:
        """What every sub-step's heads depart from, (B, T, 1): they move its constant, not the level or the effects."""
        known = (level + self.prefix @ effects).detach().T  # (B, T)
        common: Tensor = known + networks["constants"][0]
        return common[:, :, None]

    def next_values(self, outputs: list[Tensor], q: Tensor, batch: Batch) -> Tensor:
        """Target network's raw value of every sub-step at the logged choice, (B, T, K)."""
        if self.config.td.target_update == 1:
            return q
        assert self.target is not None
        departures = self.at_logged(self.sub_steps(self.target, batch), batch)
        return departures + self.so_far(self.target, *self.shared(self.target, batch))

    def ridge(self) -> Tensor:
        """Squares of the tables that revenue teaches, each as far as its noise asks for."""
        paid, weights = ("paid_", CORRECTION_RIDGES) if self.config.plus.surrogate else ("", RIDGES)
        tables = [self.online[f"{paid}level"].embedding.table.weight], self.online[f"{paid}effects"].pair_tables()
        squares = [weight * table.square().sum() for weight, some in zip(weights, tables) for table in some]
        return torch.stack(squares).sum() / self.rows

    def _correction(self, batch: Batch) -> Tensor:
        """What revenue adds to the side column's logarithm, (B,)."""
        paid: Tensor = self.online["paid_effects"].by_table(self._joint_of(batch))[:, 0, :, 0].sum(0)
        level: Tensor = self.online["paid_level"](batch.codes, batch.numbers)
        return level + paid

    def _joint_of(self, batch: Batch) -> Tensor:
        joint = torch.zeros_like(batch.actions[:, 0])
        for t, size in enumerate(self.space.sizes):
            joint = joint * size + batch.actions[:, t]
        return joint

    def raw_table(self, codes: Tensor, numbers: Tensor) -> Tensor:
        """Levels, effects and the mixed agents' trees, (S, A)."""
        net = self.online
        raw: Tensor = super().raw_table(codes, numbers)
        for paid in ("", "paid_") if self.config.plus.surrogate else ("",):
            raw = raw + net[f"{paid}level"](codes, numbers)[:, None] + net[f"{paid}effects"]()[0, :, 0]
        return raw
