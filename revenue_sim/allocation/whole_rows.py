"""The proven best choice of whole rows, where the linear relaxation leaves a gap.

Under the relaxation's price λ an action loses ``max(Q − λC) − (Q − λC)`` against its row's best, and each unit of budget left
over loses λ. A choice earns the relaxation's optimum less the sum of its losses, so the least total loss is sought. An
action that alone loses more than the choice at hand is out of the question; on real data this leaves a handful of rows.
Over these, a dynamic programme keeps the partial choices that no other dominates and whose bound may still win (Pisinger's
core: rows with the smallest loss per cost come first, so the bounds of the others are sharp).
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from marca_common.arrays import require_range, require_shape
from revenue_sim.allocation.budget_curve import check_pair
from revenue_sim.allocation.core_kernels import extended, least_losses
from revenue_sim.allocation.result import Allocation, total_cost
from revenue_sim.checks import check_counts

BLOCK = 4096  # rows whose losses are computed at a time
STATES = (1_000, 20_000, 400_000)  # partial choices kept at a time, search by search; the rest only bounds
STORED = 60_000_000  # partial choices kept in all, 8 bytes each: parent and action, int32
ROUNDING = 8 * np.finfo(np.float64).eps  # of the sum of all |Q| and λ|C|: what float64 may be off by, generously
TRIES = 20  # how often a choice that only rounding lets over the budget is searched for again with less room


def best_whole_rows(
    values: np.ndarray,
    costs: np.ndarray,
    counts: np.ndarray,
    budget: float,
    start: Allocation,
    time_limit_s: float | None = None,
) -> Allocation:
    """The best choice of one action per row within the budget, starting from ``start`` and its λ.

    The result's ``bound`` is at least the value of any choice, rounding included. Where ``time_limit_s`` (null: none) or memory
    ends the search, ``status`` is "limit": the choice is the best found, the bound what is proven so far. So it is where a better
    choice costs the budget and is over it by rounding alone.
    """
    values, costs = check_pair(values, costs)
    counts = check_counts(counts, len(values))
    require_shape("choice", start.choice, (len(values),))
    require_range("choice", start.choice, values.shape[1])
    deadline = math.inf if time_limit_s is None else time.monotonic() + time_limit_s
    core = Core.of(values, costs, counts, budget, start)
    best, floor = replace(start, value=core.value_of(start.choice)), math.inf
    room, loss = core.room + core.cost_rounding, core.start_loss
    for _ in range(TRIES):
        found, loss_found, reached = core.search(room, loss, deadline)
        floor = min(floor, reached)
        if found is None:
            break
        choice = core.choice(found)
        cost = total_cost(costs, counts, choice)
        if cost <= budget:
            if core.value_of(choice) > best.value:
                best = replace(best, choice=choice, cost=cost, value=core.value_of(choice))
            loss = min(loss, loss_found)
            break
        floor = min(floor, loss_found)
        room -= max(2 * (cost - budget), core.cost_rounding)
    slack = max(loss - floor, 0.0)
    bound = min(best.value + slack, start.bound) if slack > 0 else best.value
    limit = slack > core.value_rounding
    return replace(best, bound=float(bound + 2 * core.value_rounding), status="limit" if limit else "optimal", fractional_row=None,
                   fractional_action=None, fraction=0.0)  # fmt: skip


@dataclass(frozen=True)
class Core:
    """What is left to decide: the rows with more than one action in question, most flexible first."""

    values: np.ndarray
    costs: np.ndarray
    counts: np.ndarray
    base: np.ndarray  # int64 (S,) each row's best action under the price
    price: float
    room: float  # budget less the cost of ``base``
    start_loss: float  # total loss of the choice at hand
    rows: np.ndarray  # int64 (R,) rows to decide, in order
    first: np.ndarray  # int64 (R + 1,) where each row's candidates begin
    action: np.ndarray  # int64 (V,) candidates, the row's base first
    cost: np.ndarray  # float64 (V,) count·C, less the base's
    loss: np.ndarray  # float64 (V,) count·loss
    value_rounding: float
    cost_rounding: float

    @classmethod
    def of(cls, values: np.ndarray, costs: np.ndarray, counts: np.ndarray, budget: float, start: Allocation) -> Core:
        """Candidates of all rows under the price of ``start``."""
        price, rows = start.lambda_, np.arange(len(values))
        losses, base = _losses(values, costs, counts, price, start.choice)
        base_cost = total_cost(costs, counts, base)
        start_loss = math.fsum(losses) + price * (budget - total_cost(costs, counts, start.choice))
        scale_value, scale_cost = _scales(values, costs, counts)
        value_rounding = ROUNDING * (scale_value + price * (scale_cost + abs(budget)))
        row, action, cost, loss = _candidates(values, costs, counts, price, base, start_loss + value_rounding)
        several = np.flatnonzero(np.bincount(row, minlength=len(rows)) > 1)
        keep = np.isin(row, several)
        row, action, cost, loss = row[keep], action[keep], cost[keep], loss[keep]
        with np.errstate(divide="ignore", invalid="ignore"):
            rate = np.where(action == base[row], np.inf, np.where(loss == 0, 0.0, loss / np.abs(cost)))
        ease = np.full(len(rows), np.inf)
        np.minimum.at(ease, row, rate)
        rank = np.empty(len(rows), np.int64)
        ordered = several[np.argsort(ease[several], kind="stable")]
        rank[ordered] = np.arange(len(ordered))
        order = np.lexsort((action != base[row], rank[row]))
        first = np.concatenate([[0], np.cumsum(np.bincount(rank[row], minlength=len(ordered)))]).astype(np.int64)
        return cls(
            values, costs, counts, base, price, budget - base_cost, start_loss, ordered, first, action[order], cost[order],
            loss[order], value_rounding, ROUNDING * (scale_cost + abs(budget)),
        )  # fmt: skip

    def search(self, room: float, best: float, deadline: float) -> tuple[list[int] | None, float, float]:
        """As ``_pass``, with few partial choices first: a good choice found early leaves less to search."""
        picked, floor = None, -math.inf
        for states in STATES:
            better, best, reached = self._pass(room, best, deadline, states)
            picked = picked if better is None else better
            floor = max(floor, reached)  # each pass proves its own: one that time cuts short takes nothing back
            if floor >= best or best <= self.value_rounding or time.monotonic() > deadline:
                break
        return picked, best, floor

    def _pass(self, room: float, best: float, deadline: float, states: int) -> tuple[list[int] | None, float, float]:
        """Candidates of the least total loss below ``best`` (None: there is none), that loss, and what no choice loses less than."""
        up, down, saving = self._rates()
        cost, loss = np.zeros(1), np.zeros(1)
        parents, actions = list[np.ndarray](), list[np.ndarray]()
        found: tuple[int, int, int] | None = None
        floor, stored = math.inf, 0
        if room >= 0.0 and self.price * room < best:
            best, found = self.price * room, (-1, 0, 0)
        for k in range(len(self.rows)):
            part = slice(self.first[k], self.first[k + 1])
            fits = max(states // (part.stop - part.start), 1)
            if len(cost) > fits:  # the least promising only bound what is proven
                bounds = least_losses(cost, loss, room, self.price, up[k], down[k])
                keep = np.sort(np.argpartition(bounds, fits)[:fits])
                dropped = np.ones(len(cost), bool)
                dropped[keep] = False
                floor = min(floor, float(bounds[dropped].min()))
                cost, loss = cost[keep], loss[keep]
                parents[-1], actions[-1] = parents[-1][keep], actions[-1][keep]
            if time.monotonic() > deadline or stored + states > STORED:
                floor = min(floor, float(least_losses(cost, loss, room, self.price, up[k], down[k]).min()))
                break
            cost, loss, parent, action, best, state, chosen = extended(
                cost,
                loss,
                self.cost[part],
                self.loss[part],
                room,
                self.price,
                up[k + 1],
                down[k + 1],
                saving[k + 1],
                best,
            )
            if state >= 0:
                found = (k, state, chosen)
            parents.append(parent)
            actions.append(action)
            stored += len(parent)
            if not len(cost) or best <= self.value_rounding:  # it can't be told from nothing lost
                break
        picked = None if found is None else self._trace(found, parents, actions)
        return picked, best, min(floor, best)

    def choice(self, picked: list[int]) -> np.ndarray:
        """The base with the picked candidates of the first rows in place, int64 (S,)."""
        choice = self.base.copy()
        for k, candidate in enumerate(picked):
            choice[self.rows[k]] = self.action[self.first[k] + candidate]
        return choice

    def value_of(self, choice: np.ndarray) -> float:
        """Σ count·Q, the sum exact."""
        return math.fsum(self.counts * self.values[np.arange(len(choice)), choice].astype(np.float64))

    def _rates(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Per row (R + 1,), over it and the rows after: least loss per cost added, per cost saved, and the most saved."""
        up, down, saving = (np.full(len(self.rows) + 1, one) for one in (np.inf, np.inf, 0.0))
        with np.errstate(divide="ignore", invalid="ignore"):
            rate = self.loss / np.abs(self.cost)
        for k in range(len(self.rows) - 1, -1, -1):
            part = slice(self.first[k], self.first[k + 1])
            cost = self.cost[part]
            up[k] = min(up[k + 1], rate[part][cost > 0].min(initial=np.inf))
            down[k] = min(down[k + 1], rate[part][cost < 0].min(initial=np.inf))
            saving[k] = saving[k + 1] - min(cost.min(), 0.0)
        return up, down, saving

    @staticmethod
    def _trace(found: tuple[int, int, int], parents: list[np.ndarray], actions: list[np.ndarray]) -> list[int]:
        k, state, chosen = found
        if k < 0:
            return []
        picked = [chosen]
        for parent, action in zip(parents[k - 1 :: -1] if k else [], actions[k - 1 :: -1] if k else []):
            picked.append(int(action[state]))
            state = int(parent[state])
        return picked[::-1]


