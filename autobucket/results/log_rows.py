"""Request logs as tensors, split by time."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from autobucket.results.estimator_config import DataConfig, TaskConfig
from autobucket.results.tasks import labels_of
from marca_common.encoding import StateEncoder
from marca_common.errors import UserError
from marca_common.requests import RequestSpec
from marca_common.spread import require_usable
from marca_common.tables import Column


@dataclass
class EncodedRows:
    """Encoded rows of a log."""

    codes: Tensor  # int64 (M, categorical state columns)
    numbers: Tensor  # float32 (M, numeric state columns)
    actions: Tensor  # int64 (M, sub-actions)
    joint: Tensor  # int64 (M,) joint actions
    labels: Tensor  # float32 (M, tasks), in each result's own unit

    def __len__(self) -> int:
        return len(self.actions)

    def take(self, index: Tensor | slice) -> EncodedRows:
        """The rows of ``index``."""
        return EncodedRows(*(part[index] for part in self._parts()))

    def to(self, device: torch.device) -> EncodedRows:
        """The same rows on ``device``."""
        return EncodedRows(*(part.to(device) for part in self._parts()))

    def _parts(self) -> tuple[Tensor, ...]:
        return self.codes, self.numbers, self.actions, self.joint, self.labels

    def batches(self, size: int) -> Iterator[EncodedRows]:
        """Consecutive slices of ``size`` rows."""
        for start in range(0, len(self), size):
            yield self.take(slice(start, start + size))


def read_log(config: DataConfig, tasks: Mapping[str, TaskConfig]) -> pd.DataFrame:
    """State, action and task columns of the log in time order."""
    schema = config.spec.table_schema(reward=False)
    known = {column.name for column in schema}
    extra = [Column(name, low=0 if name in config.spec.results else -np.inf) for name in tasks if name not in known]
    frame = config.spec.read(config.requests, reward=False, extra=extra)
    return frame if config.max_rows is None else frame.tail(config.max_rows).reset_index(drop=True)


def split(config: DataConfig, frame: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]:
    """Training, validation and test rows, each later than the one before."""
    test = int(round(len(frame) * (1 - config.test_share)))
    validation = int(round(len(frame) * (1 - config.test_share - config.validation_share)))
    if validation < 1 or test <= validation:
        raise UserError(
            f"{config.requests}: got {len(frame)} rows; too few for training and validation at the given shares"
        )
    train, middle, last = frame.iloc[:validation], frame.iloc[validation:test], frame.iloc[test:]
    return train.reset_index(drop=True), middle.reset_index(drop=True), last.reset_index(drop=True)


def require_learnable(config: DataConfig, frame: pd.DataFrame, tasks: Mapping[str, TaskConfig]) -> None:
    """A UserError where a few rows' results drown all others; a result turned into 0/1 may have any size."""
    for name, task in tasks.items():
        if task.above is None:
            require_usable(frame[name].to_numpy(np.float64), f"{config.requests}: column {name!r}")


def encode(
    frame: pd.DataFrame, encoder: StateEncoder, spec: RequestSpec, tasks: Mapping[str, TaskConfig]
) -> EncodedRows:
    """Rows of a frame that holds state, action and task columns."""
    codes, numbers = encoder.transform(frame)
    actions = frame[list(spec.sub_actions)].to_numpy(np.int64).copy()
    labels = [labels_of(name, task, frame[name].to_numpy()) for name, task in tasks.items()]
    return EncodedRows(
        torch.from_numpy(codes),
        torch.from_numpy(numbers),
        torch.from_numpy(actions),
        torch.from_numpy(spec.joint_index(frame)),
        torch.from_numpy(np.stack(labels, axis=1)),
    )
