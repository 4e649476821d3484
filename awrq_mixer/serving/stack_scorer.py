"""A stack of learners that scores joint actions: the global profile, and the members' departures from it, weighed."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from awrq_mixer.anchoring.anchor import least_value, log_shapes
from marca_common.checkpoint import require_keys
from marca_common.errors import UserError


class Scorer(Protocol):
    """Anything that values all joint actions of encoded states."""

    def values(self, codes: Tensor, numbers: Tensor) -> Tensor:
        """Q in money, (S, A)."""
        ...

    def to_payload(self) -> dict[str, Any]:
        """What a checkpoint must hold to make it again."""
        ...


@dataclass(frozen=True)
class Member:
    """One learner of a stack, and what it takes to read a state's level and shape off its values."""

    scorer: Scorer
    floor: float  # money: smaller values count as this
    centre: np.ndarray  # mean shape over states, float32 (A,)
    weight: float = 1.0  # of the departure
    level: float = 1.0  # weight of the log level

    @classmethod
    def of(cls, scorer: Scorer, learned: np.ndarray) -> Member:
        """A member of weight 1 with the mean shape of ``learned`` values (S, A)."""
        floor = least_value(learned)
        return cls(scorer, floor, log_shapes(learned, floor)[1].mean(axis=0))

    def shapes(self, learned: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Log level (S,) and departure from the mean shape (S, A) of learned values (S, A), float32."""
        level, shape = log_shapes(learned, self.floor)
        return level, shape - self.centre


def weighed(members: Mapping[str, Member], weights: np.ndarray, levels: np.ndarray) -> dict[str, Member]:
    """Members with weights (members,) of their departures and of their levels."""
    return {
        name: replace(one, weight=float(weight), level=float(level))
        for (name, one), weight, level in zip(members.items(), weights, levels)
    }


class StackScorer:
    """log Q = Σ weight · level + log profile + Σ weight · departure, over members with weights of their own for either."""

    def __init__(self, members: dict[str, Member], profile: np.ndarray) -> None:
        self.members, self.profile = members, profile.astype(np.float32)
        self.used = {name: one for name, one in members.items() if one.weight > 0 or one.level > 0}
        self.log_profile = np.log(self.profile / self.profile.mean())

    def values(self, codes: Tensor, numbers: Tensor) -> Tensor:
        """Q in money, (S, A)."""
        used = list(self.used.values())
        shapes = [one.shapes(one.scorer.values(codes, numbers).cpu().numpy()) for one in used]
        level = np.sum([one.level * level for one, (level, _) in zip(used, shapes)], axis=0)
        departure = np.sum([one.weight * departure for one, (_, departure) in zip(used, shapes)], axis=0)
        return torch.from_numpy(np.exp(level[:, None] + self.log_profile + departure))

    def eval(self) -> None:
        """All members score; none trains."""
        for one in self.members.values():
            if isinstance(one.scorer, torch.nn.Module):
                one.scorer.eval()

    def to_payload(self) -> dict[str, Any]:
        """What a checkpoint must hold: the members' own parts, their weights, and the profile."""
        members: dict[str, dict[str, Any]] = {
            name: {
                "floor": one.floor,
                "weight": one.weight,
                "level": one.level,
                "centre": torch.from_numpy(one.centre),
                "parts": one.scorer.to_payload(),
            }
            for name, one in self.members.items()
        }
        _share_equal([one["parts"].get("weights", {}) for one in members.values()])
        return {"members": members, "profile": torch.from_numpy(self.profile)}

    @classmethod
    def from_payload(cls, payload: Mapping[str, Any], n_joint: int, build: Callable[[str, Any], Scorer]) -> StackScorer:
        """The stack a checkpoint holds; ``build(name, parts)`` makes a member's scorer. Parts that don't fit are a UserError."""
        profile = np.asarray(payload["profile"], np.float32)
        if profile.shape != (n_joint,) or not (profile > 0).all():
            raise UserError(f"profile: expected {n_joint} values above 0: train again")
        members = {}
        for name, held in payload["members"].items():
            require_keys(held, {"floor", "weight", "level", "centre", "parts"}, what=f"member {name}")
            floor, weight, level = (float(held[one]) for one in ("floor", "weight", "level"))
            centre = np.asarray(held["centre"], np.float32)
            if centre.shape != (n_joint,) or not floor > 0 or not weight >= 0 or not level >= 0:
                raise UserError(f"member {name}: floor, weights and centre do not fit: train again")
            members[name] = Member(build(name, held["parts"]), floor, centre, weight, level)
        return cls(members, profile)


def _share_equal(weights: Sequence[dict[str, Tensor]]) -> None:
    """Let equal tensors of one name be one: members remember the same rows, and a file holds a tensor once."""
    first: dict[str, list[Tensor]] = {}
    for one in weights:
        for name, tensor in one.items():
            known = first.setdefault(name, [])
            one[name] = next((other for other in known if _equal(other, tensor)), tensor)
            known.append(one[name])


def _equal(one: Tensor, other: Tensor) -> bool:
    return one.dtype == other.dtype and one.shape == other.shape and torch.equal(one, other)
