"""awrq_plus, our own: states fall into latent classes, a denser signal than revenue tells which, and revenue corrects it.

Observes the state and, in training, revenue and a *surrogate*: an observed column that is less noisy than revenue (the
ranker's own estimate of what it showed). With z the state's class, G_z its log surface and δ the state's own level,

    log surrogate = level'(s) + δ(s) + G_z(a) + noise,      z ~ gate(columns of s)
    log Q(s, a)   = level'(s) + level(s) + c(a) + log E[exp(δ(s) + G_z(a)) | columns of s, logged rows of s]

The surrogate is fitted by the marginal likelihood of all rows of a state together, classes and δ summed out; revenue then
pays only for level(s) and c(a), corrections per column and per sub-action of what the surrogate gets wrong. In training the
expectation of a row leaves out the row itself. Training rows travel with the model: they are what it knows about a
state beside its columns. Without a surrogate revenue alone teaches gate and surfaces, and nothing is remembered.
``members`` such models are averaged in the log domain.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from awrq_mixer.learner_config import LearnerConfig
from awrq_mixer.learners.base import Batch, Learner
from awrq_mixer.networks.latent_classes import ClassNet, Evidence
from awrq_mixer.networks.space import Space
from marca_common.errors import UserError

LEAST_SIGNAL = 1e-3  # smallest surrogate that has a logarithm, as a share of its mean
_MEMORY = {"key": torch.int64, "start": torch.int64, "codes": torch.int32, "numbers": torch.float32}
_MEMORY |= {"joint": torch.int32, "signal": torch.float32}


class AWRQPlus(Learner):
    """Latent-class surfaces with a surrogate and a memory of each state's rows."""

    uses_surrogate = True
    any_size = tuple(f"memory_{name}" for name in _MEMORY)
    online: ClassNet
    strides: Tensor

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
        for name, kind in _MEMORY.items():  # sorted by key; rows of key k are start[k] … start[k + 1]
            self.register_buffer(f"memory_{name}", torch.zeros(0, dtype=kind))

    @classmethod
    def check(cls, config: LearnerConfig) -> None:
        """Revenue must be modelled on a log scale, and ``plus.history`` must name categorical state columns."""
        if config.loss.kind != "tweedie":
            raise ValueError(f"loss.kind: got {config.loss.kind!r}; awrq_plus models log revenue, expected 'tweedie'")
        categories = [name for name, kind in config.spec.state.items() if kind == "category"]
        for name in config.plus.history or []:
            if name not in categories:
                raise ValueError(f"plus.history: got {name!r}; expected categorical state columns, of {categories}")

    def build(self) -> nn.Module:
        """All members in one batched network."""
        return ClassNet(self.space, self.config.network, self.config.plus, self.joint)

    def prepare(self, train: Batch, profile: Tensor) -> None:
        """Besides scales, keep the training rows by state."""
        super().prepare(train, profile)
        if not self.remembers:
            return
        key, order = self.keys(train.codes).sort(stable=True)
        self.memory_key, counts = torch.unique_consecutive(key, return_counts=True)
        self.memory_start = torch.cat([counts.new_zeros(1), counts.cumsum(0)])
        rows = train.take(order)
        self.memory_codes, self.memory_numbers = rows.codes.int(), rows.numbers
        self.memory_joint, self.memory_signal = (rows.actions * self.strides).sum(1).int(), self.signal(rows)

    def load_state_dict(self, state_dict: Mapping[str, Any], *args: Any, **kwargs: Any) -> Any:
        """Weights, and a memory of whatever size; one that does not hang together is a UserError."""
        self._check_memory(*(state_dict[f"memory_{name}"] for name in _MEMORY))
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

    def signal(self, batch: Batch) -> Tensor:
        """Log of the scaled surrogate, (B,)."""
        return (batch.surrogate / self.surrogate_scale).clamp_min(LEAST_SIGNAL).log()

    def loss(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """Negative log likelihood of the surrogate per row plus the mean loss on revenue, summed over members."""
        net, joint = self.online, (batch.actions * self.strides).sum(1)
        codes = net.hide(batch.codes)
        at = net.surfaces().transpose(1, 2)[:, joint]  # (members, B, classes)
        likelihood = at.new_zeros(())
        if self.config.plus.surrogate:
            state, first = self._states(batch.codes)
            rows = net.evidence(codes, batch.numbers, joint, self.signal(batch), at)
            states, tau = rows.by_state(state, len(first)), net.state_precision
            gate = net.gate(codes[first], batch.numbers[first])
            likelihood = torch.logsumexp(gate + states.log_likelihood(tau), 2).sum() / len(batch)
            others = states.without(rows, state)
            known = torch.log_softmax(gate[:, state] + others.log_likelihood(tau), 2) + others.level(tau)
            shape = torch.logsumexp((known + at).detach(), 2)  # revenue teaches neither gate nor surfaces
        else:
            shape = torch.logsumexp(net.gate(codes, batch.numbers) + at, 2)
        raw = shape + self._revenue_level(codes, batch.numbers) + net.correction()[:, joint, 0]
        tot = self.fit_to(raw, batch.reward).mean(1).sum()
        return tot - likelihood, {"tot": tot.detach() / self.config.plus.members}

    def raw_table(self, codes: Tensor, numbers: Tensor) -> Tensor:
        """Mean over members of log Q, (S, A): one matrix product of class weights and surfaces a member."""
        net = self.online
        surfaces, gate = net.surfaces(), net.gate(codes, numbers)
        known = gate
        if self.remembers:
            remembered, tau = self._remembered(codes, surfaces), net.state_precision
            known = torch.log_softmax(gate + remembered.log_likelihood(tau), 2) + remembered.level(tau)
        top = known.amax(2, keepdim=True)
        shape = torch.log(torch.exp(known - top) @ surfaces.exp()) + top  # (members, S, A)
        raw: Tensor = shape + self._revenue_level(codes, numbers)[..., None] + net.correction().transpose(1, 2)
        return raw.mean(0)

    def _revenue_level(self, codes: Tensor, numbers: Tensor) -> Tensor:
        """The surrogate's level, corrected by what revenue says of each column, (members, S)."""
        level = self.online.level(codes, numbers)
        return level[..., 0].detach() + level[..., 1] + self.online.bias[..., 0]

    def _states(self, codes: Tensor) -> tuple[Tensor, Tensor]:
        """Number of each row's state in the batch (B,), and a row of each state; without history each row is one."""
        rows = torch.arange(len(codes), device=codes.device)
        if not self.history:
            return rows, rows
        found, state = torch.unique(self.keys(codes), return_inverse=True)
        return state, rows.new_empty(len(found)).scatter_(0, state, rows)

    def _remembered(self, codes: Tensor, surfaces: Tensor) -> Evidence:
        """What the training rows of each state say; nothing for a state that was not there."""
        key = self.keys(codes)
        place = torch.searchsorted(self.memory_key, key).clamp_max(len(self.memory_key) - 1)
        counts = (self.memory_start[place + 1] - self.memory_start[place]) * (self.memory_key[place] == key)
        state = torch.repeat_interleave(torch.arange(len(codes), device=codes.device), counts)
        within = torch.arange(len(state), device=codes.device) - (counts.cumsum(0) - counts)[state]
        rows = self.memory_start[place][state] + within
        past, numbers, signal = self.memory_codes[rows].long(), self.memory_numbers[rows], self.memory_signal[rows]
        joint = self.memory_joint[rows].long()
        found = self.online.evidence(past, numbers, joint, signal, surfaces.transpose(1, 2)[:, joint])
        return found.by_state(state, len(codes))
