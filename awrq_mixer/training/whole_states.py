"""Training rows of a log in shards for learners that need the rows of a state together: the one real shuffle, and its batches.

The training rows are encoded and sorted by state into ``RowShards``: first each row group by itself, then a stretch of keys
at a time. A *lane* is some shards one after the other, and every batch takes about as many rows from each lane. A lane reads
its shards in an order drawn for the epoch and shuffles the states of one at a time. So memory holds a shard per lane.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch

from awrq_mixer.config import TrainConfig
from awrq_mixer.learners.base import Batch, Totals
from awrq_mixer.learners.row_shards import BY_GROUP, KeyedRows, RowShards, is_finished, shard_path, write_index
from awrq_mixer.learners.state_memory import history_columns, state_keys
from awrq_mixer.training.shards import ShardedLog
from awrq_mixer.training.training_log import make_batch, shuffled_groups
from awrq_mixer.training.training_rows import BatchPart
from marca_common.config import content_hash, to_dict
from marca_common.errors import UserError
from marca_common.ranks import Ranks
from marca_common.row_groups import RowGroup
from marca_common.seeding import numpy_generator
from marca_common.torch_seeding import OwnPlaces

_MOST = 10_000  # files of sorted rows, all mapped at once
_MARKS = 256  # keys of a row group that tell where its rows lie


def sorted_by_state(log: ShardedLog, config: TrainConfig, ranks: Ranks, folder: Path) -> RowShards:
    """The training rows of a log sorted by state, in ``folder``; made by all ranks together unless they are there.

    A group that was killed and is started again redoes at most what was in hand.
    """
    target = folder / _name(log, config)
    if not ranks.lead(partial(is_finished, target)):
        many = ranks.each(partial(_stretches, log, config))
        groups = [
            one for one in log.shards.groups if one.start < log.cut.train_end and one.start + one.rows > log.cut.train
        ]
        marks = ranks.map(partial(_sort, log, config, target / BY_GROUP), list(enumerate(groups)))
        edges = stretches(marks, many)
        places = np.stack(ranks.map(partial(_places, target / BY_GROUP, edges), range(len(groups))))
        rows = np.diff(places.sum(axis=0))
        ranks.each(partial(_require_full_lanes, rows, config))
        ranks.map(partial(_gather, target, places), range(many))
        ranks.lead(partial(write_index, target, edges, rows))
    ranks.lead(partial(shutil.rmtree, target / BY_GROUP, ignore_errors=True))
    return ranks.each(partial(RowShards, target, log.space))


def _name(log: ShardedLog, config: TrainConfig) -> str:
    """Tells rows and their encoding from others."""
    files = [(str(one.path), one.number, one.rows) for one in log.shards.groups]
    rows = [files, log.cut.train, log.cut.train_end, *log.fingerprint()]
    return content_hash(
        [
            rows,
            to_dict(config.spec),
            log.encoder.to_dict(),
            config.plus.surrogate,
            config.plus.history,
            config.stream and to_dict(config.stream),
        ]
    )[:16]


def _stretches(log: ShardedLog, config: TrainConfig) -> int:
    """How many shards: those of a lane hold its share of ``buffer_rows`` each."""
    assert config.stream is not None
    many = config.stream.lanes * -(-(log.cut.train_end - log.cut.train) // config.stream.buffer_rows)
    if many > _MOST:
        raise UserError(
            f"stream.buffer_rows: {config.stream.buffer_rows} rows at hand in {config.stream.lanes} lanes make {many} files of rows "
            f"sorted by state; expected at most {_MOST}: take more rows or fewer lanes"
        )
    return many


def _require_full_lanes(rows: np.ndarray, config: TrainConfig) -> None:
    """A UserError where a lane has less than half of its share of the rows, ``rows`` of each shard (P,)."""
    assert config.stream is not None
    lanes, whole = config.stream.lanes, int(rows.sum())
    least = int(rows.reshape(lanes, -1).sum(axis=1).min())
    if least < whole / lanes / 2:
        raise UserError(
            f"stream.lanes: of {whole} training rows a lane of {lanes} has {least}, since states lie in one lane each "
            "and some have very many rows; expected fewer lanes"
        )


def _sort(log: ShardedLog, config: TrainConfig, folder: Path, numbered: tuple[int, RowGroup]) -> tuple[np.ndarray, int]:
    """Sort one row group's rows by key into a file of its own; some of the keys, evenly, and the number of rows."""
    number, group = numbered
    path = shard_path(folder, number)
    if not path.exists():
        frame = log.shards.read(group, log.cut.train, log.cut.train_end)
        rows = make_batch(frame, log.spec, log.encoder, config.plus.surrogate)
        key = state_keys(rows.codes, history_columns(config, log.space), log.space.categories)
        KeyedRows.of(key.numpy(), rows).write(path)
    found = KeyedRows.open(path).key
    return found[np.arange(_MARKS) * len(found) // _MARKS].copy(), len(found)


def stretches(marks: Sequence[tuple[np.ndarray, int]], many: int) -> np.ndarray:
    """First key of each of ``many`` stretches of about as many rows, int64, from keys of row groups and their numbers of rows."""
    key = np.concatenate([one for one, _ in marks])
    weight = np.concatenate([np.full(len(one), rows / len(one)) for one, rows in marks])
    order = np.argsort(key, kind="stable")
    before = np.cumsum(weight[order]) - weight[order]
    place = np.searchsorted(before, np.arange(many) * weight.sum() / many, side="left")
    first: np.ndarray = np.r_[0, key[order][np.minimum(place[1:], len(key) - 1)]].astype(np.int64)
    return first


def _places(folder: Path, edges: np.ndarray, group: int) -> np.ndarray:
    """Where each stretch begins in a sorted row group, and its end, (P + 1,)."""
    key = KeyedRows.open(shard_path(folder, group)).key
    return np.append(np.searchsorted(key, edges), len(key))


def _gather(target: Path, places: np.ndarray, number: int) -> None:
    """Write the shard of one stretch from the sorted row groups; ``places`` (groups, P + 1) in these."""
    path = shard_path(target, number)
    if path.exists():
        return
    groups = [KeyedRows.open(shard_path(target / BY_GROUP, group)) for group in range(len(places))]
    KeyedRows.joined([one.stretch(*row[number : number + 2]) for one, row in zip(groups, places)]).write(path)


class StateRows:
    """Training rows sorted by state; the counterpart of ``shards.StreamedRows`` with whole states in every batch."""

    def __init__(
        self, log: ShardedLog, shards: RowShards, config: TrainConfig, device: torch.device, ranks: Ranks
    ) -> None:
        assert config.stream is not None
        self.log, self.shards, self.device, self.ranks = log, shards, device, ranks
        self.lanes = config.stream.lanes
        self.history = history_columns(config, log.space)
        self.known: Batch | Totals = log.totals
        self.bounds = shards.start[:: len(shards.shards) // self.lanes]  # rows before each lane, and before the end

    def __len__(self) -> int:
        return int(self.shards.start[-1])

    def batch_size(self, wanted: int) -> int:
        """Rows per update, all ranks together, on average."""
        return min(wanted, len(self))

    def fingerprint(self) -> list[float]:
        """What tells these rows from others."""
        return [float(len(self)), *self.log.fingerprint()]

    def batches(self, size: int, seed: int, start: int) -> Iterator[BatchPart]:
        """Endless batches from number ``start`` on; of each, the states of this rank's lanes."""
        share = self.lanes // self.ranks.size
        mine = range(self.ranks.rank * share, (self.ranks.rank + 1) * share)
        for parts in zip(*(self._lane(lane, size, seed, start) for lane in mine)):
            rows = Batch.joined(parts)
            yield self._part(rows)

    def _part(self, rows: Batch) -> BatchPart:
        """This rank's rows, and where they and their states lie in the whole batch: ranks tell each other how many they have."""
        if self.ranks.size == 1:
            return BatchPart(rows.to(self.device))
        states = len(torch.unique(state_keys(rows.codes, self.history, self.log.space.categories)))
        counts = torch.zeros(2, self.ranks.size, dtype=torch.int64)
        counts[:, self.ranks.rank] = torch.tensor([len(rows), states])
        counts = self.ranks.summed(counts)
        first = counts[:, : self.ranks.rank].sum(1)
        places = {
            name: OwnPlaces(torch.arange(int(before), int(before) + int(own), device=self.device), int(whole.sum()))
            for name, own, before, whole in zip(("rows", "states"), (len(rows), states), first, counts)
        }
        return BatchPart(rows.to(self.device), len(rows) / places["rows"].whole, places)

    def _lane(self, lane: int, size: int, seed: int, start: int) -> Iterator[Batch]:
        """Endless parts of batches from one lane: states whole, ``size`` over the number of lanes rows each on average."""
        per_epoch = len(self) // size
        most = max(1, size // self.lanes // 2)  # of a state with more rows these come together
        rows = int(self.bounds[lane + 1] - self.bounds[lane])
        wanted = np.arange(1, per_epoch + 1) * rows // per_epoch  # rows of the lane before the end of each part
        per_lane = len(self.shards.shards) // self.lanes
        epoch, number = divmod(start, per_epoch)
        while True:
            held: list[Batch] = []
            done = before = 0  # parts and rows of this epoch so far
            for place in numpy_generator(seed, "shards", lane, epoch).permutation(per_lane):
                shard = self.shards.shards[lane * per_lane + place]
                last = int(np.searchsorted(wanted, before + len(shard), side="right"))  # parts that end in this shard
                if last >= number and len(shard):
                    generator = numpy_generator(seed, "order", lane, epoch, int(place))
                    order, ends = shuffled_groups(shard.key, most, generator)
                    cuts = ends[np.searchsorted(ends, wanted[done:last] - before)]
                    for part, own in enumerate(np.split(order, cuts), start=done):
                        held.append(shard.rows(own))
                        if part < last:
                            if part >= number:
                                yield Batch.joined(held)
                            held = []
                done, before = last, before + len(shard)
            epoch, number = epoch + 1, 0
