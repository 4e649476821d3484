"""AutoBucket: requests grouped by request value and realised queue length (Appendix B)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from autobucket.bench.bench_config import BucketsConfig
from marca_common.errors import UserError
from marca_common.seeding import numpy_generator

_CANDIDATE_EDGES = 64


@dataclass(frozen=True)
class RequestBucket:
    """Requests that are measured together."""

    name: str  # b00, b01, …
    strata: dict[str, str]  # fields that are equal in all its requests
    value: str  # request values, joined by "/"
    bounds: dict[str, tuple[float, float]]  # realised length → closed range seen
    means: dict[str, float]  # realised length → mean
    rows: np.ndarray = field(repr=False)  # scouted rows, int64 (n,)

    @property
    def count(self) -> int:
        """Scouted requests."""
        return len(self.rows)

    def label(self) -> str:
        """One line for reports."""
        parts = [
            *self.strata.values(),
            self.value,
            *(f"{name} {low:g}–{high:g}" for name, (low, high) in self.bounds.items()),
        ]
        return " · ".join(parts)


def quantile_edges(x: np.ndarray, bins: int) -> np.ndarray:
    """Inner edges (≤ bins − 1, rising) that cut ``x`` (n,) into parts of about equal count; bin k holds edge[k-1] ≤ x < edge[k].

    Equal values stay together, so that heavy ties give fewer bins.
    """
    levels = np.unique(np.asarray(x, np.float64))
    wanted = np.quantile(x, np.arange(1, bins) / bins, method="inverted_cdf") if bins > 1 else np.zeros(0)
    return np.unique(wanted[wanted > levels[0]])


def target_aware_edges(x: np.ndarray, target: np.ndarray, bins: int, min_count: int) -> np.ndarray:
    """Inner edges (≤ bins − 1, rising) of the partition of ``x`` with the least squared error of ``target`` around bin means.

    Exact by dynamic programming over at most 64 candidate edges; every bin holds at least ``min_count`` of the n values.
    """
    x, target = np.asarray(x, np.float64), np.asarray(target, np.float64)
    if x.shape != target.shape or x.ndim != 1 or len(x) == 0:
        raise ValueError(f"expected x and target of one length, got {x.shape} and {target.shape}")
    candidates = quantile_edges(x, _CANDIDATE_EDGES)
    cell = np.searchsorted(candidates, x, side="right")
    count, total, square = (np.bincount(cell, w, len(candidates) + 1) for w in (np.ones_like(x), target, target**2))
    count, total, square = (np.concatenate([[0.0], np.cumsum(part)]) for part in (count, total, square))
    m = len(candidates) + 1

    def error(i: int, j: int) -> float:  # cells i … j-1 as one bin
        n = count[j] - count[i]
        if n < min_count:
            return np.inf
        return float(square[j] - square[i] - (total[j] - total[i]) ** 2 / n)

    best = np.full((bins + 1, m + 1), np.inf)
    came = np.zeros((bins + 1, m + 1), np.int64)
    best[0, 0] = 0.0
    for k in range(1, bins + 1):
        for j in range(1, m + 1):
            options = [best[k - 1, i] + error(i, j) for i in range(j)]
            came[k, j] = int(np.argmin(options))
            best[k, j] = options[came[k, j]]
    feasible = best[1:, m]
    if not np.isfinite(feasible).any():
        return np.zeros(0)
    k, j = int(np.argmin(feasible)) + 1, m
    edges = []
    while k > 0:
        j = int(came[k, j])
        k -= 1
        if j > 0:
            edges.append(candidates[j - 1])
    return np.array(edges[::-1])


def make_buckets(
    config: BucketsConfig, scouted: pd.DataFrame, value: str, target: str | None = None
) -> list[RequestBucket]:
    """Group scouted requests by stratum, request value and bins of each realised length.

    ``scouted`` holds the fields, the realised lengths and (for target-aware edges) the column ``target``. A group below
    ``min_count`` joins the nearest group of its stratum and values, or is left out when that is too small, too.
    """
    _require_columns(config, scouted, value)
    lengths = list(config.lengths)
    values = _value_groups(config, scouted[value].astype(str))
    keys = [scouted[name].astype(str) for name in config.strata]
    bins: list[pd.Series] = []
    for name in lengths:
        bins.append(_bins(config, scouted, name, keys, target))
    found: list[tuple[tuple[str, ...], str, np.ndarray]] = []
    outer = [*keys, values] if keys else [values]
    for key, part in scouted.groupby(outer, sort=True, observed=True):
        key = key if isinstance(key, tuple) else (key,)
        groups = part.groupby([b.loc[part.index] for b in bins], sort=True).indices
        cells = {tuple(np.atleast_1d(cell)): part.index.to_numpy()[rows] for cell, rows in groups.items()}
        for rows in _merge_small(cells, config.min_count):
            found.append((tuple(map(str, key[:-1])), str(key[-1]), rows))
    if not found:
        raise UserError(
            f"buckets.min_count: no group of the {len(scouted)} scouted requests reaches {config.min_count}; scout more requests"
        )
    return [_bucket(config, scouted, i, *one) for i, one in enumerate(found)]


def choose_buckets(buckets: Sequence[RequestBucket], most: int, strata: Sequence[str]) -> list[RequestBucket]:
    """At most ``most`` buckets: each next one is that whose settings and lengths are covered least so far.

    Settings count singly and in pairs, so that sums over channels and the switch's difference can be told apart; lengths
    count by the fifth of all buckets that their mean lies in.
    """
    if len(buckets) <= most:
        return list(buckets)
    marks = [_marks(bucket, buckets) for bucket in buckets]
    seen: dict[Any, int] = {}
    left = list(range(len(buckets)))
    chosen: list[int] = []
    while len(chosen) < most:
        i = min(left, key=lambda i: (sum(seen.get(mark, 0) for mark in marks[i]), -buckets[i].count, i))
        left.remove(i)
        chosen.append(i)
        for mark in marks[i]:
            seen[mark] = seen.get(mark, 0) + 1
    return [buckets[i] for i in sorted(chosen)]


def replay_sample(bucket: RequestBucket, lengths: pd.DataFrame, most: int, seed: int) -> np.ndarray:
    """At most ``most`` of the bucket's rows, evenly spaced by length, in random order."""
    ordered = lengths.loc[bucket.rows].sum(axis=1).sort_values(kind="stable").index.to_numpy()
    n = min(most, len(ordered))
    picked = ordered[((np.arange(n) + 0.5) * len(ordered) / n).astype(np.int64)]
    return numpy_generator(seed, "autobucket", "bench", "replay", bucket.name).permutation(picked)


