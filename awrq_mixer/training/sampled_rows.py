"""Rows of a log in shards that fit into memory: drawn by the hash of their number, so the same by any number of ranks."""

from __future__ import annotations

import numpy as np
import pandas as pd

from awrq_mixer.config import TrainConfig
from awrq_mixer.training.shards import ShardedLog
from awrq_mixer.training.training_log import Log
from marca_common.ranks import Ranks
from marca_common.row_groups import RowGroup


def sampled(log: ShardedLog, config: TrainConfig, ranks: Ranks) -> Log:
    """A log in memory of at most ``stream.evidence_rows`` training rows, and as many of validation, in their order."""
    assert config.stream is not None
    most, cut = config.stream.evidence_rows, log.cut
    stretches = (cut.train, cut.train_end), (cut.validation, cut.test)

    def of_group(group: RowGroup) -> list[list[pd.DataFrame]]:
        rows = log.shards.read(group, cut.train, cut.test)
        plain = rows.astype({name: object for name, kind in log.spec.state.items() if kind == "category"})
        return [[_drawn(plain.loc[first : end - 1], (end - first) / most) for first, end in stretches]]

    groups = [one for one in log.shards.groups if one.start < cut.test and one.start + one.rows > cut.train]
    train, validation = (_smallest(pd.concat(parts), most) for parts in zip(*ranks.sum(of_group, groups)))
    earlier = int((train.index < (cut.train + cut.train_end) // 2).sum())
    train, validation = (one.reset_index(drop=True) for one in (train, validation))
    return Log(log.spec, log.encoder, train, validation, validation.iloc[:0], earlier)


def _drawn(rows: pd.DataFrame, times: float) -> pd.DataFrame:
    """The rows that can be among the smallest hashes, where there are ``times`` as many rows as are wanted; a tenth too many."""
    return rows[_hashes(rows) <= min(1.1 / max(times, 1.1), 1.0) * np.iinfo(np.uint64).max]


def _smallest(rows: pd.DataFrame, most: int) -> pd.DataFrame:
    """At most ``most`` rows, of the smallest hashes, in their order."""
    return rows.iloc[np.argsort(_hashes(rows), kind="stable")[:most]].sort_index()


def _hashes(rows: pd.DataFrame) -> np.ndarray:
    """Of the number that each row has in the log, uint64."""
    return np.asarray(pd.util.hash_array(rows.index.to_numpy()))