def _losses(
    values: np.ndarray, costs: np.ndarray, counts: np.ndarray, price: float, choice: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Count·loss of ``choice`` (S,), and each row's best action, that of ``choice`` where it is one of them."""
    lost, base = np.empty(len(values)), np.empty(len(values), np.int64)
    for part, worth in _worth(values, costs, price):
        mine = worth[np.arange(len(worth)), choice[part]]
        lost[part] = counts[part] * (worth.max(axis=1) - mine)
        base[part] = np.where(worth.max(axis=1) > mine, worth.argmax(axis=1), choice[part])
    return lost, base


def _worth(values: np.ndarray, costs: np.ndarray, price: float) -> Iterator[tuple[slice, np.ndarray]]:
    """Q − λC in float64, one block of rows at a time: a copy of the whole table may not fit in memory."""
    for begin in range(0, len(values), BLOCK):
        part = slice(begin, begin + BLOCK)
        own = costs[part] if len(costs) > 1 else costs
        yield part, values[part].astype(np.float64) - price * own.astype(np.float64)


def _candidates(
    values: np.ndarray, costs: np.ndarray, counts: np.ndarray, price: float, base: np.ndarray, most: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """(row, action, count·(C − the base's), count·loss) of every pair that loses at most ``most``; dominated ones are left out."""
    found = []
    for part, worth in _worth(values, costs, price):
        at = base[part]
        rows = np.arange(len(worth))
        loss = counts[part, None] * (worth[rows, at][:, None] - worth)
        possible = (loss <= most) & (counts[part] > 0)[:, None]
        possible[rows, at] = True
        i, j = np.nonzero(possible)
        own = (costs[part] if len(costs) > 1 else np.broadcast_to(costs, (len(worth), costs.shape[1]))).astype(
            np.float64
        )
        step = counts[part][i] * (own[i, j] - own[i, at[i]])
        found.append((i + (part.start or 0), j, step, np.maximum(loss[i, j], 0.0), j == at[i]))
    row, action, cost, loss, is_base = (np.concatenate(one) for one in zip(*found))
    keep = is_base | ~_dominated(row, cost, loss, price)
    return row[keep], action[keep], cost[keep], loss[keep]


def _dominated(row: np.ndarray, cost: np.ndarray, loss: np.ndarray, price: float) -> np.ndarray:
    """Pairs that another of their row beats: no dearer, and worth no less (of equals the first stays)."""
    worth = price * cost - loss
    order = np.lexsort((-worth, cost, row))
    own, ordered = row[order], worth[order]
    ahead = pd.Series(ordered).groupby(own, sort=False).cummax().to_numpy()
    out = np.zeros(len(row), bool)
    out[order[1:]] = (own[1:] == own[:-1]) & (ordered[1:] <= ahead[:-1])
    return out


def _scales(values: np.ndarray, costs: np.ndarray, counts: np.ndarray) -> tuple[float, float]:
    """Σ count·max|Q| and Σ count·max|C|."""
    value, cost = (np.maximum(t.max(axis=1), -t.min(axis=1)).astype(np.float64) for t in (values, costs))
    return float(counts @ value), float(counts @ (cost if len(cost) > 1 else np.broadcast_to(cost, len(counts))))
