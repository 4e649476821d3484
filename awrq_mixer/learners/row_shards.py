"""Training rows in files, whole states together: what a learner that remembers rows keeps of a log that no memory holds.

A shard is an Arrow IPC file with the rows of a stretch of keys, sorted by key; a *key* is one number for a state. Shards are
mapped, so only what is looked up is read. They lie in ``rows/<name>/`` beside the checkpoint, or beside a folder above it.
``<name>`` follows from the rows and from how they are encoded.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.ipc as ipc
import torch
from torch import Tensor

from awrq_mixer.learners.base import Batch
from awrq_mixer.networks.space import Space
from marca_common.errors import UserError
from marca_common.files import atomic_path, read_json, write_json

FOLDER, INDEX, VERSION = "rows", "rows.json", 1
BY_GROUP = "by_group"  # where row groups lie that are sorted, but not yet together


@dataclass(frozen=True)
class KeyedRows:
    """Rows with the key of each, in one mapped or fresh table."""

    table: pa.RecordBatch

    @classmethod
    def of(cls, key: np.ndarray, rows: Batch) -> KeyedRows:
        """Rows with keys (B,), sorted by key; rows of one key keep their order."""
        order = np.argsort(key, kind="stable")
        columns = {"key": pa.array(key[order])}
        for name, part, kind in (
            ("code", rows.codes, np.int32),
            ("number", rows.numbers, np.float32),
            ("action", rows.actions, np.int32),
        ):
            for j, column in enumerate(part.numpy().T):
                columns[f"{name}_{j}"] = pa.array(column[order].astype(kind))
        for name in ("reward", "surrogate"):
            columns[name] = pa.array(getattr(rows, name).numpy()[order])
        return cls(pa.record_batch(columns))

    @classmethod
    def joined(cls, parts: Sequence[KeyedRows]) -> KeyedRows:
        """The rows of several, sorted by key; of one key those of earlier parts come first."""
        whole = cls(pa.concat_batches([one.table for one in parts]))
        return cls(whole.table.take(pa.array(np.argsort(whole.key, kind="stable"))))

    @classmethod
    def open(cls, path: Path) -> KeyedRows:
        """Map a file; one that cannot be read is a UserError that names it."""
        try:
            with pa.memory_map(str(path)) as source:  # what is read of it stays mapped
                return cls(ipc.open_file(source).get_batch(0))
        except (pa.ArrowException, OSError) as error:
            raise UserError(f"{path}: not a readable shard of rows: {str(error).splitlines()[0]}") from None

    def write(self, path: Path) -> None:
        """Write the rows, atomically."""
        with atomic_path(path) as temporary, ipc.new_file(str(temporary), self.table.schema) as file:
            file.write_batch(self.table)

    def __len__(self) -> int:
        return int(self.table.num_rows)

    @property
    def key(self) -> np.ndarray:
        """Rising, int64 (B,)."""
        return np.asarray(self.table.column("key").to_numpy())

    def stretch(self, first: int, end: int) -> KeyedRows:
        """Rows from number ``first`` up to ``end``, where they lie."""
        return KeyedRows(self.table.slice(int(first), int(end - first)))

    def rows(self, chosen: np.ndarray | slice) -> Batch:
        """The chosen rows as tensors of their own."""
        names = self.table.schema.names

        def block(name: str, kind: type) -> Tensor:
            found: list[np.ndarray] = [
                self._column(one, chosen).astype(kind) for one in names if one.startswith(f"{name}_")
            ]
            return torch.from_numpy(np.stack(found, axis=1)) if found else torch.zeros(len(reward), 0)

        reward, surrogate = (torch.from_numpy(self._column(name, chosen).copy()) for name in ("reward", "surrogate"))
        return Batch(
            block("code", np.int64).long(), block("number", np.float32), block("action", np.int64), reward, surrogate
        )

    def _column(self, name: str, chosen: np.ndarray | slice) -> np.ndarray:
        return np.asarray(self.table.column(name).to_numpy()[chosen])


class RowShards:
    """All shards of one set of rows, open."""

    def __init__(self, folder: Path, space: Space) -> None:
        self.folder, self.space = folder, space
        self.first_key, rows = read_index(folder)
        self.shards = [KeyedRows.open(shard_path(folder, number)) for number in range(len(rows))]
        for number, (shard, expected) in enumerate(zip(self.shards, rows)):
            if len(shard) != expected or shard.table.schema.names != self._columns():
                raise UserError(
                    f"{shard_path(folder, number)}: {len(shard)} rows of {', '.join(shard.table.schema.names)}; "
                    f"expected {expected} of {', '.join(self._columns())}: train again"
                )
        self.start = np.concatenate([[0], np.cumsum(rows)])  # (P + 1,) rows of earlier shards

    def _columns(self) -> list[str]:
        widths = {"code": len(self.space.categories), "number": self.space.numeric, "action": len(self.space.sizes)}
        return ["key", *(f"{name}_{j}" for name, many in widths.items() for j in range(many)), "reward", "surrogate"]

    @property
    def name(self) -> str:
        """What the folder is called."""
        return self.folder.name

    @classmethod
    def beside(cls, path: Path, name: str, space: Space) -> RowShards:
        """The shards that a checkpoint at ``path`` names; a UserError where they are missing."""
        found = _found(path, name)
        if found is None:
            raise UserError(f"its training rows are missing: expected the folder {Path(FOLDER) / name} beside it")
        return cls(found, space)

    def put_beside(self, path: Path) -> None:
        """Let a checkpoint at ``path`` find them: linked, or written anew where that cannot be."""
        if _found(path, self.name) is not None:
            return
        target = path.parent / FOLDER / self.name
        target.mkdir(parents=True, exist_ok=True)
        for number, shard in enumerate(self.shards):
            try:
                os.link(shard_path(self.folder, number), shard_path(target, number))
            except OSError:  # the run that made them was moved, or the file system cannot link
                shard.write(shard_path(target, number))
        write_index(target, self.first_key, [len(one) for one in self.shards])

    def places(self, key: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Numbers of the rows with keys (S,), and the number of the key of each, both int64 (R,)."""
        shard = np.maximum(np.searchsorted(self.first_key, key, side="right") - 1, 0)
        first, end = np.zeros(len(key), np.int64), np.zeros(len(key), np.int64)
        for number in np.unique(shard):
            mine, known = np.flatnonzero(shard == number), self.shards[number].key
            first[mine], end[mine] = (
                self.start[number] + np.searchsorted(known, key[mine], side) for side in ("left", "right")
            )
        counts = end - first
        owner = np.repeat(np.arange(len(key)), counts)
        return np.arange(len(owner)) + (first - counts.cumsum() + counts)[owner], owner

    def take(self, places: np.ndarray) -> Batch:
        """The rows with these numbers (R,); a UserError where they do not fit the learner."""
        shard = np.searchsorted(self.start, places, side="right") - 1
        order = np.argsort(shard, kind="stable")
        parts = [self.shards[number].rows(places[shard == number] - self.start[number]) for number in np.unique(shard)]
        if not parts:
            return self.shards[0].rows(slice(0, 0))
        found = Batch.joined(parts).take(torch.from_numpy(np.argsort(order, kind="stable")))
        self._check(found)
        return found

    def _check(self, rows: Batch) -> None:
        limits = torch.tensor(self.space.categories), torch.tensor(self.space.sizes)
        for values, limit in zip((rows.codes, rows.actions), limits):
            if values.shape[1] != len(limit) or bool(((values < 0) | (values >= limit)).any()):
                raise UserError(f"{self.folder}: rows and learner do not fit each other: train again")


