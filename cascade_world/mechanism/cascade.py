"""The cascade itself: candidates, noisy stages, an auction, clicks and purchases. Everything else follows from it.

One request: every channel offers candidates with a click rate and a bid. The retrieval model scores them noisily and
each open channel passes its best ones on; the pre-ranker blends that score with a noisy one of its own and keeps
the best `truncation`; the ranker estimates click rates of the rest, and an auction by estimated click rate × bid fills
the slots. A click costs what keeps the slot (second price, at least the reserve); purchases follow clicks.

Two kernels walk it: ``class_sums`` for all joint actions at once, with common candidates and the expectation over
clicks and purchases taken analytically, and ``serve_requests`` for one logged action with sampled clicks.
Money is at scale 1; a state's scale multiplies bids and baskets alike, and so the revenue.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import njit

from cascade_world.request_luck import GOLDEN, mix64, normal, uniform

# Index of the lowest set bit of a 64-bit word, by a de Bruijn sequence.
_ONE, _S58, _DE_BRUIJN = np.uint64(1), np.uint64(58), np.uint64(0x03F79D71B4CB0A89)
_BIT = np.zeros(64, dtype=np.int64)
for _i in range(64):
    _BIT[((1 << _i) * 0x03F79D71B4CB0A89 >> 58) & 63] = _i

# Columns of class_sums' result; cost columns (profile, service) follow.
STATS = ("q", "q2", "p0", "clicks", "spend", "spend2", "impressions", "retrieved", "preranked")
# Columns of serve_requests' result.
RESULTS = ("retrieved", "preranked", "impressions", "clicks", "gmv", "spend", "predicted_value")


class CascadeParameters(NamedTuple):
    """Plain arrays and numbers that the kernels read."""

    log_click: np.ndarray  # (classes,)
    dispersion: np.ndarray  # (classes,)
    log_bid: np.ndarray  # (classes,)
    conversion: np.ndarray  # (classes,)
    basket: np.ndarray  # mean purchase at scale 1 (classes,)
    affinity: np.ndarray  # (classes, channels)
    supply: np.ndarray  # (classes, channels)
    supply_request_sd: float
    bid_sd: float
    basket_sd: float
    commission: float
    reserve: float
    max_candidates: int
    model_noise: np.ndarray  # (models,)
    model_correlation: float
    preranking_noise: float
    preranking_memory: float
    ranker_noise: np.ndarray  # (rankers,)
    slots: np.ndarray  # (slots,)
    normals: np.ndarray  # quantile table (65536,)


class Candidates(NamedTuple):
    """Candidates of one request, one channel after another."""

    start: np.ndarray  # each channel's first candidate (channels + 1,)
    score: np.ndarray  # retrieval scores, log units (models, most)
    pre: np.ndarray  # pre-ranking scores (models, most)
    click: np.ndarray  # true click rates (most,)
    bid: np.ndarray  # money per click (most,)
    estimate: np.ndarray  # the rankers' click rates (rankers, most)
    rank_value: np.ndarray  # estimate · bid, what the auction sorts by (rankers, most)


@njit(cache=True, nogil=True)
def _room(par: CascadeParameters) -> Candidates:
    """Arrays for the most candidates that a request can have."""
    channels, models, rankers = par.supply.shape[1], len(par.model_noise), len(par.ranker_noise)
    most = channels * par.max_candidates
    score, pre = np.empty((models, most)), np.empty((models, most))
    estimate, rank_value = np.empty((rankers, most)), np.empty((rankers, most))
    return Candidates(
        np.empty(channels + 1, np.int64), score, pre, np.empty(most), np.empty(most), estimate, rank_value
    )


@njit(cache=True, nogil=True)
def _draw_candidates(seed: np.uint64, c: int, par: CascadeParameters, into: Candidates) -> int:
    """Fill ``into`` with one request of class ``c``; returns the number of candidates."""
    start, score, pre, click, bid, estimate, rank_value = into
    n_models, n_rankers = score.shape[0], estimate.shape[0]
    rho, rho_rest = par.model_correlation, np.sqrt(1.0 - par.model_correlation**2)
    memory = par.preranking_memory
    n = 0
    for ch in range(par.supply.shape[1]):
        start[ch] = n
        z = normal(mix64(seed ^ (np.uint64(ch + 1) << np.uint64(40))), 0, par.normals)
        count = int(par.supply[c, ch] * np.exp(par.supply_request_sd * z) + 0.5)
        count = min(max(count, 1), par.max_candidates)
        for j in range(count):
            counter = np.uint64(2 * (ch * par.max_candidates + j) + 1)
            one = mix64(seed + GOLDEN * counter)
            two = mix64(seed + GOLDEN * (counter + np.uint64(1)))
            log_click = par.log_click[c] + par.affinity[c, ch] + par.dispersion[c] * normal(one, 0, par.normals)
            log_click = min(log_click, -0.7)  # no candidate is clicked more often than every other time
            log_bid = par.log_bid[c] + par.bid_sd * normal(one, 1, par.normals)
            value = log_click + log_bid
            shared = normal(one, 2, par.normals)
            score[0, n] = value + par.model_noise[0] * shared
            if n_models > 1:
                score[1, n] = value + par.model_noise[1] * (rho * shared + rho_rest * normal(one, 3, par.normals))
            own = value + par.preranking_noise * normal(two, 0, par.normals)
            for m in range(n_models):
                pre[m, n] = memory * score[m, n] + (1.0 - memory) * own
            click[n], bid[n] = np.exp(log_click), np.exp(log_bid)
            for k in range(n_rankers):
                estimate[k, n] = np.exp(log_click + par.ranker_noise[k] * normal(two, 1 + k, par.normals))
                rank_value[k, n] = estimate[k, n] * bid[n]
            n += 1
    start[par.supply.shape[1]] = n
    return n


@njit(cache=True, nogil=True, inline="always")
def _insert(top: np.ndarray, size: int, capacity: int, candidate: int, values: np.ndarray) -> int:
    """Keep ``top`` the best ``capacity`` candidates, best first; return their number."""
    position = size
    while position > 0 and values[top[position - 1]] < values[candidate]:
        position -= 1
    if position >= capacity:
        return size
    last = min(size, capacity - 1)
    for i in range(last, position, -1):
        top[i] = top[i - 1]
    top[position] = candidate
    return min(size + 1, capacity)


@njit(cache=True, nogil=True, inline="always")
def _auction(
    top: np.ndarray, size: int, slots: np.ndarray, click: np.ndarray, estimate: np.ndarray, bid: np.ndarray,
    rank_value: np.ndarray, reserve: float, extra: float, chance: np.ndarray, price: np.ndarray,
) -> tuple[int, float]:  # fmt: skip
    """Slots' click chances and prices per click; returns shown slots and the ranker's predicted value."""
    shown = min(size, len(slots))
    predicted = 0.0
    for i in range(shown):
        one = top[i]
        price[i] = min(reserve, bid[one])
        if i + 1 < size:
            price[i] = max(price[i], rank_value[top[i + 1]] / estimate[one])
        chance[i] = click[one] * slots[i]
        predicted += min(estimate[one], 1.0) * slots[i] * (price[i] + extra)
    return shown, predicted


@njit(cache=True, nogil=True, inline="always")
def _nested_sets(score: np.ndarray, where: np.ndarray, steps: np.ndarray, sets: np.ndarray) -> None:
    """``sets`` (steps, words): bits (at ``where``) of the best ``steps[i]`` of a channel's items."""
    order = np.argsort(-score)
    sets[0] = 0
    done = 0
    for i in range(1, len(steps)):
        sets[i] = sets[i - 1]
        while done < min(steps[i], len(order)):
            bit = where[order[done]]
            sets[i, bit >> 6] |= _ONE << np.uint64(bit & 63)
            done += 1


