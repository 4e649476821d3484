"""From a request log to tensors: read, cut by time, encode."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from awrq_mixer.anchoring.global_profile import result_columns
from awrq_mixer.config import TrainConfig
from awrq_mixer.learners import STACK
from awrq_mixer.learners.base import Batch
from awrq_mixer.networks.space import Space
from marca_common.column_values import categories, is_identifier
from marca_common.encoding import StateEncoder
from marca_common.errors import UserError
from marca_common.requests import RequestSpec
from marca_common.seeding import numpy_generator
from marca_common.spread import is_flat, require_earned, require_usable
from marca_common.tables import Column


@dataclass
class Log:
    """A request log cut by time, and what encodes it. Test rows are read by evaluation only."""

    spec: RequestSpec
    encoder: StateEncoder
    train: pd.DataFrame
    validation: pd.DataFrame
    test: pd.DataFrame
    earlier: int  # training rows of the first half, by time
    identifiers: Sequence[str] = ()  # state columns that were left out: no value comes back

    @property
    def space(self) -> Space:
        """Sizes that networks need."""
        return Space.of(self.spec, self.encoder)

    @property
    def profile(self) -> np.ndarray:
        """Logging profile of the training rows, (A,)."""
        return logging_profile(self.train, self.spec)

    @property
    def reward_range(self) -> tuple[float, float]:
        """Least and most revenue of a training row, money."""
        reward = self.train[self.spec.reward]
        return float(reward.min()), float(reward.max())


def load_log(config: TrainConfig) -> Log:
    """Read the config's log, cut it by time and fit the state encoder on the training rows.

    A state column with a value of its own in nearly every training row is left out. Raises UserError for a bad file, too few
    rows, a sub-action that never varies, or revenue that is 0 throughout or drowned by a few rows.
    """
    spec, side_columns = config.spec, config.observed_columns()
    extra = [Column(name, "float", 0) for name in side_columns]
    extra += result_columns(spec) if config.learner == STACK else []  # its profile needs them
    train, validation, test = read_by_time(config.requests, config, extra)
    require_training_rows(len(train), len(train) + len(validation) + len(test), config)
    for name in spec.sub_actions:
        require_varied(name, train[name].unique(), config)
    for column in (spec.reward, *side_columns):
        place = f"{config.requests}: column {column!r}"
        require_earned(train[column].to_numpy(), f"{place} in the training rows")
        require_usable(pd.concat([train[column], validation[column]]).to_numpy(), place)
        if column != spec.reward:
            require_informative(
                train[column].to_numpy(), np.array_equal(train[column], train[spec.reward]), spec.reward, place
            )
    columns = [name for name, kind in spec.state.items() if kind == "category"]
    left_out = identifiers({name: len(categories(train, name).unique()) for name in columns}, len(train), config)
    spec = config.without_columns(left_out).spec
    encoder = StateEncoder.fit(train, spec.state, config.requests)
    return Log(spec, encoder, train, validation, test, len(train) // 2, left_out)


def identifiers(values: Mapping[str, int], rows: int, config: TrainConfig) -> list[str]:
    """State columns to leave out, by the number of their ``values`` in the training ``rows``; never all columns."""
    found = [name for name, many in values.items() if is_identifier(many, rows)]
    return found if len(found) < len(config.spec.state) else []


def require_training_rows(train: int, rows: int, config: TrainConfig) -> None:
    """A UserError where too few of a log's rows are for training."""
    if train < 2:
        raise UserError(f"{config.requests}: {rows} rows leave {train} for training; expected at least 2")
    config.spec.require_rows(train, config.requests)


def require_varied(name: str, values: np.ndarray, config: TrainConfig) -> None:
    """A UserError where a sub-action takes only one of its values in the training rows, whose distinct ``values`` are given."""
    if config.spec.sizes[name] > 1 and len(values) < 2:
        raise UserError(
            f"{config.requests}: column {name!r}: the only value in the training rows is {values[0]}; "
            "expected at least two, or its effect cannot be learned"
        )


def require_informative(values: np.ndarray, same: bool, reward: str, place: str) -> None:
    """A UserError where a side column's training ``values`` (all of them, or least and largest) are flat, or the ``same`` as revenue."""
    if is_flat(values):
        raise UserError(f"{place}: is {values[0]:g} in all training rows; expected a side column that varies")
    if same:
        raise UserError(f"{place}: equals {reward!r} in all training rows; expected an observation of its own")


