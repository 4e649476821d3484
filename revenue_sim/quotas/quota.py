"""Allocation under action quotas: the paper's offline comparison (§4.1.1, steps 2 and 3), greedy and optimal.

Every model gets the same quota: ``q_a`` uses of joint action a and ``n_s`` requests in state s, as the log had them, so all
allocations cost the same. ``greedy`` is the paper's rule: pairs by falling score, each given as often as both its quotas
still allow. ``optimal`` solves the transport problem that the rule approximates, with dual prices as its proof.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numba import njit

from marca_common.errors import UserError
from revenue_sim.checks import check_finite, check_matrix
from revenue_sim.quotas import transport

SHIFT = 20  # bits of a score's code below those that choose its bucket
GROUP = 65_536  # pairs sorted at a time, about


@dataclass(frozen=True)
class QuotaAllocation:
    """How many requests of which state get which joint action."""

    state: np.ndarray  # int64 (E,) row of the scores
    action: np.ndarray  # int64 (E,) joint action
    count: np.ndarray  # int64 (E,) requests, all above zero
    bound: float | None = None  # optimal only: value of the dual prices; no allocation scores more

    def value(self, scores: np.ndarray) -> float:
        """Σ count · score in any (S, A) matrix over the same states, such as the truth."""
        return float(self.count @ scores[self.state, self.action].astype(np.float64))

    def by_state(self, scores: np.ndarray) -> np.ndarray:
        """The same sum per state, float64 (S,)."""
        parts = self.count * scores[self.state, self.action].astype(np.float64)
        return np.bincount(self.state, weights=parts, minlength=len(scores))


def greedy(scores: np.ndarray, state_counts: np.ndarray, action_quotas: np.ndarray) -> QuotaAllocation:
    """The paper's greedy allocation: identical to sorting all pairs by falling score and filling.

    ``scores`` (S, A); ``state_counts`` (S,) and ``action_quotas`` (A,) whole numbers with equal sums. Equal scores go by key:
    the earlier state, then the earlier action. UserError for quotas that don't sum to the states' counts and for
    scores that are not finite.
    """
    scores, supply, demand = _checked(scores, state_counts, action_quotas)
    left_supply, left_demand = supply.copy(), demand.copy()
    parts = [
        _fill(keys, scores.shape[1], left_supply, left_demand)
        for keys in _falling(scores.ravel(), scores.shape[1], left_supply, left_demand)
    ]
    state, action, count = (np.concatenate(part) for part in zip(*parts))
    return QuotaAllocation(state, action, count)


def optimal(scores: np.ndarray, state_counts: np.ndarray, action_quotas: np.ndarray) -> QuotaAllocation:
    """The best allocation under the quotas, by network simplex from the greedy start; ``bound`` certifies it.

    Arguments and errors as ``greedy``. The solution is integral; its value equals the dual bound up to rounding.
    """
    scores, supply, demand = _checked(scores, state_counts, action_quotas)
    start = greedy(scores, supply, demand)
    solved = transport.solve(scores, supply, demand, start.state, start.action, start.count)
    return QuotaAllocation(*solved)


def _checked(
    scores: np.ndarray, state_counts: np.ndarray, action_quotas: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    scores = check_matrix("scores", scores)
    if scores.dtype != np.float32:
        scores = scores.astype(np.float64)
    check_finite("scores", scores)
    supply = _whole(state_counts, scores.shape[0], "states")
    demand = _whole(action_quotas, scores.shape[1], "quotas")
    if supply.sum() != demand.sum():
        raise UserError(
            f"quotas: they sum to {demand.sum()} uses; expected {supply.sum()}, the sum of the states' counts"
        )
    return np.ascontiguousarray(scores), supply, demand


def _whole(numbers: np.ndarray, size: int, name: str) -> np.ndarray:
    numbers = np.asarray(numbers)
    if numbers.shape != (size,):
        raise UserError(f"{name}: got shape {numbers.shape}; expected one count for each of {size}")
    bad = ~(np.isfinite(numbers) & (numbers >= 0) & (numbers == np.floor(numbers)))
    if bad.any():
        row = int(np.argmax(bad))
        raise UserError(f"{name}: row {row + 1}: got {numbers[row]}; expected a whole number, 0 or more")
    return numbers.astype(np.int64)


def _falling(flat: np.ndarray, actions: int, supply: np.ndarray, demand: np.ndarray) -> Iterator[np.ndarray]:
    """Pair indices by falling score, ties by rising index, some at a time, in the low 32 bits of each key.

    float32 scores become packed 64-bit keys, thrown into buckets by their leading bits. A bucket is sorted when its turn
    comes, without the pairs whose state or action has nothing left by then, most of the later ones.
    """
    if flat.dtype != np.float32 or len(flat) >= 2**32:
        yield np.argsort(-flat, kind="stable").astype(np.uint64)
        return
    bits = flat.view(np.uint32)
    sizes = _bucket_sizes(bits)
    ends = np.cumsum(sizes)
    keys = _scatter(bits, ends - sizes)
    start = 0
    for end in ends[_group_ends(ends)]:
        alive = _keep_alive(keys[start:end], actions, supply, demand)
        part = keys[start : start + alive]
        part.sort()
        yield part
        start = end
        if not supply.any():
            return


def _group_ends(ends: np.ndarray) -> np.ndarray:
    """Last bucket of each group of buckets that are sorted together, about GROUP pairs each."""
    return np.unique(np.searchsorted(ends, np.append(np.arange(GROUP, ends[-1], GROUP), ends[-1])))


@njit(nogil=True, cache=True)
def _falling_code(bits: np.uint32) -> np.uint32:
    """Bits of a float32 turned so that larger scores have smaller codes; −0 and 0 have the same."""
    if bits == np.uint32(0x80000000):
        bits = np.uint32(0)
    return bits if bits & np.uint32(0x80000000) else np.uint32(bits ^ np.uint32(0x7FFFFFFF))


@njit(nogil=True, cache=True)
def _bucket_sizes(bits: np.ndarray) -> np.ndarray:
    sizes = np.zeros(1 << (32 - SHIFT), np.int64)
    for i in range(len(bits)):
        sizes[_falling_code(bits[i]) >> np.uint32(SHIFT)] += 1
    return sizes


@njit(nogil=True, cache=True)
def _scatter(bits: np.ndarray, begins: np.ndarray) -> np.ndarray:
    """Keys ``code · 2³² + index`` by bucket, inside a bucket by index."""
    keys = np.empty(len(bits), np.uint64)
    place = begins.copy()
    for i in range(len(bits)):
        code = _falling_code(bits[i])
        bucket = code >> np.uint32(SHIFT)
        keys[place[bucket]] = (np.uint64(code) << np.uint64(32)) | np.uint64(i)
        place[bucket] += 1
    return keys


@njit(nogil=True, cache=True)
def _keep_alive(keys: np.ndarray, actions: int, supply: np.ndarray, demand: np.ndarray) -> int:
    """Move the keys whose state and action have something left to the front; returns their number."""
    kept, wide = 0, np.uint32(actions)
    for key in keys:
        index = np.uint32(key & np.uint64(0xFFFFFFFF))
        state = np.uint32(index // wide)
        if supply[state] > 0 and demand[np.uint32(index - np.uint32(state * wide))] > 0:
            keys[kept] = key
            kept += 1
    return kept


@njit(nogil=True, cache=True)
def _fill(
    order: np.ndarray, actions: int, supply: np.ndarray, demand: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Give each pair, in order, as many requests as its state and its action have left; takes them off both."""
    left = supply.sum()
    size = len(supply) + len(demand)
    state, action, count = np.empty(size, np.int64), np.empty(size, np.int64), np.empty(size, np.int64)
    used = 0
    mask, wide = np.uint64(0xFFFFFFFF), np.uint64(actions)
    for key in order:
        if left == 0:
            break
        index = key & mask
        s = index // wide
        a = index - s * wide
        amount = min(supply[s], demand[a])
        if amount > 0:
            supply[s] -= amount
            demand[a] -= amount
            left -= amount
            state[used], action[used], count[used] = s, a, amount
            used += 1
    return state[:used], action[:used], count[:used]
