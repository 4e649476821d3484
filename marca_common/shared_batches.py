"""Batches that ranks share: what they need, and the whole batch's gradients from those of its parts."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from marca_common.errors import UserError
from marca_common.ranks import Ranks


def require_shareable(place: str, batch_size: int, ranks: Ranks) -> None:
    """Ends the group where ranks cannot share a batch evenly; rank 0 says why."""
    if batch_size % ranks.size:
        raise ranks.refusal(f"{place}: got {batch_size} rows; expected a multiple of the {ranks.size} ranks")


def shareable(rows: Tensor, ranks: Ranks) -> Tensor:
    """``rows`` (M,) but for the last few, fewer than there are ranks, that cannot be shared evenly; ends the group where none are left."""
    if 0 < len(rows) < ranks.size:
        raise ranks.refusal(f"{len(rows)} rows to learn from cannot be shared among {ranks.size} ranks; start fewer")
    return rows[: len(rows) - len(rows) % ranks.size]


def averaged(
    parameters: Iterable[nn.Parameter], numbers: list[Tensor], ranks: Ranks, share: float | None = None
) -> list[Tensor]:
    """Gradients (in place) and further numbers of a whole batch, means over its rows, from those of the ranks' parts by one sum.

    ``share`` of the rows that are in this rank's part; None: the parts are equal.
    """
    if ranks.size == 1:
        return numbers
    gradients = [one.grad for one in parameters if one.grad is not None]
    parts = [*(one.flatten() for one in gradients), *(one.detach().float().reshape(1) for one in numbers)]
    weight = 1 / ranks.size if share is None else share
    mean = torch.split(ranks.summed(torch.cat(parts) * weight), [one.numel() for one in parts])
    for gradient, one in zip(gradients, mean):
        gradient.copy_(one.view_as(gradient))
    return [one[0] for one in mean[len(gradients) :]]


def require_as_many(begun_by: Any, ranks: Ranks) -> None:
    """A UserError unless the run of a checkpoint was begun by as many ranks: others would round differently."""
    if begun_by != ranks.size:
        raise UserError(
            f"the run was begun by {begun_by!r} ranks, this group has {ranks.size}; go on with as many, or choose another --out"
        )
