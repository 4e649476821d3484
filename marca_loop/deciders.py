"""Deciders: whose Q and whose C a strategy's requests are decided by, prepared once for every state that may arrive.

All deciders of a run are prepared side by side, block by block of states, so that the learned costs, the dearest part, are
computed once for all of them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path

import numpy as np
import pandas as pd

from autobucket.costs.cost_model import CostModel
from awrq_mixer.serving.policy import HullPolicy
from awrq_mixer.serving.predictor import Predictor
from cascade_world.world import Truth, load_truth
from marca_common.compute import set_threads
from marca_common.errors import UserError
from marca_common.processes import process_pool
from marca_common.progress import progress
from marca_measures.hull import candidates

PROFILE, TRUTH = "profile", "truth"  # values that are no learner's: one profile for all states, and the world's own
_BLOCK = 512
Candidates = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]  # counts (S,), joint (V,), q (V,), c (V, D)


@dataclass(frozen=True)
class Decider:
    """Whose Q, whose C, and which sub-actions are decided request by request (none named: all)."""

    values: str  # learner, ``profile`` or ``truth``
    costs: str = "learned"  # or ``true``
    free: tuple[str, ...] = ()

    @property
    def key(self) -> str:
        """Its name in file names."""
        return "-".join([self.values, *(["true-costs"] if self.costs == "true" else []), *self.free])

    @property
    def blind(self) -> bool:
        """Whether it never looks at a state."""
        return self.values == PROFILE


@dataclass(frozen=True)
class Sources:
    """Files that deciders are made from."""

    values: Mapping[str, Path]  # learner → anchored checkpoint
    costs: tuple[Path, Path]  # estimator.pt, cost_maps.json
    world: Path


def prepare(
    deciders: Sequence[Decider],
    sources: Sources,
    states: pd.DataFrame,
    allowed: Mapping[str, np.ndarray],
    workers: int,
    folder: Path,
) -> None:
    """Write ``<key>.npz``, a HullPolicy of ``states``, for every decider that looks at states.

    ``allowed``: by key the joint actions (n,) that a decider with ``free`` sub-actions may choose from.
    """
    wanted = [one for one in deciders if not one.blind]
    blocks = [states.iloc[start : start + _BLOCK] for start in range(0, len(states), _BLOCK)]
    work = partial(_block, wanted, sources, dict(allowed))
    with process_pool(workers) as pool:
        found = list(progress(pool.map(work, blocks), what="policies", total=len(blocks), unit=f"·{_BLOCK}"))
    folder.mkdir(parents=True, exist_ok=True)
    for place, decider in enumerate(wanted):
        counts, joint, q, c = (np.concatenate(part) for part in zip(*(block[place] for block in found)))
        first = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
        HullPolicy(states, first, joint, q, c).save(folder / f"{decider.key}.npz")


def _block(
    deciders: Sequence[Decider], sources: Sources, allowed: Mapping[str, np.ndarray], states: pd.DataFrame
) -> list[Candidates]:
    set_threads(1)
    costs = {"learned": _costs(sources.costs).costs(states).astype(np.float64)}
    if any(one.costs == "true" for one in deciders):
        costs["true"] = _truth(sources.world).costs(states).astype(np.float64)
    values: dict[str, np.ndarray] = {}
    found = []
    for one in deciders:
        if one.values not in values:
            values[one.values] = _values(sources, one.values, states)
        found.append(_candidates(values[one.values], costs[one.costs], allowed.get(one.key)))
    return found


def _values(sources: Sources, name: str, states: pd.DataFrame) -> np.ndarray:
    q = _truth(sources.world).values(states) if name == TRUTH else _learner(sources.values[name]).values(states)
    if not np.isfinite(q).all():
        raise UserError(
            f"{name}: a value of state {states.iloc[int(np.argwhere(~np.isfinite(q))[0][0])].tolist()} is no number"
        )
    return q.astype(np.float64)


def _candidates(q: np.ndarray, c: np.ndarray, allowed: np.ndarray | None) -> Candidates:
    if allowed is not None:
        q, c = np.ascontiguousarray(q[:, allowed]), np.ascontiguousarray(c[:, allowed])
    counts, chosen = candidates(q, c)
    row = np.repeat(np.arange(len(q)), counts)
    joint = chosen if allowed is None else allowed[chosen]
    return counts, joint.astype(np.int64), q[row, chosen], c[row, chosen]


@lru_cache(maxsize=32)
def _learner(path: Path) -> Predictor:
    return Predictor.load(path)


@lru_cache(maxsize=4)
def _costs(paths: tuple[Path, Path]) -> CostModel:
    return CostModel.load(*paths)


@lru_cache(maxsize=4)
def _truth(world: Path) -> Truth:
    return load_truth(world)
