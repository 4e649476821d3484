"""The truth: expected revenue and cost of every (state, joint action), with its Monte Carlo error."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np

from cascade_world.config import WorldConfig
from cascade_world.mechanism.cascade import STATS, CascadeParameters, class_sums
from cascade_world.mechanism.true_costs import CostTables
from cascade_world.mechanism.world_actions import ActionSpace
from marca_common.config import content_hash, to_dict
from marca_common.errors import UserError
from marca_common.files import atomic_path, read_json
from marca_common.progress import progress
from marca_common.seeding import integer_seed


@dataclass(frozen=True)
class TruthTables:
    """Expectations per (class, joint action) at money scale 1."""

    q: np.ndarray  # revenue, money (classes, A)
    q_se: np.ndarray  # Monte Carlo standard error of q (classes, A)
    p0: np.ndarray  # probability of no click (classes, A)
    clicks: np.ndarray  # (classes, A)
    spend: np.ndarray  # money charged to advertisers (classes, A)
    spend2: np.ndarray  # second moment of spend (classes, A)
    impressions: np.ndarray  # (classes, A)
    retrieved: np.ndarray  # (classes, A)
    preranked: np.ndarray  # (classes, A)
    cost: np.ndarray  # core-ms before hardware factors (profiles, classes, A, services)
    draws: int
    seconds: float  # what the computation took


def truth_key(config: WorldConfig) -> str:
    """Hash of everything that the tables depend on."""
    parts = to_dict(config)
    cost = {**parts["cost"], **dict.fromkeys(("hardware", "releases", "request_sd", "minute_sd", "load_slope"))}
    if config.cost.map is not None:
        cost["map"] = read_json(config.cost.map)
    shape = {name: parts["states"][name] for name in ("placements", "clusters", "bands", "idcs")}
    users = [parts["users"]] if config.users else []  # older keys of worlds of classes stay what they were
    return content_hash(
        1, config.seed, shape, parts["classes"], parts["cascade"], cost, parts["truth"]["draws"], *users
    )


def compute_truth(
    config: WorldConfig, space: ActionSpace, parameters: CascadeParameters, costs: CostTables
) -> TruthTables:
    """Monte Carlo over candidates, analytic over clicks and purchases; the same bytes for any number of workers."""
    started = time.perf_counter()
    arrays = _kernel_arrays(space, costs)
    n_classes, draws = len(parameters.log_click), config.truth.draws
    n_stats = len(STATS) + arrays[0].shape[1]
    sums = np.zeros((n_classes, space.n_joint, n_stats))

    def one_class(c: int) -> int:
        seed = np.uint64(integer_seed(config.seed, "truth", c))
        class_sums(
            seed, c, 0, draws, parameters, space.steps, space.step, space.model, space.truncations, space.cell,
            *arrays, sums[c],
        )  # fmt: skip
        return c

    with ThreadPoolExecutor(config.workers) as pool:
        for _ in progress(pool.map(one_class, range(n_classes)), what="truth", total=n_classes, unit="class"):
            pass
    sums /= draws
    return _tables(sums, costs, draws, time.perf_counter() - started)


def cached_truth(
    config: WorldConfig, space: ActionSpace, parameters: CascadeParameters, costs: CostTables
) -> TruthTables:
    """As compute_truth, from the cache folder where this world's truth stands there already."""
    if config.truth.cache is None:
        return compute_truth(config, space, parameters, costs)
    path = Path(config.truth.cache) / f"{truth_key(config)}.npz"
    if path.is_file():
        return load_tables(path, truth_key(config))
    tables = compute_truth(config, space, parameters, costs)
    save_tables(tables, path, truth_key(config))
    return tables


def save_tables(tables: TruthTables, path: str | Path, key: str) -> None:
    """Write the tables and the key of the world they belong to, atomically."""
    arrays = {one.name: getattr(tables, one.name) for one in fields(tables)}
    with atomic_path(path) as temporary, open(temporary, "wb") as file:
        np.savez(file, key=np.array(key), **arrays)


def load_tables(path: str | Path, key: str) -> TruthTables:
    """Read tables; those of another world are a UserError."""
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path}: no such truth; run python -m cascade_world.generate")
    try:
        with np.load(path, allow_pickle=False) as content:
            values: dict[str, Any] = {name: content[name] for name in content.files}
        found = str(values.pop("key"))
        if found != key:
            raise UserError(
                f"{path}: the truth of another config ({found}); expected {key}: delete it or generate again"
            )
        draws, seconds = int(values.pop("draws")), float(values.pop("seconds"))
        return TruthTables(**values, draws=draws, seconds=seconds)
    except (OSError, ValueError, KeyError, TypeError, EOFError, BadZipFile) as error:
        raise UserError(f"{path}: not a readable truth file: {error}") from None


def _kernel_arrays(space: ActionSpace, costs: CostTables) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Cost tables with (profile, service) flattened to the last axis."""
    opened = space.lengths > 0  # (R, channels)
    fixed = costs.base[:, :, space.model] + np.einsum("psrc,rc->psr", costs.channel[:, :, space.model], opened)
    n = fixed.shape[0] * fixed.shape[1]
    queue = costs.retrieved.reshape(n, *costs.retrieved.shape[2:])
    rank = costs.preranked.reshape(n, *costs.preranked.shape[2:])
    return (
        np.ascontiguousarray(fixed.reshape(n, -1).T),
        np.ascontiguousarray(np.moveaxis(queue, 0, -1)),
        np.ascontiguousarray(np.moveaxis(rank, 0, -1)),
    )


def _tables(means: np.ndarray, costs: CostTables, draws: int, seconds: float) -> TruthTables:
    named = dict(zip(STATS, np.moveaxis(means, -1, 0)))
    variance = np.maximum(named.pop("q2") - named["q"] ** 2, 0.0) * draws / max(draws - 1, 1)
    profiles, services = costs.base.shape[:2]
    cost = means[..., len(STATS) :].reshape(*means.shape[:2], profiles, services)
    return TruthTables(
        q_se=np.sqrt(variance / draws).astype(np.float32),
        cost=np.ascontiguousarray(np.moveaxis(cost, 2, 0)).astype(np.float32),
        draws=draws,
        seconds=seconds,
        **{name: np.ascontiguousarray(values).astype(np.float32) for name, values in named.items()},
    )
