"""The allocation of ``one_budget`` from hull shards, in one process or several, in memory that does not grow with the rows.

λ is bracketed by histograms of slopes: first by those that the shards bring, then, where too many edges are left, by finer
ones of what lies between. One pass over the hulls writes each state's action at the upper price and hands over the edges in
question. Every rank settles these in the order of the shards, and the few states that move are written over.

λ, value and choices are bit-equal for any number of ranks: whole numbers are added up, or numbers in the order of the
shards. They are those of ``allocate`` where it looks at the same edges; its fill of what is left of the budget may differ.
"""

from __future__ import annotations

import io
import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np

from marca_common.config import content_hash
from marca_common.errors import UserError
from marca_common.files import atomic_path
from marca_common.hull_shards import SHIFT, HullShard, open_shard
from marca_common.ranks import Ranks
from revenue_sim.allocation import shard_kernels as kernels
from revenue_sim.allocation.budget_curve import Edges
from revenue_sim.allocation.one_budget import settle
from revenue_sim.checks import check_budget

log = logging.getLogger(__name__)
EDGES = 50_000  # edges in question that are gathered at most, 32 bytes each, unless more have one slope
FINER = 11  # bits by which a histogram's bins are finer than the one before
TRIES = 4  # brackets
ROUNDING = 1e-9  # of the highest cost: what sums of float64 may be off by, generously
OPEN = 256  # shards that a rank keeps open at most
Opener = Callable[[Path], HullShard]
Part = tuple[np.ndarray, np.ndarray, np.ndarray]  # place (2, E) int32, step (3, E) and sums (4,) of ``split_edges``


@dataclass(frozen=True)
class Bracket:
    """Bins of slopes, ``low`` … ``high``, whose edges are in question; a bin is a slope's float64 bits less the last ``shift``."""

    shift: int
    low: int
    high: int
    edges: int  # in these bins, in all shards
    cost_above: float  # of all shards, with the edges above these bins taken
    any_above: bool  # whether edges lie above these bins
    any_below: bool

    @property
    def slopes(self) -> tuple[float, float]:
        """Least slope that is surely taken, and least slope in question."""
        ends = np.array([(self.high + 1) << self.shift, self.low << self.shift], np.int64).view(np.float64)
        return float(ends[0]), float(ends[1])

    def narrowed(self, edges: np.ndarray, cost: np.ndarray, budget: float) -> Bracket:
        """The one of these bins in which the cost passes the budget, by ``edges`` (B,) and ``cost`` (B,) of each; all, where they are few."""
        if edges.sum() <= EDGES:
            return replace(self, edges=int(edges.sum()))
        reached = self.cost_above + np.cumsum(cost[::-1])[::-1]  # once the edges of a bin are taken, too
        held = np.flatnonzero(edges)
        passed = held[reached[held] > budget]
        at = int(passed[-1] if len(passed) else held[0])
        return Bracket(
            self.shift, self.low + at, self.low + at, int(edges[at]), float(reached[at] - cost[at]),
            self.any_above or bool(edges[at + 1 :].any()), self.any_below or bool(edges[:at].any()),
        )  # fmt: skip


@dataclass(frozen=True)
class Totals:
    """Sums over all shards, from their metadata."""

    states: int
    requests: float
    least_cost: float
    most_cost: float
    low: int  # bins of the least and the largest slope
    high: int


@dataclass(frozen=True)
class ShardedAllocation:
    """What one allocation of all shards is worth; the choices lie in one file a shard."""

    states: int
    requests: float
    budget: float  # total cost of all requests
    lambda_: float  # as in ``Allocation``, as are the next three
    value: float
    cost: float
    bound: float
    split: tuple[str, int, float] | None  # shard, its state and the share of its requests that the relaxation moves up
    edges: int  # that were in question
    passes: int  # over the hulls


