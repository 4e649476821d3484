"""Who gets what: requests, revenue, computation and the action mix by user value, placement and hour."""

from __future__ import annotations

import numpy as np
import pandas as pd

from cascade_world.data_centre.minute_serving import tally
from cascade_world.mechanism.assembled_world import World
from cascade_world.population.catalogue import Catalogue
from marca_common.arrays import require_range, require_shape, whole_numbers


class Breakdown:
    """Counts of one data centre's run, filled minute by minute."""

    def __init__(self, world: World, catalogue: Catalogue) -> None:
        self.world = world
        values = world.population.values
        self.labels = [*values["user_value"], *values["placement"], *(str(hour) for hour in range(24))]
        tiers, placements = len(values["user_value"]), len(values["placement"])
        self.dimension = ["user_value"] * tiers + ["placement"] * placements + ["hour"] * 24
        self.first_hour = tiers + placements
        self.cells = np.column_stack([catalogue.codes[:, 0], tiers + catalogue.codes[:, 1]])  # (S, 2)
        self.requests = np.zeros((len(self.labels), world.space.n_joint))
        self.sums = np.zeros((len(self.labels), 2))

    def add(
        self, timestamp: np.datetime64, states: np.ndarray, joint: np.ndarray, revenue: np.ndarray, core_ms: np.ndarray
    ) -> None:
        """Count one minute: state ids, served joint actions, money and core-ms of its requests."""
        for name, ids, size in (("state", states, len(self.cells)), ("joint action", joint, self.requests.shape[1])):
            require_range(name, whole_numbers(name, ids), size)
        for part in (joint, revenue, core_ms):
            require_shape("a minute's requests", part, states.shape)
        hour = int(timestamp.astype("datetime64[h]").astype(np.int64) % 24)
        tally(self.cells, states, joint, revenue, core_ms, self.first_hour + hour, self.requests, self.sums)

    def table(self) -> pd.DataFrame:
        """``dimension, value, requests, revenue, core_ms`` and a count per ``<sub-action>=<choice>``, in real requests."""
        weight, spec = self.world.config.plant.weight, self.world.spec
        columns: dict[str, object] = {"dimension": self.dimension, "value": self.labels}
        columns["requests"] = self.requests.sum(axis=1) * weight
        columns["revenue"], columns["core_ms"] = self.sums[:, 0] * weight, self.sums[:, 1] * weight
        joint = spec.joint_table()
        for j, name in enumerate(spec.sub_actions):
            for choice in range(spec.shape[j]):
                columns[f"{name}={choice}"] = self.requests[:, joint[:, j] == choice].sum(axis=1) * weight
        table = pd.DataFrame(columns)
        return table[table["requests"] > 0].reset_index(drop=True)
