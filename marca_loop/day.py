"""Days in closed loop on the open world: every strategy meets the same traffic, the same requests and the same luck."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from functools import partial
from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd

from cascade_world.data_centre.world_plant import WorldPlant
from marca_common.compute import set_threads
from marca_common.errors import UserError
from marca_common.files import write_json
from marca_common.processes import process_pool
from marca_common.progress import progress
from marca_common.seeding import numpy_generator
from marca_common.system import system_table
from marca_common.tables import write_table
from marca_loop.deciders import Decider, prepare
from marca_loop.families import best_family
from marca_loop.scene import Parts, Scene, make_scene, price_scale
from marca_loop.settings import DayConfig
from mpc_balancer.testbed.commissioning import excite
from mpc_balancer.testbed.control_loop import LoopResult, closed_loop


@dataclass(frozen=True)
class Period:
    """A traffic run: its seed, first day and length in days."""

    seed: int
    start_day: float
    days: float


def prepare_policies(
    period: Period, deciders: list[Decider], learners: list[str], parts: Parts, workers: int, folder: Path
) -> None:
    """Write the policies of all deciders for the states that may arrive in a traffic run."""
    scene = _scene(parts, period)
    allowed = {one.key: best_family(scene, one.free) for one in deciders if one.free}
    prepare(deciders, parts.sources(learners), scene.catalogue.states, allowed, workers, folder)


def commission(period: Period, decider: Decider, parts: Parts, folder: Path) -> None:
    """Write system.parquet: a decider under a feedback rule with a dithered λ, on days before the evaluation's."""
    scene = _scene(parts, period)
    world, policy = scene.world, scene.policy(decider)
    ids = numpy_generator(period.seed, "price_scale").choice(len(scene.catalogue.states), 2000)
    scale = price_scale(policy, ids, len(world.services))
    rows = []
    for g, group in enumerate(progress(world.groups, what=f"commissioning {decider.key}", unit="idc")):
        plant = scene.plant(group, policy)
        rows += excite(plant, scene.traffic.arrivals[g], scale, period.seed, target=world.budget_percent())
    write_table(system_table(rows, world.services), folder / "system.parquet")


def simulate(config: DayConfig, parts: Parts, groups: tuple[str, ...], folder: Path) -> None:
    """Write minutes.parquet, who_gets_what.csv and failed.json: all strategies on all seeds (columns as in ``marca_report``).

    Each strategy, seed and data centre is a piece of work, kept when it is done. A strategy that raises is marked failed
    with its reason, and the others go on; without the baseline there is nothing to compare, which is a UserError.
    """
    pieces = [(seed, group, name) for seed, group, name in product(config.seeds, groups, config.strategies)]
    done = folder / "unfinished-pieces"  # a stage that fails keeps what is named so: a full disk costs no days
    work = partial(_piece, config, parts, done)
    with process_pool(min(config.workers, len(pieces))) as pool:
        found = list(progress(pool.map(work, pieces), what="days", total=len(pieces), unit="run"))
    failed: dict[str, str] = {}
    for (_, _, name), reason in zip(pieces, found):
        if reason is not None:
            failed.setdefault(name, reason)
    if config.baseline in failed:
        shutil.rmtree(done, ignore_errors=True)
        raise UserError(failed[config.baseline])
    kept = [_path(done, piece) for piece in pieces if piece[2] not in failed]
    write_json(folder / "failed.json", failed)
    breakdown = pd.concat([pd.read_csv(path.with_suffix(".csv"), dtype={"value": str}) for path in kept])
    keys = ["strategy", "dimension", "value"]
    write_table(breakdown.groupby(keys, sort=False).sum().reset_index(), folder / "who_gets_what.csv")
    minutes = pd.concat([pd.read_parquet(path) for path in kept], ignore_index=True)
    write_table(minutes, folder / "minutes.parquet")
    shutil.rmtree(done)


_drawn: dict[int, Scene] = {}  # by seed; of this worker process, which simulates one run's pieces


def _scene(parts: Parts, period: Period) -> Scene:
    return make_scene(parts, period.seed, period.start_day, period.days)


def _path(folder: Path, piece: tuple[int, str, str]) -> Path:
    seed, group, name = piece
    return folder / str(seed) / group / f"{name}.parquet"


def _piece(config: DayConfig, parts: Parts, folder: Path, piece: tuple[int, str, str]) -> str | None:
    """Simulate one strategy on one data centre of one seed; why it failed, None where it did not."""
    set_threads(1)
    seed, group, name = piece
    path = _path(folder, piece)
    if path.exists():
        return None
    if seed not in _drawn:
        _drawn.clear()
        _drawn[seed] = _scene(parts, Period(seed, config.start_day, config.days))
    scene = _drawn[seed]
    try:
        policy, controller = config.strategies[name].serve(scene, group)
        plant = scene.plant(group, policy)
        loop = closed_loop(plant, controller, scene.traffic.arrivals[scene.world.groups.index(group)])
    except Exception as error:  # somebody's strategy may fail in any way, and the others go on
        kind = "" if isinstance(error, (UserError, ValueError)) else f"{type(error).__name__}: "
        return " ".join(f"strategy {name}, data centre {group}, seed {seed}: {kind}{error}".split())  # one line
    write_table(plant.breakdown.table().assign(strategy=name), path.with_suffix(".csv"))
    write_table(_minutes(plant, loop).assign(strategy=name, seed=seed, group=group), path)
    return None


def _minutes(plant: WorldPlant, loop: LoopResult) -> pd.DataFrame:
    """The plant's own minute records, with time, budget and the controller's time per step."""
    table = plant.minutes()
    table["timestamp"] = [one.timestamp for one in loop]
    table["step_ms"] = 1e3 * np.array(loop.step_seconds)
    for name in plant.world.services:
        table[f"budget_{name}"] = plant.world.budget_percent()
    return table