def allocate_shards(
    paths: Sequence[Path], choices: Path, ranks: Ranks, *, per_request: float | None = None, share: float | None = None
) -> ShardedAllocation:
    """Solve Eqs. 2–5 for one budget; write ``choices/<shard>.npy``, the joint action of each state (S,), per shard.

    ``per_request``: budget, cost per request; or ``share``: of the way from the least cost to where λ is 0. The choice files are
    whole only once this has returned. Raises UserError for shards that do not belong together and a budget that is too small.
    """
    opened = lru_cache(OPEN)(open_shard)
    totals = _totals(paths, ranks, opened)
    if per_request is None:
        assert share is not None
        budget = totals.least_cost + share * (totals.most_cost - totals.least_cost)
    else:
        budget = check_budget(per_request) * totals.requests
        if math.isclose(budget, totals.least_cost, rel_tol=4e-15):  # the least cost per request, rounded
            budget = totals.least_cost
    parts, edges, shard, state, passes = _edges_at(paths, choices, ranks, opened, totals, budget)
    if edges.base_cost > budget:
        raise UserError(f"budget: got {budget:.10g}; the least possible cost is {edges.base_cost:.10g}")
    base = [number for *_, sums in parts for number in sums[:2]]
    solved = settle(edges, budget, lambda choice: math.fsum([*base, *edges.cost[edges.after <= choice[edges.row]]]))
    moved = np.flatnonzero(solved.choice != edges.base)
    move = partial(_move, paths, choices, opened, shard[moved], state[moved], solved.choice[moved])
    ranks.map(move, range(len(paths)))
    split = None
    if solved.fractional_row is not None:
        at = solved.fractional_row
        split = paths[shard[at]].stem, int(state[at]), solved.fraction
    return ShardedAllocation(
        totals.states, totals.requests, budget, solved.lambda_, solved.value, solved.cost, solved.bound, split,
        len(edges.row), passes,
    )  # fmt: skip


def _totals(paths: Sequence[Path], ranks: Ranks, opened: Opener) -> Totals:
    """Sums of all shards, once it is sure that they belong together."""
    found = ranks.map(partial(_known, opened), paths)
    for path, one in zip(paths, found):
        if one["kind"] != found[0]["kind"]:
            _refuse_other_kind(paths[0], path)
    sums = {name: math.fsum(one[name] for one in found) for name in ("requests", "least_cost", "most_cost")}
    if not sums["requests"] > 0:
        raise UserError(f"{paths[0].parent}: the shards hold no requests")
    bins = [place for one in found for place in one["bins"]]
    return Totals(sum(one["states"] for one in found), **sums, low=min(bins, default=0), high=max(bins, default=0))


def _known(opened: Opener, path: Path) -> dict[str, Any]:
    shard = opened(path)
    sums, bins = shard.sums, shard.histogram.bin
    return {
        "kind": content_hash(sums.vocabulary, sums.made_by, shard.columns),
        "states": shard.batch.num_rows,
        **{name: getattr(sums, name) for name in ("requests", "least_cost", "most_cost")},
        "bins": (int(bins[0]), int(bins[-1])) if len(bins) else (),
    }


def _refuse_other_kind(first: Path, other: Path) -> None:
    one, two = open_shard(first), open_shard(other)
    for what in ("vocabulary", "made_by"):
        mine, theirs = getattr(one.sums, what), getattr(two.sums, what)
        if mine != theirs:
            raise UserError(f"{other}: {what} is {theirs:.200}; expected that of {first.name}, {mine:.200}")
    raise UserError(f"{other}: columns are {two.columns:.300}; expected those of {first.name}, {one.columns:.300}")


def _edges_at(
    paths: Sequence[Path], choices: Path, ranks: Ranks, opened: Opener, totals: Totals, budget: float
) -> tuple[list[Part], Edges, np.ndarray, np.ndarray, int]:
    """The edges among which the budget is spent, and the number of passes over the hulls; each state's action above them is written.

    Where rounding alone decides on which side of a bin the budget lies, the first bracket may miss it by one bin.
    """
    passes, target, slack = 0, budget, ROUNDING * max(abs(totals.most_cost), abs(budget))
    for _ in range(TRIES):
        bracket, finer = _bracket(paths, ranks, opened, totals, target)
        parts = ranks.map(partial(_split, bracket, choices, opened), paths)
        edges, shard, state = _in_question(parts)
        passes += finer + 1
        if edges.base_cost > budget and bracket.any_above:
            target = budget - slack
        elif bracket.any_below and math.fsum([edges.base_cost, *edges.cost]) <= budget:
            target = budget + slack
        else:
            return parts, edges, shard, state, passes
    raise UserError(f"{paths[0].parent}: the shards' sums do not fit their hulls; make the shards again")


def _bracket(paths: Sequence[Path], ranks: Ranks, opened: Opener, totals: Totals, budget: float) -> tuple[Bracket, int]:
    """Bins in which the budget is passed, and how often the hulls were read for them."""
    unit = 60 - math.frexp(max(totals.most_cost - totals.least_cost, 1e-300))[1]  # costs become whole numbers below 2⁶¹
    bracket, finer = Bracket(SHIFT, totals.low, totals.high, 0, totals.least_cost, False, False), 0
    edges, cost = ranks.sum(partial(_brought, bracket, unit, opened), paths)
    bracket = bracket.narrowed(edges, np.ldexp(cost.astype(np.float64), -unit), budget)
    while bracket.edges > EDGES and bracket.shift > 0:
        low, high = bracket.low << FINER, ((bracket.high + 1) << FINER) - 1
        bracket, finer = replace(bracket, shift=bracket.shift - FINER, low=low, high=high), finer + 1
        edges, cost = ranks.sum(partial(_counted, bracket, unit, opened), paths)
        bracket = bracket.narrowed(edges, np.ldexp(cost.astype(np.float64), -unit), budget)
    if bracket.edges > EDGES and ranks.rank == 0:
        log.warning("%d upgrades are worth exactly λ; all of them are gathered", bracket.edges)
    return bracket, finer


