"""The truth of a generated world, for evaluation only: learners never open it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from cascade_world.config import WorldConfig
from cascade_world.mechanism.assembled_world import World
from cascade_world.mechanism.truth import load_tables, truth_key
from marca_common.config import load_config
from marca_common.errors import UserError
from marca_common.requests import RequestSpec

__all__ = ["Truth", "World", "load_truth"]


class Truth:
    """The truth of a generated world, for evaluation only; learners never open it."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.services = world.services

    def values(self, states: pd.DataFrame) -> np.ndarray:
        """True expected revenue, money per request, float32 (S, A); unknown state values are a UserError."""
        return self.world.values(states)

    def costs(self, states: pd.DataFrame) -> np.ndarray:
        """True expected cost, core-ms per request and service, float32 (S, A, services)."""
        return self.world.expected_costs(states)

    def request_spec(self) -> RequestSpec:
        """Columns of the world's request log."""
        return self.world.spec

    def latent(self, states: pd.DataFrame) -> pd.DataFrame:
        """``class`` and ``scale`` behind each state: for a learner that is told them, and for diagnosis."""
        classes, scale = self.world.population.latent(self.world.population.codes(states[list(self.world.spec.state)]))
        return pd.DataFrame({"class": classes, "scale": scale})

    def reference_scores(self, states: pd.DataFrame) -> dict[str, np.ndarray]:
        """Scores that know nothing useful, float32 (S, A): ``flat`` in actions, and ``profile``, equal for all states.

        ``flat`` is the state's mean value over actions; ``profile`` multiplies it with the mean profile of all classes.
        """
        mean = self.values(states).mean(axis=1, keepdims=True)
        tables = self.world.tables.q
        shape = (tables / tables.mean(axis=1, keepdims=True)).mean(axis=0)
        return {"flat": np.repeat(mean, len(shape), axis=1), "profile": mean * shape[None, :].astype(np.float32)}


def load_truth(folder: str | Path) -> Truth:
    """The truth that ``generate`` left in a run folder (or in its ``truth/``)."""
    folder = Path(folder)
    if not (folder / "truth").is_dir() and folder.name == "truth":
        folder = folder.parent
    if not (folder / "config.yaml").is_file():
        raise UserError(f"{folder}: not a generated world; expected config.yaml and truth/ in it")
    config = load_config(WorldConfig, folder / "config.yaml")
    return Truth(World(config, load_tables(folder / "truth" / "tables.npz", truth_key(config))))