@njit(cache=True, nogil=True)
def class_sums(
    seed: np.uint64, c: int, first: int, last: int, par: CascadeParameters, steps: np.ndarray, step: np.ndarray,
    model: np.ndarray, truncations: np.ndarray, cell: np.ndarray, fixed: np.ndarray, queue_cost: np.ndarray,
    rank_cost: np.ndarray, sums: np.ndarray,
) -> None:  # fmt: skip
    """Add draws ``first``…``last`` of class ``c`` to ``sums`` (A, stats): every joint action on common candidates.

    ``steps`` and ``step`` give the lengths (see ActionSpace). The retrieved items of a joint action are a set of bits in
    the pre-ranker's order, so a walk visits nothing else. ``fixed`` (R, profiles·services), ``queue_cost`` (models, lengths, profiles·services), ``rank_cost`` (models,
    rankers, lengths, profiles·services) are core-ms.
    """
    channels, n_rankers = step.shape[1], cell.shape[2]
    most = channels * par.max_candidates
    n_models = len(par.model_noise)
    found = _room(par)
    start, score, pre, click, bid, estimate, rank_value = found
    by_pre, where = np.empty((n_models, most), np.int64), np.empty(most, np.int64)
    words = (most + 63) // 64
    sets = np.zeros((n_models, channels, len(steps), words), np.uint64)  # a channel's best items, as bits
    chosen = np.empty(words, np.uint64)
    capacity = len(par.slots) + 1
    top, size = np.empty((n_rankers, capacity), np.int64), np.empty(n_rankers, np.int64)
    chance, price = np.empty(capacity), np.empty(capacity)
    n_costs = fixed.shape[1]
    extra = par.commission * par.conversion[c] * par.basket[c]
    for draw in range(first, last):
        luck = mix64(seed + GOLDEN * np.uint64(draw))
        n = _draw_candidates(luck, c, par, found)
        for m in range(n_models):
            by_pre[m, :n] = np.argsort(-pre[m, :n])
            for i in range(n):
                where[by_pre[m, i]] = i
            for ch in range(channels):
                _nested_sets(score[m, start[ch] : start[ch + 1]], where[start[ch] : start[ch + 1]], steps, sets[m, ch])
        for r in range(len(step)):
            m = model[r]
            retrieved = 0
            chosen[:] = 0
            for ch in range(channels):
                retrieved += min(steps[step[r, ch]], start[ch + 1] - start[ch])
                for i in range(words):
                    chosen[i] |= sets[m, ch, step[r, ch], i]
            size[:] = 0
            passed, word = 0, 0
            for t in range(len(truncations)):
                enough = min(truncations[t], retrieved)
                while passed < enough:
                    if chosen[word] == 0:
                        word += 1
                        continue
                    lowest = chosen[word] & (~chosen[word] + _ONE)
                    chosen[word] ^= lowest
                    one = by_pre[m, word * 64 + _BIT[(lowest * _DE_BRUIJN) >> _S58]]
                    passed += 1
                    for k in range(n_rankers):
                        if size[k] < capacity or rank_value[k, one] > rank_value[k, top[k, capacity - 1]]:
                            size[k] = _insert(top[k], size[k], capacity, one, rank_value[k])
                for k in range(n_rankers):
                    a = cell[r, t, k]
                    if a < 0:
                        continue
                    shown, _ = _auction(
                        top[k], size[k], par.slots, click, estimate[k], bid, rank_value[k], par.reserve, extra, chance,
                        price,
                    )  # fmt: skip
                    clicks, spend, variance, none = 0.0, 0.0, 0.0, 1.0
                    for i in range(shown):
                        clicks += chance[i]
                        spend += chance[i] * price[i]
                        variance += chance[i] * (1.0 - chance[i]) * price[i] * price[i]
                        none *= 1.0 - chance[i]
                    q = spend + extra * clicks
                    row = sums[a]
                    row[0] += q
                    row[1] += q * q
                    row[2] += none
                    row[3] += clicks
                    row[4] += spend
                    row[5] += spend * spend + variance
                    row[6] += shown
                    row[7] += retrieved
                    row[8] += passed
                    for j in range(n_costs):
                        row[9 + j] += fixed[r, j] + queue_cost[m, retrieved, j] + rank_cost[m, k, passed, j]