def _brought(bracket: Bracket, unit: int, opened: Opener, path: Path) -> np.ndarray:
    """A shard's own histogram: edges and cost in whole numbers, int64 (2, B)."""
    histogram = opened(path).histogram
    sums, place = np.zeros((2, bracket.high + 1 - bracket.low), np.int64), histogram.bin - bracket.low
    sums[0, place], sums[1, place] = histogram.edges, _whole(histogram.cost, unit)
    return sums


def _counted(bracket: Bracket, unit: int, opened: Opener, path: Path) -> np.ndarray:
    """As ``_brought``, with finer bins, by a walk along the hulls."""
    shard, bins = opened(path), bracket.high + 1 - bracket.low
    edges, cost = np.zeros(bins, np.int64), np.zeros(bins)
    hulls, shift, low = shard.hulls, bracket.shift, bracket.low
    _require_whole(shard, kernels.slope_sums(hulls.first, hulls.c, hulls.q, shard.count, shift, low, edges, cost))
    return np.stack([edges, _whole(cost, unit)])


def _split(bracket: Bracket, choices: Path, opened: Opener, path: Path) -> Part:
    """Write each state's action at the bracket's upper price; the edges in question, and the sums of cost and value."""
    shard, (high, low) = opened(path), bracket.slopes
    wide = SHIFT - bracket.shift
    inside = (shard.histogram.bin >= bracket.low >> wide) & (shard.histogram.bin <= bracket.high >> wide)
    most = int(shard.histogram.edges[inside].sum())
    place, step, sums = np.empty((2, most), np.int32), np.empty((3, most)), np.zeros(4)
    chosen = np.empty(shard.batch.num_rows, shard.hulls.action.dtype)
    hulls = shard.hulls
    used = kernels.split_edges(
        hulls.first, hulls.action, hulls.c, hulls.q, shard.count, high, low, chosen, place, step, sums
    )
    _require_whole(shard, used)
    content = io.BytesIO()
    np.save(content, chosen)  # numpy does not say why a file could not be written
    with atomic_path(choices / f"{path.stem}.npy") as temporary:
        temporary.write_bytes(content.getbuffer())
    return place[:, :used].copy(), step[:, :used].copy(), sums


def _in_question(parts: list[Part]) -> tuple[Edges, np.ndarray, np.ndarray]:
    """The edges of all shards over the states that have some, and these states' shards and places in them."""
    place, step = (np.concatenate([part[k] for part in parts], axis=1) for k in (0, 1))
    shard = np.repeat(np.arange(len(parts)), [part[0].shape[1] for part in parts])
    fresh = np.ones(len(shard), bool)
    fresh[1:] = (np.diff(shard) != 0) | (np.diff(place[0]) != 0)
    row, vertex = (np.cumsum(fresh) - 1).astype(np.int32), place[1]
    cost, value = (math.fsum(number for *_, sums in parts for number in sums[k : k + 2]) for k in (0, 2))
    edges = Edges(vertex[fresh].astype(np.int64), cost, value, row, vertex, vertex + 1, *step)
    return edges, shard[fresh], place[0][fresh]


def _move(
    paths: Sequence[Path],
    choices: Path,
    opened: Opener,
    shard: np.ndarray,
    state: np.ndarray,
    vertex: np.ndarray,
    number: int,
) -> None:
    """Write the actions of the states that moved over those in a shard's choice file; doing it twice changes nothing."""
    mine = shard == number
    if not mine.any():
        return
    chosen = np.load(choices / f"{paths[number].stem}.npy", mmap_mode="r+")
    chosen[state[mine]] = opened(paths[number]).hulls.action[vertex[mine]]


def _require_whole(shard: HullShard, walked: int) -> None:
    if walked < 0:
        raise UserError(f"{shard.path}: state {-walked}: its hull does not fit the file; make the shard again")


def _whole(cost: np.ndarray, unit: int) -> np.ndarray:
    return np.asarray(np.rint(np.ldexp(cost, unit)), np.int64)
