"""Hulls of a matrix of scores: all that an allocation under one budget asks of it."""

from __future__ import annotations

import numpy as np

from marca_common.errors import UserError
from marca_common.hull_shards import Hulls
from revenue_sim.allocation.budget_curve import check_pair, hull_edges


def row_hulls(values: np.ndarray, costs: np.ndarray, threads: int | None = None) -> Hulls:
    """Upper hulls of the rows of ``values`` and ``costs``, both (S, A), money and cost per request; kept as float32.

    Raises UserError for shapes that differ and numbers that are not finite.
    """
    with np.errstate(over="ignore"):  # what single precision cannot hold is infinite, and refused
        values, costs = check_pair(np.asarray(values, np.float32), np.asarray(costs, np.float32))
    if len(costs) != len(values):
        costs = np.ascontiguousarray(np.broadcast_to(costs, values.shape))
    edges = hull_edges(values, costs, np.ones(len(values)), threads=threads)
    if len(edges.row) + len(values) > np.iinfo(np.int32).max:
        raise UserError(f"values: {len(values)} states have too many hull vertices for one shard; make smaller shards")
    first = np.concatenate([[0], np.cumsum(1 + np.bincount(edges.row, minlength=len(values)))])
    action = np.empty(first[-1], np.int64)
    action[first[:-1]] = edges.base
    action[np.arange(len(edges.row)) + edges.row + 1] = edges.after
    row = np.repeat(np.arange(len(values)), np.diff(first))
    kind = np.uint16 if values.shape[1] <= 2**16 else np.uint32
    return Hulls(first.astype(np.int32), action.astype(kind), costs[row, action], values[row, action])


def joined(hulls: list[Hulls]) -> Hulls:
    """Hulls of several blocks of states as one."""
    sizes = np.cumsum([0, *(len(one.action) for one in hulls)])
    first = np.concatenate([[0], *(one.first[1:] + start for one, start in zip(hulls, sizes))])
    rest = (np.concatenate([getattr(one, name) for one in hulls]) for name in ("action", "c", "q"))
    return Hulls(first.astype(np.int32), *rest)
