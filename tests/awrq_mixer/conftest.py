"""A small log with a known truth: log Q is a level of the state plus a shape of its hidden class."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pandas as pd
import pytest
import torch

from awrq_mixer.learners.base import Batch, Learner
from awrq_mixer.networks.agents import initialise
from marca_common.seeding import torch_generator
from marca_common.torch_seeding import use_generator

SIZES = (2, 3, 4)
L = TypeVar("L", bound=Learner)


@dataclass
class SmallWorld:
    """A log in a file, and the expected revenue of any state's joint actions."""

    path: Path
    frame: pd.DataFrame
    spec: dict[str, Any]

    def truth(self, states: pd.DataFrame) -> np.ndarray:
        """Expected revenue, (S, A)."""
        place, segment = states["place"].astype(int).to_numpy(), states["segment"].astype(int).to_numpy()
        joint = np.stack(np.unravel_index(np.arange(np.prod(SIZES)), SIZES), axis=1)
        shape = sum(_EFFECTS[t][_CLASS[place, segment]][:, joint[:, t]] for t in range(len(SIZES)))
        return np.asarray(np.exp(_LEVEL[segment][:, None] + shape))


_RNG = np.random.default_rng(5)
_CLASS = _RNG.integers(0, 3, (3, 8))
_EFFECTS = [_RNG.normal(0, 0.6, (3, size)) for size in SIZES]
_LEVEL = _RNG.normal(0, 0.5, 8)
SPEC: dict[str, Any] = {
    "state": {"place": "category", "segment": "category"},
    "agents": {"first": ["b1", "b2"], "second": ["b3"]},
    "sizes": {"b1": 2, "b2": 3, "b3": 4},
    "results": [],
    "reward": "money",
    "propensity": None,
}

_REMEMBER = (
    "latent_classes",
    "low_rank",
    "neural_process",
    "lightgbm_history",
)  # learn from a surrogate and a state's rows


def make_small_world(folder: Path, rows: int = 6000, seed: int = 0, shuffled: bool = False) -> SmallWorld:
    """Draw a log; ``shuffled`` breaks every link between reward and request."""
    rng = np.random.default_rng(seed)
    frame = pd.DataFrame({"timestamp": pd.date_range("2026-01-01", periods=rows, freq="s")})
    place, segment = rng.integers(0, 3, rows), rng.integers(0, 8, rows)
    frame["place"], frame["segment"] = place.astype(str), segment.astype(str)
    actions = [rng.integers(0, size, rows) for size in SIZES]
    for t, column in enumerate(actions):
        frame[f"b{t + 1}"] = column
    mean = np.exp(_LEVEL[segment] + sum(_EFFECTS[t][_CLASS[place, segment], actions[t]] for t in range(len(SIZES))))
    reward = np.where(rng.random(rows) < 0.5, mean / 0.5 * rng.gamma(2, 0.5, rows), 0.0)
    frame["money"] = rng.permutation(reward) if shuffled else reward
    path = folder / "log.parquet"
    frame.to_parquet(path, index=False)
    return SmallWorld(path, frame, SPEC)


def tiny_config(log: Path, learner: str) -> dict[str, Any]:
    """Config values of a training of a second, on a small log with a numeric ``price`` and a surrogate ``clicks``."""
    return {
        "learner": learner,
        "requests": str(log),
        "spec": SPEC | {"state": {**SPEC["state"], "price": "numeric"}},
        "network": {"embedding": 2, "hidden": 4, "heads": 2},
        "mixer": {"embed": 2, "hyper_layers": [3]},
        "batch_size": 64,
        "epochs": 1,
        "eval_every": 3,
        "boost": {"trees": 2, "min_rows": 5},
        "plus": {"classes": 3, "rank": 2, "surrogate": "clicks" if learner in _REMEMBER else None},
    }


def write_priced_log(world: SmallWorld, path: Path) -> pd.DataFrame:
    """Write the world's log with a numeric column ``price`` and a side column ``clicks``; the written rows."""
    rows = len(world.frame)
    frame = world.frame.assign(price=np.linspace(1, 9, rows), clicks=world.frame["money"] + 1)
    frame.to_parquet(path, index=False)
    return frame


def prepared(learner: L, batch: Batch) -> L:
    """A learner with seeded weights that knows the batch's scale, counts money in units of 1 and draws seeded noise."""
    initialise(learner, "glorot_uniform", torch_generator(1, "weights"))
    learner.generator = torch_generator(2, "noise")
    learner.prepare(batch, torch.full((len(learner.joint),), 1 / len(learner.joint)))
    learner.reward_scale.fill_(1.0)
    use_generator(learner, learner.generator)
    return learner


@pytest.fixture(scope="session")
def small_world(tmp_path_factory: pytest.TempPathFactory) -> SmallWorld:
    """6,000 rows of the small log."""
    return make_small_world(tmp_path_factory.mktemp("small"))


@pytest.fixture(scope="session")
def shuffled_world(tmp_path_factory: pytest.TempPathFactory) -> SmallWorld:
    """The same with rewards shuffled."""
    return make_small_world(tmp_path_factory.mktemp("shuffled"), shuffled=True)


@pytest.fixture(scope="session")
def draw_world() -> Any:
    """A function that draws a small world into a folder."""
    return make_small_world


@pytest.fixture(scope="session")
def small_config(small_world: Any) -> Any:
    """Config values of a quick run on the small log."""
    return {
        "requests": str(small_world.path),
        "spec": small_world.spec,
        "network": {"embedding": 4, "hidden": 16, "heads": 3},
        "mixer": {"embed": 8, "hyper_layers": [8]},
        "optimiser": {"lr": 0.01},
        "batch_size": 256,
        "epochs": 2,
        "eval_every": 8,
        "validation_rows": 400,
    }
