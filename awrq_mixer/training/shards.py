"""Training rows that stay in their Parquet shards; memory holds a bounded number of them, however many there are.

The training rows are cut into ``lanes`` equal stretches, and every batch takes as many rows from each of them. A lane reads its
row groups in an order drawn for the epoch, several at a time until it has its share of ``buffer_rows``, and shuffles these. So the
order is a function of seed, epoch and position: a resumed run begins to read where it stopped, and a rank works on its own lanes.
The number of ranks changes nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import pandas as pd
import torch

from awrq_mixer.anchoring.global_profile import result_columns
from awrq_mixer.config import TrainConfig
from awrq_mixer.learners import STACK
from awrq_mixer.learners.base import Batch, Totals
from awrq_mixer.networks.space import Space
from awrq_mixer.training.survey import Cut, survey_of
from awrq_mixer.training.training_log import identifiers, make_batch
from awrq_mixer.training.training_rows import BatchPart
from marca_common.encoding import StateEncoder
from marca_common.ranks import Ranks
from marca_common.requests import RequestSpec
from marca_common.row_groups import RowGroup, read_row_group, row_groups
from marca_common.seeding import numpy_generator
from marca_common.tables import Column


@dataclass(frozen=True)
class Shards:
    """A log's row groups, and how they are read."""

    spec: RequestSpec
    schema: list[Column]
    groups: list[RowGroup]

    @classmethod
    def of(cls, config: TrainConfig) -> Shards:
        """Those of the config's log; opens the footer of every shard."""
        spec = config.spec
        schema = [*spec.table_schema(), *(Column(name, "float", 0) for name in config.observed_columns())]
        schema += result_columns(spec) if config.learner == STACK else []  # its profile needs them
        return cls(spec, schema, row_groups(config.requests, schema, spec.columns))

    def read(self, group: RowGroup, first: int, end: int) -> pd.DataFrame:
        """The rows of a group in time order, from number ``first`` of the log up to ``end``; index: number of the row."""
        spec = self.spec
        frame = read_row_group(group, self.schema, rename=spec.columns, timezone=spec.timezone, **spec.reading)
        if spec.timestamp and not frame[spec.timestamp].is_monotonic_increasing:
            frame = frame.sort_values(spec.timestamp, kind="stable", ignore_index=True)
        frame.index = pd.RangeIndex(group.start, group.start + group.rows)
        return frame.loc[first : end - 1]


@dataclass
class ShardedLog:
    """A request log in shards cut by time, and what encodes it; the counterpart of ``training_log.Log``."""

    spec: RequestSpec
    encoder: StateEncoder
    validation: pd.DataFrame  # a bounded number of rows
    profile: np.ndarray  # logging profile (A,)
    reward_range: tuple[float, float]  # of the training rows, money
    totals: Totals
    shards: Shards
    cut: Cut
    identifiers: Sequence[str]  # state columns that were left out: no value comes back

    @property
    def space(self) -> Space:
        """Sizes that networks need."""
        return Space.of(self.spec, self.encoder)

    def fingerprint(self) -> list[float]:
        """What tells the training rows from others: their revenue, side column and choices added up."""
        counts, totals = self.totals.counts, self.totals
        choices = (counts * torch.arange(counts.shape[1])).sum()
        money = [
            float(one)
            for name in totals.sums
            for one in (totals.sums[name][0].sum(), totals.above[name], totals.whole[name])
        ]
        return [*money, float(choices)]


def load_shards(config: TrainConfig, ranks: Ranks) -> ShardedLog:
    """Cut the config's log by time and survey it in one pass that the ranks share.

    Raises UserError for a bad shard or row, and where nothing can be learned, as ``load_log`` does.
    """
    assert config.stream is not None
    if config.stream.lanes % ranks.size:
        raise ranks.refusal(f"stream.lanes: got {config.stream.lanes}; expected a multiple of the {ranks.size} ranks")
    shards = ranks.lead(partial(Shards.of, config))
    last = shards.groups[-1]
    cut = Cut.of(last.start + last.rows, config)
    found = survey_of(shards.groups, config, cut, shards.read, ranks)
    reward, rows = found.money[config.spec.reward], int(found.counts[0].sum())
    left_out = identifiers({name: len(one) for name, one in found.words.items()}, rows, config)
    return ShardedLog(
        config.without_columns(left_out).spec,
        found.encoder(left_out),
        found.validation.frame(),
        found.profile(config),
        (reward.low, reward.high),
        found.totals(config),
        shards,
        cut,
        left_out,
    )


