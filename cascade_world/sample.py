"""The small tracked tables of ``data/sample``: a few hundred rows of everything, for reading and for trying things out."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from cascade_world.config import TrafficEvent, WorldConfig
from cascade_world.mechanism.assembled_world import World
from cascade_world.population.world_traffic import make_traffic, require_trace
from cascade_world.records.load_tests import loadtest_log
from cascade_world.records.request_log import request_log, system_log
from marca_common.cli import run_cli
from marca_common.files import write_text
from marca_common.scores import action_keys, state_keys
from marca_common.tables import write_table

_DECIMALS = 4  # so that the last bits of a platform's exp() do not show


@dataclass
class Sample:
    """What ``sample`` returns."""

    folder: Path
    summary: dict[str, Any]


def sample(config: WorldConfig, out: str | Path) -> Sample:
    """Write the sample tables; the same config gives the same bytes. Two of them have the paper's header-less form."""
    require_trace(config)
    out, world = Path(out), World(config)
    log = request_log(world)
    tables = {
        "requests": _rounded(log),
        "system": _rounded(system_log(world)),
        "loadtest": _rounded(loadtest_log(world)),
        "calendar": _sale(config),
        "states": _counts("state", state_keys(log[list(world.spec.state)])),
        "quotas": _counts("action", action_keys(world.spec)[world.spec.joint_index(log)]),
    }
    for name, table in tables.items():
        write_table(table, out / f"{name}.csv")
    for name, labels in (("paper_module1", ["revenue"]), ("paper_module2", ["retrieved", "preranked"])):
        columns = [*world.spec.state, *world.spec.sub_actions, *labels]
        write_text(out / f"{name}.csv", _rounded(log)[columns].to_csv(index=False, header=False, lineterminator="\n"))
    return Sample(out, {name: len(table) for name, table in tables.items()})


def _rounded(table: pd.DataFrame) -> pd.DataFrame:
    floats = table.select_dtypes("float").columns
    return table.assign(**{name: table[name].round(8 if name == "propensity" else _DECIMALS) for name in floats})


def _sale(config: WorldConfig) -> pd.DataFrame:
    event = TrafficEvent(kind="flash", day=5.5, factor=2.0, decay_minutes=30, announced=True)
    return make_traffic(config, config.seed, 1 / 1440, events=[event]).calendar


def _counts(name: str, keys: np.ndarray) -> pd.DataFrame:
    values, counts = np.unique(keys.astype(str), return_counts=True)
    return pd.DataFrame({name: values, "count": counts})


if __name__ == "__main__":
    run_cli(sample, WorldConfig, default_config="configs/cascade_world/sample.yaml", default_out="data/sample")
