"""Latent classes: states fall into classes, a denser signal than revenue tells which, and revenue corrects it.

Observes the state and, in training, revenue and a *side column* (``plus.surrogate``): an observed column that is less noisy
than revenue, such as the ranker's own estimate of what it showed. With z the state's class and G_z its log surface,

    log E[signal | s, a] = level'(s) + δ(s) + G_z(a),      z ~ gate(columns of s)
    log Q(s, a)          = level'(s) + level(s) + c(a) + log E[exp(δ(s) + G_z(a)) | columns of s, logged rows of s]

What likelihood the signal has follows from its values in the training rows: positive numbers are log-normal, whole ones with
zeros Poisson, others with zeros a *hurdle*: how often they are above 0, and how large they are then, each with surfaces of
its own (δ and G are sums over the parts). The signal is fitted by the marginal likelihood of all rows of a state together,
classes and levels summed out. Revenue then pays only for level(s) and c(a), corrections per column and per sub-action of
what the signal gets wrong. In training the expectation of a row leaves out the row itself. Training rows travel with the
model: they are what it knows about a state beside its columns. Without a side column revenue alone teaches gate and
surfaces, and nothing is remembered. ``members`` such models are averaged in the log domain.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from awrq_mixer.learner_config import LearnerConfig
from awrq_mixer.learners.base import Batch, Totals
from awrq_mixer.learners.state_memory import StateMemory
from awrq_mixer.networks.latent_classes import ClassNet, CountPart, SizePart, Sums
from awrq_mixer.networks.space import Space
from marca_common.errors import UserError

LEAST_SIGNAL = 1e-3  # smallest size that has a logarithm, as a share of the mean
FEW_ZEROS = 0.01  # with a smaller share of zeros they count as LEAST_SIGNAL, and there is no part for them
_CHUNK = 16384  # remembered rows that are weighed at a time
_SIZE, _COUNT, _HURDLE = 0, 1, 2
Known = list[tuple[SizePart | CountPart, Sums]]


class LatentClasses(StateMemory):
    """Latent-class surfaces with a side column and a memory of each state's rows."""

    any_size = ("likelihood", *StateMemory.any_size)
    online: ClassNet
    likelihood: Tensor  # of the signal: _SIZE, _COUNT or _HURDLE
    count_scale: Tensor  # mean of what is counted

    def __init__(self, space: Space, config: LearnerConfig) -> None:
        super().__init__(space, config)
        self.register_buffer("likelihood", torch.tensor(_SIZE))
        self.register_buffer("count_scale", torch.tensor(1.0))

    def build(self) -> nn.Module:
        """All members in one batched network."""
        return ClassNet(self.space, self.config.network, self.config.plus, self.joint)

    def prepare(self, train: Batch | Totals, profile: Tensor) -> None:
        """Find the signal's likelihood beside what is kept of the training rows."""
        super().prepare(train, profile)
        if not self.config.plus.surrogate:
            return
        signal = train.values_above("surrogate")
        if signal.share >= 1 - FEW_ZEROS:
            return
        self.likelihood.fill_(_COUNT if signal.whole else _HURDLE)
        self.count_scale.fill_(train.mean("surrogate") if signal.whole else signal.share)
        if not signal.whole:
            self.surrogate_scale.fill_(signal.mean)

    def load_state_dict(self, state_dict: Mapping[str, Any], *args: Any, **kwargs: Any) -> Any:
        """Weights, memory and a likelihood; one that is none of the three is a UserError."""
        if state_dict["likelihood"].tolist() not in (_SIZE, _COUNT, _HURDLE):
            raise UserError(f"likelihood: got {state_dict['likelihood'].tolist()}; expected 0, 1 or 2: train again")
        return super().load_state_dict(state_dict, *args, **kwargs)

    def signal(self, batch: Batch) -> Tensor:
        """The side column as it is, (B,): its likelihood may need zeros."""
        return batch.surrogate

    def parts(self) -> list[SizePart | CountPart]:
        """The parts of the network that model the signal, or revenue where there is none."""
        net, kind = self.online, int(self.likelihood)
        counts = [net.count] if net.count is not None and kind != _SIZE else []
        return [*counts, *([net.size] if kind != _COUNT else [])]

    def evidence(self, codes: Tensor, numbers: Tensor, joint: Tensor, signal: Tensor, surfaces: list[Tensor]) -> Known:
        """What each row says of its class, a sum for each part; ``surfaces`` of the parts, (members, classes, A)."""
        found: Known = []
        for part, surface in zip(self.parts(), surfaces):
            at = surface.transpose(1, 2)[:, joint]  # (members, B, classes)
            level = part.level(codes + self.online.offsets, numbers)
            if isinstance(part, CountPart):
                counted = signal if int(self.likelihood) == _COUNT else (signal > 0).float()
                found.append((part, part.evidence(counted, level + self.count_scale.log(), at)))
            else:
                log_size = (signal / self.surrogate_scale).clamp_min(LEAST_SIGNAL).log()
                there = (signal > 0).float() if int(self.likelihood) == _HURDLE else torch.ones_like(signal)
                found.append((part, part.evidence(log_size, level, joint, at, there)))
        return found

    def loss(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """Negative log likelihood of the signal per row plus the mean loss on revenue, summed over members."""
        net, joint = self.online, self.joint_of(batch)
        codes = net.hide(batch.codes)
        surfaces = [part.surfaces() for part in self.parts()]
        at = torch.stack([surface.transpose(1, 2)[:, joint] for surface in surfaces]).sum(0)  # (members, B, classes)
        likelihood = at.new_zeros(())
        if self.config.plus.surrogate:
            own, first = self.rows_of(batch)
            state = own.state
            rows = self.evidence(codes, batch.numbers, joint, batch.surrogate, surfaces)
            states = [(part, one.by_state(state, len(first))) for part, one in rows]
            gate = net.gate(codes[first], batch.numbers[first], "states")
            likelihood = torch.logsumexp(gate + _log_likelihood(states), 2).sum() / len(batch)
            others = [(part, all_.without(own, state)) for (part, all_), (_, own) in zip(states, rows)]
            known = torch.log_softmax(gate[:, state] + _log_likelihood(others), 2) + _level(others)
            shape = torch.logsumexp((known + at).detach(), 2)  # revenue teaches neither gate nor surfaces
        else:
            shape = torch.logsumexp(net.gate(codes, batch.numbers) + at, 2)
        raw = shape + self._revenue_level(codes, batch.numbers, self.parts()) + net.correction()[:, joint, 0]
        tot = self.fit_to(raw, batch.reward).mean(1).sum()
        return tot - likelihood, {"tot": tot.detach() / self.config.plus.members}

    def raw_table(self, codes: Tensor, numbers: Tensor) -> Tensor:
        """Mean over members of log Q, (S, A)."""
        parts = self.parts()
        surfaces = [part.surfaces() for part in parts]
        said = self.said(codes, surfaces) if self.remembers else None
        return self.log_q(codes, numbers, parts, surfaces, said)

    def said(self, codes: Tensor, surfaces: list[Tensor]) -> tuple[Tensor, Tensor]:
        """Log likelihood and level of each state's remembered rows under each class, both (members, S, classes)."""
        remembered = self._remembered(codes, surfaces)
        return _log_likelihood(remembered), _level(remembered)

    def log_q(
        self,
        codes: Tensor,
        numbers: Tensor,
        parts: list[SizePart | CountPart],
        surfaces: list[Tensor],
        said: tuple[Tensor, Tensor] | None,
    ) -> Tensor:
        """Mean over members of log Q, (S, A), given what remembered rows ``said``: one matrix product a member."""
        net = self.online
        known = net.gate(codes, numbers)
        if said is not None:
            known = torch.log_softmax(known + said[0], 2) + said[1]
        top = known.amax(2, keepdim=True)
        shape = torch.log(torch.exp(known - top) @ sum(surfaces).exp()) + top  # type: ignore[union-attr]
        raw: Tensor = shape + self._revenue_level(codes, numbers, parts)[..., None] + net.correction().transpose(1, 2)
        return raw.mean(0)

    def _revenue_level(self, codes: Tensor, numbers: Tensor, parts: list[SizePart | CountPart]) -> Tensor:
        """The signal's level, corrected by what revenue says of each column, (members, S)."""
        places = codes + self.online.offsets
        level = self.online.level(codes, numbers)
        for part in parts:
            level = level + part.level(places, numbers).detach()
        return level[..., 0]

    def _remembered(self, codes: Tensor, surfaces: list[Tensor]) -> Known:
        """What the training rows of each state say; nothing for a state that was not there."""
        key, state = torch.unique(self.keys(codes), return_inverse=True)  # states that share rows share their sums
        places, owner = self.places(key)
        pieces = [self._past(places[one], owner[one], len(key), surfaces) for one in _slices(len(places))]
        total = pieces[0]
        for piece in pieces[1:]:
            total = [(part, one.plus(other)) for (part, one), (_, other) in zip(total, piece)]
        return [(part, one.take(state)) for part, one in total]

    def _past(self, places: Tensor, owner: Tensor, keys: int, surfaces: list[Tensor]) -> Known:
        """Sums over remembered rows at ``places`` by their ``owner``, both (R,)."""
        rows = self.rows_at(places, owner)
        found = self.evidence(rows.codes, rows.numbers, rows.joint, rows.signal, surfaces)
        return [(part, one.by_state(owner, keys)) for part, one in found]


def _slices(rows: int) -> Iterable[slice]:
    return [slice(start, start + _CHUNK) for start in range(0, max(rows, 1), _CHUNK)]


def _log_likelihood(known: Known) -> Tensor:
    return torch.stack([one.log_likelihood(part.prior) for part, one in known]).sum(0)


def _level(known: Known) -> Tensor:
    return torch.stack([one.level(part.prior) for part, one in known]).sum(0)
