"""Days in closed loop on the open world: every strategy meets the same traffic, the same requests and the same luck."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd

from cascade_world.data_centre.world_plant import WorldPlant
from marca_common.compute import set_threads
from marca_common.errors import UserError
from marca_common.processes import process_pool
from marca_common.progress import progress
from marca_common.seeding import numpy_generator
from marca_common.system import system_table
from marca_common.tables import write_table
from marca_loop.scene import Parts, make_scene, price_scale
from marca_loop.settings import DayConfig
from mpc_balancer.testbed.commissioning import excite
from mpc_balancer.testbed.control_loop import LoopResult, closed_loop
from mpc_balancer.testbed.run_metrics import over_utilisation, utilisation


def commission(config: DayConfig, parts: Parts, learner: str, folder: Path) -> None:
    """Write system.parquet: a learner's policy under a feedback rule with a dithered λ, on days before the evaluation's."""
    scene = make_scene(parts, config.commission_seed, config.start_day - config.commission_days, config.commission_days)
    world, policy = scene.world, scene.policy(learner)
    ids = numpy_generator(config.commission_seed, "price_scale").choice(len(scene.catalogue.states), 2000)
    scale = price_scale(policy, ids, len(world.services))
    rows = []
    for g, group in enumerate(progress(world.groups, what="commissioning", unit="idc")):
        plant = scene.plant(group, policy)
        rows += excite(plant, scene.traffic.arrivals[g], scale, config.commission_seed, target=world.budget_percent())
    write_table(system_table(rows, world.services), folder / "system.parquet")


def simulate(config: DayConfig, parts: Parts, folder: Path) -> None:
    """Write minutes.parquet and who_gets_what.csv: all strategies on all seeds (columns as in ``marca_report``)."""
    work = partial(_simulate_seed, config, parts)
    with process_pool(min(config.workers, len(config.seeds))) as pool:
        found = list(progress(pool.map(work, config.seeds), what="days", total=len(config.seeds), unit="seed"))
    breakdown = pd.concat([one[1] for one in found])
    keys = ["strategy", "dimension", "value"]
    write_table(breakdown.groupby(keys, sort=False).sum().reset_index(), folder / "who_gets_what.csv")
    write_table(pd.concat([one[0] for one in found], ignore_index=True), folder / "minutes.parquet")


def summarise(
    minutes: pd.DataFrame, services: tuple[str, ...], budget: float, baseline: str
) -> dict[str, dict[str, float]]:
    """Per strategy: revenue per seed's day, uplift over the baseline, μ and ν (Eqs. 21, 22) over services and centres."""
    found = {}
    base = minutes.loc[minutes["strategy"] == baseline, "revenue"].sum()
    for strategy, part in minutes.groupby("strategy", sort=False):
        cpu = part[[f"cpu_{name}" for name in services]].to_numpy()
        found[str(strategy)] = {
            "revenue": float(part["revenue"].sum() / part["seed"].nunique()),
            "uplift_pct": 100 * float(part["revenue"].sum() / base - 1),
            "mu": float(np.mean(utilisation(cpu, budget))),
            "nu": float(np.mean(over_utilisation(cpu, budget))),
            "cpu_mean": float(cpu.mean()),
            "timeouts": float(part["timeouts"].sum()),
        }
    return found


def _simulate_seed(config: DayConfig, parts: Parts, seed: int) -> tuple[pd.DataFrame, pd.DataFrame]:
    set_threads(1)
    scene = make_scene(parts, seed, config.start_day, config.days)
    minutes, breakdowns = [], []
    for g, group in enumerate(scene.world.groups):
        for name, strategy in config.strategies.items():
            try:
                policy, controller = strategy.serve(scene, group)
                plant = scene.plant(group, policy)
                loop = closed_loop(plant, controller, scene.traffic.arrivals[g], what=f"{name} {group}")
            except (UserError, ValueError) as error:  # ValueError: a plant's word on prices or decisions it can't use
                raise UserError(f"strategy {name}, data centre {group}, seed {seed}: {error}") from error
            minutes.append(_minutes(plant, loop).assign(strategy=name, seed=seed, group=group))
            breakdowns.append(plant.breakdown.table().assign(strategy=name))
    return pd.concat(minutes), pd.concat(breakdowns)


def _minutes(plant: WorldPlant, loop: LoopResult) -> pd.DataFrame:
    """The plant's own minute records, with time, budget and the controller's time per step."""
    table = plant.minutes()
    table["timestamp"] = [one.timestamp for one in loop]
    table["step_ms"] = 1e3 * np.array(loop.step_seconds)
    for name in plant.world.services:
        table[f"budget_{name}"] = plant.world.budget_percent()
    return table
