"""What a world is like: its declared properties, how fast it runs, and figures."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from cascade_world.config import WorldConfig
from cascade_world.data_centre.world_plant import WorldPlant
from cascade_world.generate import world_hash
from cascade_world.mechanism.assembled_world import World
from cascade_world.population.world_traffic import make_traffic, require_trace
from cascade_world.portrait import properties
from cascade_world.portrait import world_figures as figures
from cascade_world.records.logging_policies import Incumbent
from cascade_world.records.request_log import request_log, request_luck, request_times, rule_prices
from marca_common.cli import run_cli
from marca_common.progress import progress
from marca_common.run_folder import RunFolder
from marca_common.tables import write_table

_FACTORS = np.array([0.7, 0.8, 0.9, 1.0, 1.1, 1.25, 1.5, 2.0])


@dataclass
class Description:
    """What ``describe`` returns."""

    world: World
    folder: Path
    summary: dict[str, Any]


def describe(config: WorldConfig, out: str | Path) -> Description:
    """Measure a world's declared properties into summary.json and draw it: action clouds, budget curve, a week, degradation."""
    require_trace(config)
    with RunFolder(out, config) as folder:
        out = folder.path
        world = World(config)
        world.require_budget()
        count = max(500, 2 * config.truth.reference_states)
        states = properties.sample_states(world, count)
        curves = {}
        for g, group in enumerate(progress(world.groups, what="budget curves")):
            own = properties.sample_states(world, count, group=g)
            curves[group] = properties.uplift_by_budget(world, g, own, _FACTORS)
            write_table(curves[group], out / f"budget_curve_{group}.csv")
        week = _week(world)
        price = properties.degradation_price(world, states)
        summary = _summary(world, states, curves, price)
        summary["outcomes_per_s"] = outcome_rate(world)
        figures.draw_clouds(world, states, out / "clouds.png")
        figures.draw_budget_curves(curves, out / "budget_curve.png")
        figures.draw_week(world, week, out / "week.png")
        figures.draw_degradation(price, out / "degradation.png")
        folder.write_summary(summary)
    return Description(world, folder.out, summary)


def outcome_rate(world: World, minutes: int = 400, threads: int = 2) -> float:
    """Request outcomes per second of ``threads`` plants side by side with all noise on and a policy that costs nothing."""
    traffic = make_traffic(world.config, 0, minutes / 1440, start_day=0.5)
    catalogue = world.catalogue(traffic)
    fixed = np.arange(len(catalogue.states)) * 7919 % world.space.n_joint
    plants = [
        WorldPlant(world, group, traffic, lambda ids, _: fixed[ids], 0, catalogue=catalogue)
        for group, _ in zip(cycle(world.groups), range(threads))
    ]
    prices = np.zeros(len(world.services))

    def run(plant: WorldPlant, first: int, last: int) -> None:
        for minute in range(first, last):
            plant.step(prices, traffic.arrivals[plant.index, minute])

    run(plants[0], 0, 5)
    started = time.perf_counter()
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(lambda plant: run(plant, plant.minute, minutes), plants))
    seconds = time.perf_counter() - started
    served = sum(plant.minutes()["requests"].sum() for plant in plants) / world.config.plant.weight
    return float(served / seconds)


def _summary(world: World, states: np.ndarray, curves: dict[str, pd.DataFrame], price: pd.DataFrame) -> dict[str, Any]:
    frame = world.population.frame(states)
    values = world.values(frame)
    n_first = len(next(iter(world.spec.agents.values())))
    shipped = {group: curve[curve["factor"] == 1.0].iloc[0] for group, curve in curves.items()}
    weights = np.array([row["static"] for row in shipped.values()]) * list(world.config.states.idcs.values())
    uplift, shared = (
        float(np.average([row[name] for row in shipped.values()], weights=weights))
        for name in ("oracle_uplift_pct", "shared_uplift_pct")
    )
    log_q = np.log(values)
    sample = request_log(world, rows=min(world.config.logs.requests, 100_000))
    relative = world.tables.q_se / world.tables.q
    return {
        "world": world.config.name,
        "world_hash": world_hash(world.config),
        "joint_actions": world.space.n_joint,
        "classes": world.population.n_classes,
        "oracle_uplift_pct": uplift,
        "shared_uplift_pct": shared,
        "oracle_uplift_by_group": {group: float(row["oracle_uplift_pct"]) for group, row in shipped.items()},
        "budget_core_ms": {group: budget.tolist() for group, budget in world.budgets().items()},
        "lambda_at_budget": {
            group: [float(row[f"lambda_{name}"]) for name in world.services] for group, row in shipped.items()
        },
        "variance_share": properties.variance_shares(log_q, world.spec.shape, n_first)
        | properties.noise_shares(world, states, log_q),
        "queue_returns": properties.queue_returns(world),
        "cost_is_monotone": properties.cost_is_monotone(world),
        "cost_additivity_residual": properties.additivity_residual(world),
        "monotone_mixing_violations": properties.monotone_mixing_violations(world),
        "log_q_spectrum": properties.spectrum(log_q[:1500]).tolist(),
        "truth_se_median": float(np.median(relative)),
        "truth_se_p95": float(np.quantile(relative, 0.95)),
        "truth_draws": world.tables.draws,
        "truth_seconds": world.tables.seconds,
        "snr": properties.signal_to_noise(world, sample),
        **properties.label_statistics(sample),
        "distinct_states": _distinct_states(world),
        "degradation_price": price.to_dict("list"),
    }


def _distinct_states(world: World) -> int:
    """Distinct states among the requests of the log (their states are drawn again; nothing is served)."""
    seed, rows = world.config.seed, world.config.logs.requests
    hours = request_times(world, rows, seed) / 3600.0
    codes = world.population.sample(request_luck(seed, np.arange(rows)), hours)
    sizes = [len(values) for values in world.population.values.values()]
    return len(np.unique(np.ravel_multi_index(list(codes.T), sizes)))


def _week(world: World) -> pd.DataFrame:
    """A week under the incumbent with the rule's price: traffic, CPU and level per minute and data centre."""
    days = min(7.0, world.config.logs.system_days)
    traffic = make_traffic(world.config, 1, days)
    catalogue = world.catalogue(traffic)
    parts = []
    for g, group in enumerate(world.groups):
        incumbent = Incumbent(world, catalogue.codes, g)
        prices = rule_prices(world, incumbent, catalogue.ids[g], traffic.qps[g], g)
        plant = WorldPlant(world, group, traffic, incumbent.decide, 1, catalogue=catalogue)
        for minute in progress(range(traffic.arrivals.shape[1]), what=f"week in {group}", unit="min"):
            plant.step(np.full(len(world.services), prices[minute]), traffic.arrivals[g, minute])
        parts.append(plant.minutes().assign(group=group, timestamp=traffic.timestamps))
    return pd.concat(parts, ignore_index=True)


if __name__ == "__main__":
    run_cli(
        describe,
        WorldConfig,
        default_config="configs/cascade_world/base.yaml",
        default_out="runs/cascade_world/describe",
    )