@njit(cache=True, nogil=True)
def _threshold(values: np.ndarray, count: int, k: int, work: np.ndarray) -> float:
    """The ``k``-th largest of ``values[:count]`` (quickselect on a copy)."""
    for i in range(count):
        work[i] = values[i]
    low, high, target = 0, count - 1, k - 1
    while low < high:
        pivot = work[(low + high) >> 1]
        i, j = low, high
        while i <= j:
            while work[i] > pivot:
                i += 1
            while work[j] < pivot:
                j -= 1
            if i <= j:
                work[i], work[j] = work[j], work[i]
                i += 1
                j -= 1
        if target <= j:
            high = j
        elif target >= i:
            low = i
        else:
            break
    return float(work[target])


@njit(cache=True, nogil=True)
def _pass_on(
    start: np.ndarray, score: np.ndarray, pre: np.ndarray, lengths: np.ndarray, truncation: int, kept: np.ndarray,
    kept_pre: np.ndarray, work: np.ndarray,
) -> tuple[int, int]:  # fmt: skip
    """Retrieve and pre-rank; ``kept`` gets the survivors. Returns the numbers retrieved and pre-ranked."""
    retrieved = 0
    for ch in range(len(lengths)):
        count = start[ch + 1] - start[ch]
        take = min(lengths[ch], count)
        if take == 0:
            continue
        edge = _threshold(score[start[ch] : start[ch + 1]], count, take, work)
        for i in range(start[ch], start[ch + 1]):
            if score[i] >= edge:
                kept[retrieved] = i
                kept_pre[retrieved] = pre[i]
                retrieved += 1
    if retrieved <= truncation:
        return retrieved, retrieved
    edge = _threshold(kept_pre, retrieved, truncation, work)
    passed = 0
    for i in range(retrieved):
        if kept_pre[i] >= edge:
            kept[passed] = kept[i]
            passed += 1
    return retrieved, passed