def _marks(bucket: RequestBucket, buckets: Sequence[RequestBucket]) -> list[Any]:
    single: list[Any] = [*bucket.strata.items(), ("value", bucket.value)]
    for name, mean in bucket.means.items():
        fifths = np.quantile([one.means[name] for one in buckets], [0.2, 0.4, 0.6, 0.8])
        single.append((name, int(np.searchsorted(fifths, mean))))
    pairs = [(a, b) for i, a in enumerate(single) for b in single[i + 1 :]]
    return [mark for mark in single for _ in range(3)] + pairs


def _value_groups(config: BucketsConfig, values: pd.Series) -> pd.Series:
    if config.values is None:
        return values
    group_of = {value: "/".join(group) for group in config.values for value in group}
    unknown = sorted(set(values) - set(group_of))
    if unknown:
        raise UserError(
            f"buckets.values: request value {unknown[0]!r} is in no group; expected each of {sorted(set(values))}"
        )
    empty = [group for group in config.values if not set(group) & set(values)]
    if empty:
        raise UserError(
            f"buckets.values: group {empty[0]} has no request; the traffic's values are {sorted(set(values))}"
        )
    return values.map(group_of)


def _bins(
    config: BucketsConfig, scouted: pd.DataFrame, name: str, keys: Sequence[pd.Series], target: str | None
) -> pd.Series:
    """Bin number of every row; edges are set per stratum, since what is long depends on the channels opened."""
    out = pd.Series(0, index=scouted.index)
    groups = scouted.groupby(list(keys), observed=True).groups.values() if keys else [scouted.index]
    for index in groups:
        x = scouted.loc[index, name].to_numpy(np.float64)
        if config.edges == "target_aware" and target is not None:
            edges = target_aware_edges(x, scouted.loc[index, target].to_numpy(), config.lengths[name], config.min_count)
        else:
            edges = quantile_edges(x, config.lengths[name])
        out.loc[index] = np.searchsorted(edges, x, side="right")
    return out


def _merge_small(cells: dict[tuple[int, ...], np.ndarray], min_count: int) -> list[np.ndarray]:
    """Cells of a grid, each with at least ``min_count`` rows: the smallest joins its nearest neighbour until none is small."""
    cells = dict(cells)
    while len(cells) > 1:
        smallest = min(cells, key=lambda cell: (len(cells[cell]), cell))
        if len(cells[smallest]) >= min_count:
            break
        rows = cells.pop(smallest)
        near = min(cells, key=lambda cell: (sum(abs(a - b) for a, b in zip(cell, smallest)), len(cells[cell]), cell))
        cells[near] = np.concatenate([cells[near], rows])
    return [np.sort(rows) for _, rows in sorted(cells.items()) if len(rows) >= min_count]


def _bucket(
    config: BucketsConfig, scouted: pd.DataFrame, number: int, key: tuple[str, ...], value: str, rows: np.ndarray
) -> RequestBucket:
    part = scouted.loc[rows, list(config.lengths)].astype(float)
    bounds = {name: (float(part[name].min()), float(part[name].max())) for name in part}
    means = {name: float(part[name].mean()) for name in part}
    return RequestBucket(f"b{number:03d}", dict(zip(config.strata, key)), value, bounds, means, rows)


def _require_columns(config: BucketsConfig, scouted: pd.DataFrame, value: str) -> None:
    for name, what in [(value, "request value"), *((s, "stratum") for s in config.strata)]:
        if name not in scouted:
            raise UserError(
                f"buckets: {what} {name!r} is no field of the requests; found {', '.join(map(str, scouted))}"
            )
    for name in config.lengths:
        if name not in scouted or pd.to_numeric(scouted[name], errors="coerce").isna().any():
            got = "no such column" if name not in scouted else f"{scouted[name].iloc[0]!r}"
            raise UserError(
                f"buckets.lengths: the target's answers have no usable number {name!r} ({got}); expected a realised length"
            )
