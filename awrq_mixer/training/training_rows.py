"""Where an update's rows come from: a log in memory here, shards in ``shards.py``; and how ranks share a batch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from awrq_mixer.learners.base import Batch, Learner, Totals
from awrq_mixer.training.training_log import batches
from marca_common.ranks import Ranks
from marca_common.run_folder import RunFolder
from marca_common.shared_batches import require_shareable, shareable
from marca_common.torch_seeding import OwnPlaces


@dataclass(frozen=True)
class BatchPart:
    """One rank's part of a batch."""

    rows: Batch
    share: float = 1.0  # of the batch's rows
    places: Mapping[str, OwnPlaces] = field(default_factory=dict)  # rows and states, where the parts are not equal


class Rows(Protocol):
    """Training rows, wherever they lie."""

    @property
    def known(self) -> Batch | Totals:
        """What learners prepare from."""

    def __len__(self) -> int: ...

    def batch_size(self, wanted: int) -> int:
        """Rows per update, all ranks together."""

    def fingerprint(self) -> list[float]:
        """What tells these rows from others."""

    def batches(self, size: int, seed: int, start: int) -> Iterator[BatchPart]:
        """Endless batches from number ``start`` on, this rank's part of each; revenue in money."""


class MemoryRows:
    """The training rows of a log in memory; every rank holds all of them."""

    def __init__(self, known: Batch, ranks: Ranks) -> None:
        self.known, self.ranks = known, ranks
        self.groups: Tensor | None = None  # numbers of rows that must come in one batch

    def __len__(self) -> int:
        return len(self.known)

    def keep_together(self, learner: Learner, run: RunFolder) -> None:
        """Let rows that a learner needs in one batch come so."""
        self.groups = learner.groups(self.known)
        if self.groups is not None and len(torch.unique(self.groups)) == len(self):
            run.warn(
                "no state occurs twice in the training rows: a state's logged rows tell nothing, only its columns do"
            )

    def batch_size(self, wanted: int) -> int:
        """As wanted, but no more than there are; ranks share it evenly, unless states must stay together."""
        if self.groups is not None:
            return min(wanted, len(self))
        require_shareable("batch_size", wanted, self.ranks)
        return min(wanted, len(shareable(torch.arange(len(self)), self.ranks)))

    def fingerprint(self) -> list[float]:
        """Number of rows, and their revenue, side column and choices added up."""
        rows = self.known
        return [
            float(len(rows)),
            *(float(one.double().nansum()) for one in (rows.reward, rows.surrogate, rows.actions)),
        ]

    def batches(self, size: int, seed: int, start: int) -> Iterator[BatchPart]:
        """Of each batch the part of this rank: as many rows as the others', or about as many where states stay together."""
        rank, ranks = self.ranks.rank, self.ranks.size
        for rows in batches(len(self), size, seed, start, self.groups):
            if ranks == 1:
                yield BatchPart(self.known.take(rows))
            elif self.groups is None:
                yield BatchPart(self.known.take(rows.chunk(ranks)[rank]), 1 / ranks)
            else:
                yield self._whole_states(rows, self.groups[rows])

    def _whole_states(self, rows: Tensor, groups: Tensor) -> BatchPart:
        """The states of one rank: the batch's, in the order of their numbers, in stretches of about as many rows."""
        found, place = torch.unique(groups, return_inverse=True)
        order = torch.sort(place, stable=True).indices
        first, end = share_of_states(torch.bincount(place).cpu().numpy(), self.ranks.rank, self.ranks.size)
        own = order[first:end].sort().values
        states = torch.unique(place[own])
        places = {"rows": OwnPlaces(own, len(rows)), "states": OwnPlaces(states, len(found))}
        return BatchPart(self.known.take(rows[own.cpu()]), len(own) / len(rows), places)


def share_of_states(counts: np.ndarray, rank: int, ranks: int) -> tuple[int, int]:
    """First and last (exclusive) row of a rank, where states with ``counts`` rows lie one after the other.

    Cut between states, next to equal parts; between any rows where a rank would be left without one.
    """
    even = np.arange(ranks + 1) * counts.sum() // ranks
    edges = np.r_[0, counts.cumsum()]
    near = edges[np.abs(edges[None] - even[:, None]).argmin(axis=1)]
    cut = near if (np.diff(near) > 0).all() else even
    return int(cut[rank]), int(cut[rank + 1])
