"""A learner that remembers: the training rows of every state travel with it, because they tell what its columns do not.

Base of the learners that are given the same information as awrq_plus: a state's columns, the joint action, revenue, and of
every state seen in training its logged rows with their *signal*, what the learner reads off ``plus.surrogate``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from awrq_mixer.learner_config import LearnerConfig
from awrq_mixer.learners.base import Batch, Learner, Totals
from awrq_mixer.learners.row_shards import RowShards
from awrq_mixer.networks.space import Space
from marca_common.errors import UserError

LEAST_SIGNAL = 1e-3  # smallest surrogate that has a logarithm, as a share of its mean
_MEMORY = {"key": torch.int64, "start": torch.int64, "codes": torch.int32, "numbers": torch.float32}
_MEMORY |= {"joint": torch.int32, "signal": torch.float32}


@dataclass
class Rows:
    """Logged rows of some states."""

    state: Tensor  # (B,) int64, which state each row is of
    codes: Tensor  # (B, categorical columns) int64
    numbers: Tensor  # (B, numeric columns)
    joint: Tensor  # (B,) int64, joint action
    signal: Tensor  # (B,)


class StateMemory(Learner):
    """Keeps whole states in a batch, and the training rows for serving; without a surrogate it remembers nothing."""

    uses_surrogate = True
    known_rows: ClassVar[tuple[str, ...]] = tuple(f"memory_{name}" for name in _MEMORY)
    any_size: ClassVar[tuple[str, ...]] = known_rows
    strides: Tensor

    def __init__(self, space: Space, config: LearnerConfig) -> None:
        super().__init__(space, config)
        strides = [math.prod(space.sizes[t + 1 :]) for t in range(len(space.sizes))]
        self.register_buffer("strides", torch.tensor(strides), persistent=False)
        self.history = history_columns(config, space)
        self.remembers = remembers_rows(config)
        self.shards: RowShards | None = None  # the training rows, where they are too many for memory
        for name, kind in _MEMORY.items():  # sorted by key; rows of key k are start[k] … start[k + 1]
            self.register_buffer(f"memory_{name}", torch.zeros(0, dtype=kind))

    @classmethod
    def check(cls, config: LearnerConfig) -> None:
        """Revenue must be modelled on a log scale, and ``plus.history`` must name categorical state columns."""
        if config.loss.kind != "tweedie":
            raise ValueError(
                f"loss.kind: got {config.loss.kind!r}; {config.learner} models log revenue, expected 'tweedie'"
            )
        check_history(config)

    def prepare(self, train: Batch | Totals, profile: Tensor) -> None:
        """Scale and profile as ever; remember the training rows."""
        super().prepare(train, profile)
        if not self.remembers or isinstance(train, Totals):  # rows in shards come as ``shards``
            return
        key, order = self.keys(train.codes).sort(stable=True)
        self.memory_key, counts = torch.unique_consecutive(key, return_counts=True)
        self.memory_start = torch.cat([counts.new_zeros(1), counts.cumsum(0)])
        rows = train.take(order)
        self.memory_codes, self.memory_numbers = rows.codes.int(), rows.numbers
        self.memory_joint, self.memory_signal = self.joint_of(rows).int(), self.signal(rows)

    def load_state_dict(self, state_dict: Mapping[str, Any], *args: Any, **kwargs: Any) -> Any:
        """Weights, and a memory of whatever size; one that does not hang together is a UserError."""
        self._check_memory(*(state_dict[f"memory_{name}"] for name in _MEMORY))
        for name in _MEMORY:
            setattr(self, f"memory_{name}", torch.empty_like(state_dict[f"memory_{name}"], device=self.joint.device))
        return super().load_state_dict(state_dict, *args, **kwargs)

    def _check_memory(
        self, key: Tensor, start: Tensor, codes: Tensor, numbers: Tensor, joint: Tensor, signal: Tensor
    ) -> None:
        if (not self.remembers or self.shards) and not any(
            part.numel() for part in (key, start, codes, numbers, joint, signal)
        ):
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

    def to_payload(self) -> dict[str, Any]:
        """Weights; rows in shards by the name of these."""
        return super().to_payload() | ({"rows": self.shards.name} if self.shards else {})

    def groups(self, data: Batch) -> Tensor | None:
        """Rows of one state come in one batch, because they speak for each other."""
        return torch.unique(self.keys(data.codes), return_inverse=True)[1] if self.remembers else None

    def keys(self, codes: Tensor) -> Tensor:
        """One number for the values of the ``plus.history`` columns, int64 (B,)."""
        return state_keys(codes, self.history, self.space.categories)

    def joint_of(self, batch: Batch) -> Tensor:
        """Joint action of each row, int64 (B,)."""
        return (batch.actions * self.strides).sum(1)

    def signal(self, batch: Batch) -> Tensor:
        """Log of the scaled surrogate, (B,)."""
        return (batch.surrogate / self.surrogate_scale).clamp_min(LEAST_SIGNAL).log()

    def rows_of(self, batch: Batch) -> tuple[Rows, Tensor]:
        """The batch's own rows by state, and one of its rows for each state, (S,)."""
        place = torch.arange(len(batch), device=batch.codes.device)
        state, first = place, place
        if self.history:
            found, state = torch.unique(self.keys(batch.codes), return_inverse=True)
            first = place.new_empty(len(found)).scatter_(0, state, place)
        return Rows(state, batch.codes, batch.numbers, self.joint_of(batch), self.signal(batch)), first

    def remembered(self, codes: Tensor) -> Rows:
        """The training rows of the states with these codes (S, columns); none for a state that was not there."""
        if not self.remembers:
            nothing, numbers = self.memory_signal, self.memory_numbers.reshape(0, self.space.numeric)
            return Rows(nothing.long(), codes[:0], numbers, nothing.long(), nothing)
        return self.rows_at(*self.places(self.keys(codes)))

    def places(self, key: Tensor) -> tuple[Tensor, Tensor]:
        """Which training rows have the keys (S,), and the number of the key of each, both int64 (R,)."""
        if self.shards:
            found = self.shards.places(key.cpu().numpy())
            places, owner = (torch.from_numpy(one).to(key.device) for one in found)
            return places, owner
        place = torch.searchsorted(self.memory_key, key).clamp_max(len(self.memory_key) - 1)
        counts = (self.memory_start[place + 1] - self.memory_start[place]) * (self.memory_key[place] == key)
        owner = torch.repeat_interleave(torch.arange(len(key), device=key.device), counts)
        within = torch.arange(len(owner), device=key.device) - (counts.cumsum(0) - counts)[owner]
        return self.memory_start[place][owner] + within, owner

    def rows_at(self, places: Tensor, owner: Tensor) -> Rows:
        """The training rows at ``places`` as those of states ``owner``, both (R,)."""
        if self.shards:
            rows = self.shards.take(places.cpu().numpy()).to(places.device)
            return Rows(owner, rows.codes, rows.numbers, self.joint_of(rows), self.signal(rows))
        past, joint = self.memory_codes[places].long(), self.memory_joint[places].long()
        return Rows(owner, past, self.memory_numbers[places], joint, self.memory_signal[places])


