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

import math
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from awrq_mixer.learner_config import LearnerConfig
from awrq_mixer.learners.base import Batch, Learner
from awrq_mixer.networks.latent_classes import ClassNet, CountPart, SizePart, Sums
from awrq_mixer.networks.space import Space
from marca_common.errors import UserError

LEAST_SIGNAL = 1e-3  # smallest size that has a logarithm, as a share of the mean
FEW_ZEROS = 0.01  # with a smaller share of zeros they count as LEAST_SIGNAL, and there is no part for them
_MEMORY = {"key": torch.int64, "start": torch.int64, "codes": torch.int32, "numbers": torch.float32}
_MEMORY |= {"joint": torch.int32, "signal": torch.float32}
_CHUNK = 16384  # remembered rows that are weighed at a time
_SIZE, _COUNT, _HURDLE = 0, 1, 2
Known = list[tuple[SizePart | CountPart, Sums]]


class LatentClasses(Learner):
    """Latent-class surfaces with a side column and a memory of each state's rows."""

    uses_surrogate = True
    any_size = ("likelihood", *(f"memory_{name}" for name in _MEMORY))
    online: ClassNet
    strides: Tensor
    likelihood: Tensor  # of the signal: _SIZE, _COUNT or _HURDLE
    count_scale: Tensor  # mean of what is counted

    def __init__(self, space: Space, config: LearnerConfig) -> None:
        super().__init__(space, config)
        strides = [math.prod(space.sizes[t + 1 :]) for t in range(len(space.sizes))]
        self.register_buffer("strides", torch.tensor(strides), persistent=False)
        names = [name for name, kind in config.spec.state.items() if kind == "category"]
        self.history = [names.index(name) for name in (names if config.plus.history is None else config.plus.history)]
        if math.prod(space.categories[j] for j in self.history) >= 2**62:
            raise UserError(
                "plus.history: its columns have more than 2^62 combinations of values; name fewer columns, or [] for none"
            )
        self.remembers = config.plus.surrogate is not None and bool(self.history)
        self.register_buffer("likelihood", torch.tensor(_SIZE))
        self.register_buffer("count_scale", torch.tensor(1.0))
        for name, kind in _MEMORY.items():  # sorted by key; rows of key k are start[k] … start[k + 1]
            self.register_buffer(f"memory_{name}", torch.zeros(0, dtype=kind))

    @classmethod
    def check(cls, config: LearnerConfig) -> None:
        """Revenue must be modelled on a log scale, and ``plus.history`` must name categorical state columns."""
        if config.loss.kind != "tweedie":
            raise ValueError(
                f"loss.kind: got {config.loss.kind!r}; {config.learner} models log revenue, expected 'tweedie'"
            )
        categories = [name for name, kind in config.spec.state.items() if kind == "category"]
        for name in config.plus.history or []:
            if name not in categories:
                raise ValueError(f"plus.history: got {name!r}; expected categorical state columns, of {categories}")

    def build(self) -> nn.Module:
        """All members in one batched network."""
        return ClassNet(self.space, self.config.network, self.config.plus, self.joint)

    def prepare(self, train: Batch, profile: Tensor) -> None:
        """Besides scales, find the signal's likelihood and keep the training rows by state."""
        super().prepare(train, profile)
        if self.config.plus.surrogate:
            self._find_likelihood(train.surrogate)
        if not self.remembers:
            return
        key, order = self.keys(train.codes).sort(stable=True)
        self.memory_key, counts = torch.unique_consecutive(key, return_counts=True)
        self.memory_start = torch.cat([counts.new_zeros(1), counts.cumsum(0)])
        rows = train.take(order)
        self.memory_codes, self.memory_numbers = rows.codes.int(), rows.numbers
        self.memory_joint, self.memory_signal = (rows.actions * self.strides).sum(1).int(), rows.surrogate

    def _find_likelihood(self, signal: Tensor) -> None:
        there, whole = signal > 0, bool((signal == signal.round()).all())
        if float(there.double().mean()) >= 1 - FEW_ZEROS:
            return
        self.likelihood.fill_(_COUNT if whole else _HURDLE)
        self.count_scale.fill_(float((signal if whole else there).double().mean()))
        if not whole:
            self.surrogate_scale.fill_(float(signal[there].double().mean()))

    def load_state_dict(self, state_dict: Mapping[str, Any], *args: Any, **kwargs: Any) -> Any:
        """Weights, and a memory of whatever size; one that does not hang together is a UserError."""
        self._check_memory(*(state_dict[f"memory_{name}"] for name in _MEMORY))
        if state_dict["likelihood"].tolist() not in (_SIZE, _COUNT, _HURDLE):
            raise UserError(f"likelihood: got {state_dict['likelihood'].tolist()}; expected 0, 1 or 2: train again")
        for name in _MEMORY:
            setattr(self, f"memory_{name}", torch.empty_like(state_dict[f"memory_{name}"], device=self.joint.device))
        return super().load_state_dict(state_dict, *args, **kwargs)

    def _check_memory(
        self, key: Tensor, start: Tensor, codes: Tensor, numbers: Tensor, joint: Tensor, signal: Tensor
    ) -> None:
        if not self.remembers and not any(part.numel() for part in (key, start, codes, numbers, joint, signal)):
            return
        rows = len(joint)
        sizes = torch.tensor(self.space.categories, device=codes.device)
        good = (
            all(part.dim() == 1 for part in (key, start, joint, signal))
            and len(start) == len(key) + 1 >= 2
            and int(start[0]) == 0
            and int(start[-1]) == rows == len(signal)
            and bool((start.diff() > 0).all() and (key.diff() > 0).all())
            and codes.shape == (rows, len(sizes))
            and numbers.shape == (rows, self.space.numeric)
            and bool(((codes >= 0) & (codes < sizes)).all() and ((joint >= 0) & (joint < self.space.n_joint)).all())
        )
        if not good:
            raise UserError("memory_*: rows, keys and codes do not fit each other: train again")

    def groups(self, data: Batch) -> Tensor | None:
        """Rows of one state come in one batch, because they tell its class together."""
        return torch.unique(self.keys(data.codes), return_inverse=True)[1] if self.remembers else None

    def keys(self, codes: Tensor) -> Tensor:
        """One number for the values of the ``plus.history`` columns, int64 (B,)."""
        key = codes.new_zeros(len(codes))
        for j in self.history:
            key = key * self.space.categories[j] + codes[:, j]
        return key

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
        net, joint = self.online, (batch.actions * self.strides).sum(1)
        codes = net.hide(batch.codes)
        surfaces = [part.surfaces() for part in self.parts()]
        at = torch.stack([surface.transpose(1, 2)[:, joint] for surface in surfaces]).sum(0)  # (members, B, classes)
        likelihood = at.new_zeros(())
        if self.config.plus.surrogate:
            state, first = self._states(batch.codes)
            rows = self.evidence(codes, batch.numbers, joint, batch.surrogate, surfaces)
            states = [(part, one.by_state(state, len(first))) for part, one in rows]
            gate = net.gate(codes[first], batch.numbers[first])
            likelihood = torch.logsumexp(gate + _log_likelihood(states), 2).sum() / len(batch)
            others = [(part, all_.without(own, state)) for (part, all_), (_, own) in zip(states, rows)]
            known = torch.log_softmax(gate[:, state] + _log_likelihood(others), 2) + _level(others)
            shape = torch.logsumexp((known + at).detach(), 2)  # revenue teaches neither gate nor surfaces
        else:
            shape = torch.logsumexp(net.gate(codes, batch.numbers) + at, 2)
        raw = shape + self._revenue_level(codes, batch.numbers) + net.correction()[:, joint, 0]
        tot = self.fit_to(raw, batch.reward).mean(1).sum()
        return tot - likelihood, {"tot": tot.detach() / self.config.plus.members}

    def raw_table(self, codes: Tensor, numbers: Tensor) -> Tensor:
        """Mean over members of log Q, (S, A): one matrix product of class weights and surfaces a member."""
        net = self.online
        surfaces = [part.surfaces() for part in self.parts()]
        known = net.gate(codes, numbers)
        if self.remembers:
            remembered = self._remembered(codes, surfaces)
            known = torch.log_softmax(known + _log_likelihood(remembered), 2) + _level(remembered)
        top = known.amax(2, keepdim=True)
        shape = torch.log(torch.exp(known - top) @ sum(surfaces).exp()) + top  # type: ignore[union-attr]
        raw: Tensor = shape + self._revenue_level(codes, numbers)[..., None] + net.correction().transpose(1, 2)
        return raw.mean(0)

    def _revenue_level(self, codes: Tensor, numbers: Tensor) -> Tensor:
        """The signal's level, corrected by what revenue says of each column, (members, S)."""
        places = codes + self.online.offsets
        level = self.online.level(codes, numbers)
        for part in self.parts():
            level = level + part.level(places, numbers).detach()
        return level[..., 0]

    def _states(self, codes: Tensor) -> tuple[Tensor, Tensor]:
        """Number of each row's state in the batch (B,), and a row of each state; without history each row is one."""
        rows = torch.arange(len(codes), device=codes.device)
        if not self.history:
            return rows, rows
        found, state = torch.unique(self.keys(codes), return_inverse=True)
        return state, rows.new_empty(len(found)).scatter_(0, state, rows)

    def _remembered(self, codes: Tensor, surfaces: list[Tensor]) -> Known:
        """What the training rows of each state say; nothing for a state that was not there."""
        key, state = torch.unique(self.keys(codes), return_inverse=True)  # states that share rows share their sums
        place = torch.searchsorted(self.memory_key, key).clamp_max(len(self.memory_key) - 1)
        counts = (self.memory_start[place + 1] - self.memory_start[place]) * (self.memory_key[place] == key)
        owner = torch.repeat_interleave(torch.arange(len(key), device=codes.device), counts)
        within = torch.arange(len(owner), device=codes.device) - (counts.cumsum(0) - counts)[owner]
        rows = self.memory_start[place][owner] + within
        pieces = [self._past(rows[one], owner[one], len(key), surfaces) for one in _slices(len(rows))]
        total = pieces[0]
        for piece in pieces[1:]:
            total = [(part, one.plus(other)) for (part, one), (_, other) in zip(total, piece)]
        return [(part, one.take(state)) for part, one in total]

    def _past(self, rows: Tensor, owner: Tensor, keys: int, surfaces: list[Tensor]) -> Known:
        """Sums over remembered ``rows`` by their ``owner``, both (R,)."""
        codes, numbers = self.memory_codes[rows].long(), self.memory_numbers[rows]
        found = self.evidence(codes, numbers, self.memory_joint[rows].long(), self.memory_signal[rows], surfaces)
        return [(part, one.by_state(owner, keys)) for part, one in found]


def _slices(rows: int) -> Iterable[slice]:
    return [slice(start, start + _CHUNK) for start in range(0, max(rows, 1), _CHUNK)]


def _log_likelihood(known: Known) -> Tensor:
    return torch.stack([one.log_likelihood(part.prior) for part, one in known]).sum(0)


def _level(known: Known) -> Tensor:
    return torch.stack([one.level(part.prior) for part, one in known]).sum(0)
