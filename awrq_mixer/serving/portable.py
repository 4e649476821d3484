"""Q(s, a) as one torch module of plain operations, which torch.export and ONNX can write: codes and numbers in, money out.

What a learner remembers of a state becomes a row of a table, looked up by the state's key; a stack and an anchor, which serve
as numpy, are written as torch operations here.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from awrq_mixer.anchoring.anchor import Anchor
from awrq_mixer.learners.base import Learner
from awrq_mixer.learners.latent_classes import LatentClasses
from awrq_mixer.learners.low_rank import LowRank
from awrq_mixer.learners.state_memory import StateMemory
from awrq_mixer.serving.predictor import Predictor
from awrq_mixer.serving.stack_scorer import Member, Scorer, StackScorer
from marca_common.errors import UserError


def portable(predictor: Predictor) -> nn.Module:
    """The module of a predictor: (codes int64 (S, columns), numbers float32 (S, columns)) → money float32 (S, A).

    A UserError for learners without one: trees, and those of other packages that are no networks.
    """
    module = _scorer(predictor.scorer, predictor.config.learner)
    module = module if predictor.anchor is None else Anchored(module, predictor.anchor)
    return module.eval().requires_grad_(False)


def remembered(module: nn.Module) -> Tensor:
    """Codes of the states that learners inside a module remember, (K, columns); of none where they remember nothing."""
    known = [part.known()[:-1] for part in module.modules() if isinstance(part, _Remembering)]
    return torch.cat(known) if known else torch.zeros(0, 0, dtype=torch.int64)


def _scorer(scorer: Scorer, name: str) -> nn.Module:
    if isinstance(scorer, StackScorer):
        return Stacked(scorer)
    if isinstance(scorer, LatentClasses):
        return Classes(scorer)
    if isinstance(scorer, LowRank):
        return Vectors(scorer)
    if isinstance(scorer, Learner) and not isinstance(scorer, StateMemory):
        return Plain(scorer)
    raise UserError(f"checkpoint: learner {name!r} can't be exported; expected a network, latent_classes or low_rank")


class Plain(nn.Module):
    """A learner whose network is all it knows."""

    def __init__(self, learner: Learner) -> None:
        super().__init__()
        self.learner = learner

    def forward(self, codes: Tensor, numbers: Tensor) -> Tensor:
        """(S, A)."""
        return self.learner.values(codes, numbers)


class _Remembering(nn.Module):
    """A learner that remembers rows of states; the last row of its tables is a state without any."""

    key: Tensor

    def __init__(self, learner: StateMemory) -> None:
        super().__init__()
        if learner.shards:
            raise UserError("checkpoint: its training rows lie in shards; expected a learner that holds them in memory")
        self.learner = learner
        self.register_buffer("key", learner.memory_key.clone())

    def known(self) -> Tensor:
        """Codes of a state with each key, and of one without (code 0 is never seen in training), (K + 1, columns)."""
        learner = self.learner
        if not learner.remembers:
            return torch.zeros(1, len(learner.space.categories), dtype=torch.int64)
        first = learner.memory_codes[learner.memory_start[:-1]].long()
        return torch.cat([first, torch.zeros_like(first[:1])])

    def rows(self, codes: Tensor) -> Tensor:
        """Row of every state in the tables, (S,): a binary search, as ONNX has none."""
        place = torch.zeros_like(codes[:, 0])
        if not self.learner.remembers:
            return place
        key, size = self.learner.keys(codes), len(self.key)
        for bit in reversed(range(size.bit_length())):
            further = place + 2**bit
            inside = (further < size) & (self.key[further.clamp_max(size - 1)] <= key)
            place = torch.where(inside, further, place)
        return torch.where(self.key[place] == key, place, size)

    def money(self, log_q: Tensor) -> Tensor:
        """Values of log Q in scaled money."""
        return self.learner.money(log_q) * self.learner.reward_scale


class Classes(_Remembering):
    """latent_classes."""

    likelihood: Tensor  # (members, K + 1, classes)
    level: Tensor  # the same

    def __init__(self, learner: LatentClasses) -> None:
        super().__init__(learner)
        self.classes = learner
        self.parts = learner.parts()
        surfaces = [part.surfaces() for part in self.parts]
        likelihood, level = learner.said(self.known(), surfaces) if learner.remembers else (torch.zeros(0),) * 2
        self.register_buffer("likelihood", likelihood.detach())
        self.register_buffer("level", level.detach())
        self.surfaces = nn.ParameterList([nn.Parameter(one.detach(), requires_grad=False) for one in surfaces])

    def forward(self, codes: Tensor, numbers: Tensor) -> Tensor:
        """(S, A)."""
        rows = self.rows(codes)
        said = (self.likelihood[:, rows], self.level[:, rows]) if self.learner.remembers else None
        return self.money(self.classes.log_q(codes, numbers, self.parts, list(self.surfaces), said))


class Vectors(_Remembering):
    """low_rank."""

    def __init__(self, learner: LowRank) -> None:
        super().__init__(learner)
        self.vectors = learner
        said = learner.said(self.known()) if learner.config.plus.surrogate else []
        self.mean, self.covariance = (
            nn.ParameterList([nn.Parameter(one[place].detach(), requires_grad=False) for one in said])
            for place in (0, 1)
        )

    def forward(self, codes: Tensor, numbers: Tensor) -> Tensor:
        """(S, A)."""
        rows = self.rows(codes)
        said = [(mean[rows], covariance[rows]) for mean, covariance in zip(self.mean, self.covariance)]
        return self.money(self.vectors.log_q(codes, numbers, said or None))


class Shape(nn.Module):
    """Log level and departure from a mean shape, of values raised to a floor."""

    centre: Tensor

    def __init__(self, part: Member | Anchor) -> None:
        super().__init__()
        self.floor = float(np.float32(part.floor))
        self.register_buffer("centre", torch.from_numpy(part.centre))

    def forward(self, values: Tensor) -> tuple[Tensor, Tensor]:
        """(S, A) → (S,) and (S, A)."""
        raised = values.clamp_min(self.floor)
        level = raised.mean(1).log()
        return level, raised.log() - level[:, None] - self.centre


class Stacked(nn.Module):
    """A stack: weighed levels of its members, log profile, weighed departures."""

    log_profile: Tensor

    def __init__(self, stack: StackScorer) -> None:
        super().__init__()
        self.members = nn.ModuleList([_scorer(one.scorer, name) for name, one in stack.used.items()])
        self.shapes = nn.ModuleList([Shape(one) for one in stack.used.values()])
        self.weights = [(one.level, one.weight) for one in stack.used.values()]
        self.register_buffer("log_profile", torch.from_numpy(stack.log_profile))

    def forward(self, codes: Tensor, numbers: Tensor) -> Tensor:
        """(S, A)."""
        parts = [shape(member(codes, numbers)) for member, shape in zip(self.members, self.shapes)]
        level = torch.stack([weight * one for (weight, _), (one, _) in zip(self.weights, parts)]).sum(0)
        departure = torch.stack([weight * one for (_, weight), (_, one) in zip(self.weights, parts)]).sum(0)
        return torch.exp(level[:, None] + self.log_profile + departure)


class Anchored(nn.Module):
    """A scorer with its anchor."""

    directions: Tensor
    kept: Tensor
    shift: Tensor

    def __init__(self, scorer: nn.Module, anchor: Anchor) -> None:
        super().__init__()
        self.scorer, self.shape = scorer, Shape(anchor)
        self.slope, self.level, self.rest = anchor.slope, anchor.level, float(anchor.shares[-1])
        self.register_buffer("directions", torch.from_numpy(anchor.directions))
        self.register_buffer("kept", torch.from_numpy(anchor.shares[:-1] - anchor.shares[-1]))
        self.register_buffer("shift", torch.from_numpy(anchor.shift))

    def forward(self, codes: Tensor, numbers: Tensor) -> Tensor:
        """(S, A)."""
        level, departure = self.shape(self.scorer(codes, numbers))
        kept = ((departure @ self.directions.T) * self.kept) @ self.directions
        return torch.exp((self.slope * (level - self.level))[:, None] + kept + self.rest * departure + self.shift)