def remembers_rows(config: LearnerConfig) -> bool:
    """Does a state's memory tell anything? It holds a side column, of states that some columns tell apart."""
    return config.plus.surrogate is not None and bool(_history_names(config))


def state_keys(codes: Tensor, history: Sequence[int], categories: Sequence[int]) -> Tensor:
    """One number for the values of the ``history`` columns, int64 (B,), of codes (B, columns)."""
    key = codes.new_zeros(codes.shape[0])  # not len(): torch.export would fix the number of rows
    for j in history:
        key = key * categories[j] + codes[:, j]
    return key


def check_history(config: LearnerConfig) -> None:
    """A ValueError unless ``plus.history`` names categorical state columns."""
    categories = _category_names(config)
    for name in config.plus.history or []:
        if name not in categories:
            raise ValueError(f"plus.history: got {name!r}; expected categorical state columns, of {categories}")


def history_columns(config: LearnerConfig, space: Space) -> list[int]:
    """Places of the ``plus.history`` columns among the categorical ones; a UserError where they have too many values."""
    names = _category_names(config)
    places = [names.index(name) for name in _history_names(config)]
    if math.prod(space.categories[j] for j in places) * space.n_joint >= 2**62:
        raise UserError(
            "plus.history: its columns have more than 2^62 combinations of values; name fewer columns, or [] for none"
        )
    return places


def _history_names(config: LearnerConfig) -> list[str]:
    return _category_names(config) if config.plus.history is None else config.plus.history


def _category_names(config: LearnerConfig) -> list[str]:
    return [name for name, kind in config.spec.state.items() if kind == "category"]
