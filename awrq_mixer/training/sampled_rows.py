"""Rows of a log in shards that fit into memory: drawn by the hash of their number, so the same by any number of ranks."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from awrq_mixer.config import TrainConfig
from awrq_mixer.training.shards import ShardedLog
from awrq_mixer.training.training_log import Log
from marca_common.ranks import Ranks
from marca_common.row_groups import RowGroup


@dataclass(frozen=True)
class Sample:
    """The rows of some parts of a log whose numbers have the smallest hashes; ``+`` joins those of several parts."""

    rows: pd.DataFrame  # index: number of the row in the log
    most: int

    def __add__(self, other: Sample) -> Sample:
        return Sample.of(pd.concat([self.rows, other.rows]), self.most)

    @classmethod
    def of(cls, rows: pd.DataFrame, most: int) -> Sample:
        """At most ``most`` of the rows."""
        if len(rows) > most:
            drawn = np.argpartition(pd.util.hash_array(rows.index.to_numpy()), most - 1)[:most]
            rows = rows.iloc[np.sort(drawn)]
        return cls(rows, most)


@dataclass(frozen=True)
class Samples:
    """Of the training and of the validation rows; ``+`` joins those of several parts."""

    train: Sample
    validation: Sample

    def __add__(self, other: Samples) -> Samples:
        return Samples(self.train + other.train, self.validation + other.validation)


def sampled(log: ShardedLog, config: TrainConfig, ranks: Ranks) -> Log:
    """A log in memory of at most ``stream.evidence_rows`` training rows, and as many of validation, in their order."""
    assert config.stream is not None
    most, cut = config.stream.evidence_rows, log.cut

    def of_group(group: RowGroup) -> Samples:
        rows = log.shards.read(group, cut.train, cut.test)
        plain = rows.astype({name: object for name, kind in log.spec.state.items() if kind == "category"})
        return Samples(Sample.of(plain.loc[: cut.train_end - 1], most), Sample.of(plain.loc[cut.validation :], most))

    groups = [one for one in log.shards.groups if one.start < cut.test and one.start + one.rows > cut.train]
    found = ranks.sum(of_group, groups)
    train, validation = found.train.rows.sort_index(), found.validation.rows.sort_index()
    earlier = int((train.index < (cut.train + cut.train_end) // 2).sum())
    train, validation = (one.reset_index(drop=True) for one in (train, validation))
    return Log(log.spec, log.encoder, train, validation, validation.iloc[:0], earlier)