def odd_data(encoder: StateEncoder, left_out: Sequence[str], reward: str, ends: tuple[float, float]) -> list[str]:
    """What a reader of the results must know of training rows that teach little, a sentence each.

    ``left_out``: state columns that were; ``ends``: range of the ``reward``.
    """
    notes = encoder.constant_columns()
    notes += [
        f"state column {name!r} has a value of its own in nearly every training row: nothing can be learned from it, it is left out"
        for name in left_out
    ]
    if is_flat(np.array(ends)):
        notes.append(f"column {reward!r} is {ends[0]:g} in all training rows: no action is better than another")
    return notes


def read_by_time(
    requests: str, config: TrainConfig, extra: list[Column] | None = None
) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]:
    """Training, validation and test rows of a log, cut in time order as a training config says."""
    frame = config.spec.read(requests, extra=extra)
    if config.max_rows:
        frame = frame.iloc[-config.max_rows :].reset_index(drop=True)
    first = round(len(frame) * config.split.train)
    second = round(len(frame) * (config.split.train + config.split.validation))
    return frame.iloc[config.split.learned(first)], frame.iloc[first:second], frame.iloc[second:]


def make_batch(frame: pd.DataFrame, spec: RequestSpec, encoder: StateEncoder, surrogate: str | None = None) -> Batch:
    """Rows of a log as one batch of tensors."""
    codes, numbers = encoder.transform(frame)
    actions = np.stack([frame[name].to_numpy(np.int64) for name in spec.sub_actions], axis=1)
    reward = frame[spec.reward].to_numpy(np.float32)
    observed = frame[surrogate].to_numpy(np.float32) if surrogate in frame else np.full(len(frame), np.nan, np.float32)
    return Batch(*(torch.from_numpy(np.ascontiguousarray(x)) for x in (codes, numbers, actions, reward, observed)))


def batches(many: int, size: int, seed: int, start: int = 0, groups: Tensor | None = None) -> Iterator[Tensor]:
    """Numbers of the rows of endless shuffled batches of ``many`` rows, from number ``start`` on.

    The order is a function of ``seed`` and the epoch alone. With ``groups`` (many,) rows of one group stay together, as
    long as they fit, and batches have ``size`` rows on average.
    """
    size = min(size, many)
    per_epoch = many // size
    epoch, offset = divmod(start, per_epoch)
    while True:
        rng = numpy_generator(seed, "order", epoch)
        if groups is None:
            order = rng.permutation(many)
            edges = np.arange(per_epoch + 1) * size
        else:
            order, edges = _grouped_order(groups.cpu().numpy(), size, per_epoch, rng)
        rows = torch.from_numpy(order)
        for number in range(offset, per_epoch):
            yield rows[edges[number] : edges[number + 1]]
        epoch, offset = epoch + 1, 0


def _grouped_order(
    groups: np.ndarray, size: int, per_epoch: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Rows by shuffled group, and the edges of ``per_epoch`` batches; groups over ``size`` rows are cut into parts of it."""
    order, ends = shuffled_groups(groups, size, rng)
    wanted = np.arange(1, per_epoch) * len(groups) / per_epoch
    return order, np.r_[0, ends[np.searchsorted(ends, wanted)], len(groups)]


def shuffled_groups(groups: np.ndarray, most: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Rows by shuffled group (N,), and the end of each group in that order; those over ``most`` rows are cut into parts of it."""
    by_group = np.argsort(groups, kind="stable")
    first = np.r_[0, np.flatnonzero(np.diff(groups[by_group])) + 1]
    counts = np.diff(np.r_[first, len(groups)])
    within = np.arange(len(groups)) - np.repeat(first, counts)
    part = np.cumsum((within % most) == 0) - 1  # number of the group's part, in order of the group
    shuffled = np.argsort(rng.permutation(part[-1] + 1)[part], kind="stable")
    return by_group[shuffled], np.r_[np.flatnonzero(np.diff(part[shuffled])) + 1, len(groups)]


def logging_profile(frame: pd.DataFrame, spec: RequestSpec) -> np.ndarray:
    """How often the logging policy takes each joint action: product of the sub-actions' shares, float64 (A,).

    The product is what independent exploration of sub-actions gives, and needs no smoothing.
    """
    return shares_of_choices([np.bincount(frame[name], minlength=spec.sizes[name]) for name in spec.sub_actions])


def shares_of_choices(counts: Sequence[np.ndarray]) -> np.ndarray:
    """The same from rows per choice of every sub-action."""
    profile = np.ones(1)
    for count in counts:
        profile = np.outer(profile, count / count.sum()).ravel()
    return profile
