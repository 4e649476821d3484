"""What a test bench would have measured on this world's services: CPU at fixed rates, bucket by bucket (Eq. 26)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from cascade_world.config import WorldConfig
from cascade_world.mechanism.assembled_world import World
from marca_common.seeding import numpy_generator

_MACHINES = 2


@dataclass(frozen=True)
class LoadTestBucket:
    """One kind of request that the bench replays."""

    channels: tuple[int, ...]
    model: int
    retrieved: int
    preranked: int
    degradation: int = 0
    ranker: int = 0


def design(config: WorldConfig) -> list[LoadTestBucket]:
    """Buckets that identify every part of the cost: channels one by one and in pairs, models, lengths, degradation."""
    cascade = config.cascade
    n, models = len(cascade.channels), range(len(cascade.models))
    most = n * cascade.max_candidates
    lengths = sorted({max(2, round(most * part)) for part in (0.005, 0.02, 0.05, 0.1, 0.2, 0.35, 0.6, 0.9)})
    ranked = sorted({min(max(2, length), most) for length in (3, 8, 20, 35, 50, 80, 110)})
    everything, middle = tuple(range(n)), round(most * 0.25)
    buckets = [LoadTestBucket((c,), m, 20, 8) for c in range(n) for m in models]
    buckets += [LoadTestBucket((c, d), m, 20, 8) for c in range(n) for d in range(c + 1, n) for m in models]
    buckets += [LoadTestBucket(everything, m, length, min(8, length)) for length in lengths for m in models]
    buckets += [LoadTestBucket(everything, m, max(middle, length), length) for length in ranked for m in models]
    buckets += [LoadTestBucket(everything, 0, 2 * length, length) for length in ranked]
    top = int(config.plant.degradation_max)
    buckets += [LoadTestBucket(everything, m, middle, 50, level) for level in range(top + 1) for m in models]
    for ranker in range(1, len(cascade.rankers)):
        buckets += [LoadTestBucket(everything, 0, max(middle, length), length, 0, ranker) for length in ranked]
    return list(dict.fromkeys(buckets))


def loadtest_log(world: World, seed: int | None = None) -> pd.DataFrame:
    """Load-test rows: every round measures all buckets, rates and the idle service in a random order.

    ``retrieved`` and ``preranked`` are the bucket's lengths without degradation; under degradation level D the service
    shortens them itself, and what that saves is f(D) of Eq. 1.
    """
    config, seed = world.config, world.config.seed if seed is None else seed
    rng = numpy_generator(seed, "loadtest")
    buckets, rates = design(config), config.logs.loadtest_utilisation
    runs: list[tuple[LoadTestBucket | None, float]] = [(bucket, rate) for bucket in buckets for rate in rates]
    runs += [(None, 0.0)] * 3
    rows = []
    for g, idc in enumerate(world.groups):
        for s, service in enumerate(world.services):
            for round_ in range(config.logs.loadtest_rounds):
                for i in rng.permutation(len(runs)):
                    bucket, aim = runs[i]
                    rows.append(
                        {"idc": idc, "service": service, "round": round_} | _measure(world, g, s, bucket, aim, rng)
                    )
    return pd.DataFrame(rows)


def degraded_lengths(world: World, retrieved: float, preranked: float, level: int) -> tuple[float, float]:
    """Lengths after ``level`` steps of degradation: queues and truncation shrink as their levels do, on average."""
    if level == 0:
        return retrieved, preranked
    queue, ranked = world.degraded_lengths[level].tolist()
    return retrieved * queue, preranked * ranked


def _measure(
    world: World, idc: int, service: int, bucket: LoadTestBucket | None, aim: float, rng: np.random.Generator
) -> dict[str, object]:
    config, cores = world.config, _MACHINES * world.config.plant.cores
    noise = np.exp(config.logs.loadtest_noise * rng.standard_normal())
    reading, qps = config.plant.idle_percent + 0.15 * rng.standard_normal(), 0.0
    if bucket is not None:
        lengths = degraded_lengths(world, bucket.retrieved, bucket.preranked, bucket.degradation)
        setting = (idc, bucket.model, bucket.ranker, list(bucket.channels))
        full = world.costs.cost(*setting, bucket.retrieved, bucket.preranked)[service]
        cost = world.costs.cost(*setting, *lengths)[service]
        qps = round(aim / 100 * cores * 1000 / full / 50) * 50.0 or 50.0
        share = cost * qps / (cores * 1000)
        reading += 100 * share * noise * (1 + config.cost.load_slope * (share - 0.5))
    rankers = list(config.cascade.rankers)
    ranker = {"ranker": rankers[bucket.ranker if bucket else 0]} if len(rankers) > 1 else {}
    return {
        "channels": "none" if bucket is None else "+".join(config.cascade.channels[c] for c in bucket.channels),
        "model": list(config.cascade.models)[bucket.model if bucket else 0],
        **ranker,
        "retrieved": float(bucket.retrieved if bucket else 0),
        "preranked": float(bucket.preranked if bucket else 0),
        "degradation": float(bucket.degradation if bucket else 0),
        "qps": qps,
        "machines": _MACHINES,
        "cores": config.plant.cores,
        "cpu_percent": round(float(np.clip(reading, 0.0, 100.0)), 4),
    }