def shard_path(folder: Path, number: int) -> Path:
    """Where a shard lies."""
    return folder / f"{number:06}.arrow"


def write_index(folder: Path, first_key: np.ndarray, rows: Sequence[int]) -> None:
    """Written last: says that all shards are there, where each begins (P,), and how many rows it has."""
    write_json(
        folder / INDEX, {"version": VERSION, "first_key": first_key.tolist(), "rows": [int(one) for one in rows]}
    )


def read_index(folder: Path) -> tuple[np.ndarray, list[int]]:
    """First key of each shard's stretch, rising (P,), and how many rows each has; a UserError where the file is no such index."""
    index = read_json(folder / INDEX)
    try:
        first_key, rows = np.array(index["first_key"], np.int64), [int(one) for one in index["rows"]]
        good = index["version"] == VERSION and first_key.shape == (len(rows),) and len(rows) > 0
    except (TypeError, ValueError, KeyError, OverflowError):
        good = False
    if not good:
        raise UserError(f"{folder / INDEX}: damaged, or of another version of this software; train again")
    return first_key, rows


def remove_others(folder: Path, kept: Sequence[RowShards]) -> None:
    """Remove all sets of rows in ``folder`` but these, finished or not."""
    for one in {path.parent for name in (INDEX, BY_GROUP) for path in folder.glob(f"*/{name}")}:
        if one.name not in {rows.name for rows in kept}:
            (one / INDEX).unlink(missing_ok=True)  # first: without it nothing there counts
            shutil.rmtree(one, ignore_errors=True)


def is_finished(folder: Path) -> bool:
    """Are all shards there?"""
    return (folder / INDEX).exists()


def _found(path: Path, name: str) -> Path | None:
    places = (one / FOLDER / name for one in path.absolute().parents)
    return next((one for one in places if is_finished(one)), None)
