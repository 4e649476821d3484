"""One pass over a log in shards: all that training must know of its rows before the first update.

Surveys of row groups add up to that of the log, exactly the same in any order, so any number of ranks finds the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
import torch

from awrq_mixer.config import TrainConfig
from awrq_mixer.learners.base import Totals
from awrq_mixer.training.training_log import (
    require_informative,
    require_training_rows,
    require_varied,
    shares_of_choices,
)
from awrq_mixer.training.validation_rows import ValidationRows
from marca_common.column_values import categories
from marca_common.encoding import StateEncoder
from marca_common.errors import UserError
from marca_common.ranks import Ranks
from marca_common.row_groups import RowGroup
from marca_common.spread import Moments, require_some, require_usable


@dataclass(frozen=True)
class Cut:
    """Numbers of the first training, validation and test rows of a log, and of its rows."""

    train: int
    train_end: int
    validation: int
    test: int
    end: int

    @classmethod
    def of(cls, rows: int, config: TrainConfig) -> Cut:
        """As ``read_by_time`` cuts."""
        used = min(rows, config.max_rows or rows)
        train, both = config.split.train, config.split.train + config.split.validation
        first, learned = rows - used, config.split.learned(round(used * train))
        return cls(
            first + learned.start, first + learned.stop, first + round(used * train), first + round(used * both), rows
        )


@dataclass
class Survey:
    """What training and validation rows come to."""

    words: dict[str, set[str]]  # categories of the state columns
    numbers: dict[str, Moments]  # numeric state columns
    money: dict[str, Moments]  # reward and side columns, in single precision as training reads them
    counts: np.ndarray  # (T, most choices) int64, rows of every choice
    sums: dict[str, np.ndarray]  # columns of ``money`` → the same for their sum, Fraction
    above: dict[str, int]  # rows in which a column of ``money`` is above 0
    whole: dict[str, int]  # the same where it is a whole number
    same: dict[str, int]  # rows in which a side column equals the reward
    times: dict[int, tuple[Any, Any]]  # first row of a row group → its first and last time
    validation: ValidationRows

    @classmethod
    def of(cls, group: RowGroup, config: TrainConfig, cut: Cut, frame: pd.DataFrame) -> Survey:
        """Of one row group with the rows ``frame``, numbered as in the log."""
        spec, place = config.spec, str(group.path)
        observed = [spec.reward, *config.observed_columns()]
        train = frame.loc[cut.train : cut.train_end - 1]
        for column in observed:
            require_usable(frame[column].to_numpy(), f"{place}: column {column!r}")
        kinds = spec.state.items()
        numbers = {name: train[name].to_numpy(np.float64) for name, kind in kinds if kind == "numeric"}
        for name, values in numbers.items():
            require_usable(values, f"{place}: state column {name!r}")
        money = {name: train[name].to_numpy(np.float32).astype(np.float64) for name in observed}
        times = frame[spec.timestamp] if spec.timestamp else None
        return cls(
            {name: set(categories(train, name).unique()) for name, kind in kinds if kind == "category"},
            {name: Moments.of(values) for name, values in numbers.items()},
            {name: Moments.of(values) for name, values in money.items()},
            _by_choice(train, config, np.ones(len(train))).astype(np.int64),
            {
                name: np.vectorize(Fraction, otypes=[object])(_by_choice(train, config, one))
                for name, one in money.items()
            },
            {name: int((one > 0).sum()) for name, one in money.items()},
            {name: int((one == one.round()).sum()) for name, one in money.items()},
            {name: int((money[name] == money[spec.reward]).sum()) for name in observed[1:]},
            {} if times is None else {group.start: (times.min(), times.max())},
            ValidationRows.of(frame.loc[cut.validation :], spec, config.validation_rows, config.seed),
        )

    def __add__(self, other: Survey) -> Survey:
        return Survey(
            {name: one | other.words[name] for name, one in self.words.items()},
            _added(self.numbers, other.numbers),
            _added(self.money, other.money),
            self.counts + other.counts,
            _added(self.sums, other.sums),
            _added(self.above, other.above),
            _added(self.whole, other.whole),
            _added(self.same, other.same),
            self.times | other.times,
            self.validation + other.validation,
        )

    def encoder(self, left_out: Sequence[str]) -> StateEncoder:
        """Vocabularies and moments of the training rows, but of columns ``left_out``."""
        numbers = {name: (one.mean, one.spread, one.low, one.high) for name, one in self.numbers.items()}
        return StateEncoder.of({name: sorted(one) for name, one in self.words.items() if name not in left_out}, numbers)

    def totals(self, config: TrainConfig) -> Totals:
        """What learners prepare from."""
        names = {"reward": config.spec.reward} | ({"surrogate": config.plus.surrogate} if config.plus.surrogate else {})
        sums = {name: torch.from_numpy(self.sums[column].astype(np.float64)) for name, column in names.items()}
        counts = torch.from_numpy(self.counts).double()
        return Totals(
            counts, sums, *({name: one[column] for name, column in names.items()} for one in (self.above, self.whole))
        )

    def profile(self, config: TrainConfig) -> np.ndarray:
        """The logging profile, float64 (A,)."""
        return shares_of_choices([row[:size] for row, size in zip(self.counts, config.spec.shape)])

    def check(self, config: TrainConfig, cut: Cut) -> None:
        """A UserError for rows that nothing can be learned from, as for a log in memory."""
        spec, rows = config.spec, int(self.counts[0].sum())
        require_training_rows(rows, cut.end - cut.train, config)
        for name, row in zip(spec.sub_actions, self.counts):
            require_varied(name, np.flatnonzero(row), config)
        for column, one in self.money.items():
            place = f"{config.requests}: column {column!r}"
            require_some(one.high, rows, f"{place} in the training rows")
            if column != spec.reward:
                require_informative(np.array([one.low, one.high]), self.same[column] == rows, spec.reward, place)
        last = None
        for start, (first, end) in sorted(self.times.items()):
            if last is not None and first < last:
                raise UserError(
                    f"{config.requests}: row {start + 1} and those after it begin at {first}, before {last} of earlier rows; "
                    "expected row groups in time order, or stream: null"
                )
            last = end


def survey_of(groups: list[RowGroup], config: TrainConfig, cut: Cut, read: Any, ranks: Ranks) -> Survey:
    """One pass over the training and validation rows of a log, shared by the ranks; a UserError for a bad row."""
    needed = [one for one in groups if one.start < cut.test and one.start + one.rows > cut.train]
    found: Survey = ranks.sum(partial(_of_group, config, cut, read), needed)
    ranks.lead(partial(found.check, config, cut))
    return found


def _of_group(config: TrainConfig, cut: Cut, read: Any, group: RowGroup) -> Survey:
    return Survey.of(group, config, cut, read(group, cut.train, cut.test))


def _by_choice(train: pd.DataFrame, config: TrainConfig, values: np.ndarray) -> np.ndarray:
    """Sums of ``values`` (M,) by choice of every sub-action, (T, most choices)."""
    spec = config.spec
    most = max(spec.shape)
    return np.stack([np.bincount(train[name], values, minlength=most) for name in spec.sub_actions])


def _added(one: dict[str, Any], other: dict[str, Any]) -> dict[str, Any]:
    return {name: value + other[name] for name, value in one.items()}