class StreamedRows:
    """The training rows of a log in shards; the counterpart of ``training_rows.MemoryRows``."""

    def __init__(self, log: ShardedLog, config: TrainConfig, device: torch.device, ranks: Ranks) -> None:
        assert config.stream is not None
        self.log, self.config, self.device, self.ranks = log, config.stream, device, ranks
        self.surrogate = config.plus.surrogate
        self.lane_rows = (log.cut.train_end - log.cut.train) // self.config.lanes
        self.known: Batch | Totals = log.totals
        if not self.lane_rows:
            raise ranks.refusal(
                f"stream.lanes: {self.config.lanes} are more than there are training rows; expected fewer"
            )

    def __len__(self) -> int:
        return self.lane_rows * self.config.lanes

    def batch_size(self, wanted: int) -> int:
        """Rows per update, all ranks together: as wanted, but no more than there are."""
        return min(wanted, len(self))

    def fingerprint(self) -> list[float]:
        """What tells these rows from others: how many, their revenue, and their choices added up."""
        return [float(len(self)), *self.log.fingerprint()]

    def batches(self, size: int, seed: int, start: int) -> Iterator[BatchPart]:
        """Endless batches from number ``start`` on; of each, this rank's rows: those of its lanes, one after the other."""
        lanes, share = self.config.lanes, self.config.lanes // self.ranks.size
        mine = range(self.ranks.rank * share, (self.ranks.rank + 1) * share)
        streams = [self._lane(lane, size // lanes, seed, start) for lane in mine]
        for parts in zip(*streams):
            yield BatchPart(Batch.joined(parts).to(self.device), 1 / self.ranks.size)

    def _lane(self, lane: int, size: int, seed: int, start: int) -> Iterator[Batch]:
        """Endless parts of batches, ``size`` rows each, from one lane."""
        per_epoch = self.lane_rows // size
        epoch, number = divmod(start, per_epoch)
        while True:
            held: list[Batch] = []
            for window in self._windows(lane, seed, epoch, number * size):
                rows = Batch.joined([*held, window])
                many = min(len(rows) // size, per_epoch - number)
                for place in range(many):
                    yield rows.take(slice(place * size, (place + 1) * size))
                held, number = [rows.take(slice(many * size, None))], number + many
                if number == per_epoch:
                    break
            epoch, number = epoch + 1, 0

    def _windows(self, lane: int, seed: int, epoch: int, start: int) -> Iterator[Batch]:
        """The lane's rows in the epoch's order, some row groups at a time, without the first ``start`` rows."""
        first = self.log.cut.train + lane * self.lane_rows
        end = first + self.lane_rows
        own = [one for one in self.log.shards.groups if one.start < end and one.start + one.rows > first]
        order = numpy_generator(seed, "shards", lane, epoch).permutation(len(own))
        most, before = self.config.buffer_rows / self.config.lanes, 0
        window: list[RowGroup] = []
        for place in order:
            window.append(own[place])
            rows = sum(min(one.start + one.rows, end) - max(one.start, first) for one in window)
            if rows < most and place != order[-1]:
                continue
            if before + rows > start:
                shuffled = numpy_generator(seed, "order", lane, epoch, before).permutation(rows)
                yield self._read(window, first, end).take(torch.from_numpy(shuffled[max(start - before, 0) :]))
            window, before = [], before + rows

    def _read(self, groups: list[RowGroup], first: int, end: int) -> Batch:
        log = self.log
        frames = [log.shards.read(one, first, end) for one in groups]
        return Batch.joined([make_batch(frame, log.spec, log.encoder, self.surrogate) for frame in frames])
