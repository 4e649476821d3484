"""The example's foreign tables for tests: frames, files of changed copies, and declarations of them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from cascade_world.config import WorldConfig
from marca_common.config import load_config
from own_system.check import find_all
from own_system.declaration import OwnSystem
from own_system.example import write_foreign
from own_system.findings import Finding
from tests.own_system.defects import Defect

REPOSITORY = Path(__file__).parents[2]
ROLES = ("requests", "minutes", "load_tests")
SMALL = REPOSITORY / "configs/cascade_world/small.yaml"


def write_example(world: Path, out: Path) -> Path:
    """The foreign files of a generated small world, in ``out``."""
    out.mkdir(exist_ok=True)
    write_foreign(load_config(WorldConfig, SMALL), world / "logs", out)
    return out


def declared(folder: Path, overrides: Sequence[str] = ()) -> OwnSystem:
    """The shipped declaration, of files in ``folder``."""
    files = [f"{role}.file={folder}/{role}.csv" for role in ROLES]
    changed = [one.replace("{folder}", str(folder)) for one in overrides]
    return load_config(OwnSystem, REPOSITORY / "configs/own_system.yaml", [*files, *changed])


def findings_of(defect: Defect, example: Path, folder: Path, seed: int) -> list[Finding]:
    """What the checker finds in a copy of the example with one defect."""
    frames = {
        role: pd.read_csv(
            example / f"{role}.csv", keep_default_na=False, na_values={"fetched_mean": "", "ranked_mean": ""}
        )
        for role in ROLES
    }
    before = {role: frame.copy() for role, frame in frames.items()}
    defect.change(frames, np.random.default_rng(seed))
    for role, frame in frames.items():
        if frame.equals(before[role]):
            (folder / f"{role}.csv").write_bytes((example / f"{role}.csv").read_bytes())
        else:
            frame.to_csv(folder / f"{role}.csv", index=False)
    if defect.files is not None:
        defect.files(folder)
    return list(find_all(declared(folder, defect.overrides))[0])
