"""Where an update's rows come from: a log in memory here, shards in ``shards.py``; and how ranks share a batch."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

import torch
from torch import Tensor

from awrq_mixer.learners.base import Batch, Learner, Totals
from awrq_mixer.training.training_log import batches
from marca_common.ranks import Ranks
from marca_common.run_folder import RunFolder


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

    def batches(self, size: int, seed: int, start: int) -> Iterator[Batch]:
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
        """As wanted, but no more than there are; ranks share it evenly."""
        size = min(wanted, len(self))
        if size % self.ranks.size:
            raise self.ranks.refusal(f"batch_size: got {size} rows; expected a multiple of the {self.ranks.size} ranks")
        return size

    def fingerprint(self) -> list[float]:
        """Number of rows, and their revenue and choices added up."""
        rows = self.known
        return [float(len(rows)), float(rows.reward.double().sum()), float(rows.actions.double().sum())]

    def batches(self, size: int, seed: int, start: int) -> Iterator[Batch]:
        """Of each batch the part of this rank."""
        return batches(self.known, size, seed, start, self.groups, (self.ranks.rank, self.ranks.size))


def average(
    learner: Learner, loss: Tensor, logged: dict[str, Tensor], ranks: Ranks
) -> tuple[Tensor, dict[str, Tensor]]:
    """Gradients (in place), loss and numbers of a whole batch from those of the ranks' equal parts, by one sum."""
    if ranks.size == 1:
        return loss, logged
    gradients = [one.grad for one in learner.online.parameters() if one.grad is not None]
    numbers = [one.detach().float().reshape(1) for one in (loss, *logged.values())]
    parts = [*(one.flatten() for one in gradients), *numbers]
    mean = torch.split(ranks.summed(torch.cat(parts)) / ranks.size, [one.numel() for one in parts])
    for gradient, one in zip(gradients, mean):
        gradient.copy_(one.view_as(gradient))
    loss, *rest = (one[0] for one in mean[len(gradients) :])
    return loss, dict(zip(logged, rest))