@njit(cache=True, nogil=True)
def serve_requests(
    seed: np.uint64, first: int, classes: np.ndarray, joint: np.ndarray, par: CascadeParameters, lengths: np.ndarray,
    model: np.ndarray, truncations: np.ndarray, factors: np.ndarray, results: np.ndarray,
) -> None:  # fmt: skip
    """Serve requests ``first``, ``first + 1``, … one by one; ``results`` (M, len(RESULTS)) at scale 1.

    A request's luck depends on ``seed`` and its number only.
    """
    most = lengths.shape[1] * par.max_candidates
    found = _room(par)
    start, score, pre, click, bid, estimate, rank_value = found
    kept, kept_pre, work = np.empty(most, np.int64), np.empty(most), np.empty(most)
    capacity = len(par.slots) + 1
    top, chance, price = np.empty(capacity, np.int64), np.empty(capacity), np.empty(capacity)
    for row in range(len(classes)):
        c, a = classes[row], joint[row]
        r, t, k = factors[a, 0], factors[a, 1], factors[a, 2]
        luck = mix64(seed + GOLDEN * np.uint64(first + row))
        _draw_candidates(luck, c, par, found)
        retrieved, passed = _pass_on(
            start, score[model[r]], pre[model[r]], lengths[r], truncations[t], kept, kept_pre, work
        )
        size = 0
        for i in range(passed):
            size = _insert(top, size, capacity, kept[i], rank_value[k])
        extra = par.commission * par.conversion[c] * par.basket[c]
        shown, predicted = _auction(
            top, size, par.slots, click, estimate[k], bid, rank_value[k], par.reserve, extra, chance, price
        )
        clicks, spend, gmv = 0, 0.0, 0.0
        for i in range(shown):
            bits = mix64(luck ^ (np.uint64(i + 1) << np.uint64(48)))
            if uniform(bits) < chance[i]:
                clicks += 1
                spend += price[i]
                bits = mix64(bits)
                if uniform(bits) < par.conversion[c]:
                    z = normal(mix64(bits), 0, par.normals)
                    gmv += par.basket[c] * np.exp(par.basket_sd * z - 0.5 * par.basket_sd**2)
        results[row, 0], results[row, 1], results[row, 2] = retrieved, passed, shown
        results[row, 3], results[row, 4], results[row, 5], results[row, 6] = clicks, gmv, spend, predicted
