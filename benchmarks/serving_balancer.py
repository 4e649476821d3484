"""The balancer on a live system: `python -m benchmarks.serving_balancer [--quick]`.

`serving_speed.csv`: CPU time of a decision, of a whole step (state, log and metrics written) and of a round of 100 data
centres, and of the fallback grid for 2 to 20 prices. `serving_crashes.csv`: over-use in the half hour after a crash against
never stopping, the plant meeting the same luck, by minutes until the restart. Then a week in shadow on the small world.
"""

from __future__ import annotations

import argparse
import copy
import logging
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from benchmarks._mpc import commissioned_model, stamp
from benchmarks._results import add_keep
from cascade_world.config import WorldConfig
from cascade_world.data_centre.world_plant import WorldPlant
from cascade_world.generate import generate
from cascade_world.population.world_traffic import make_traffic
from cascade_world.world import load_truth
from marca_common.config import load_config, replaced
from marca_common.files import shipped
from marca_common.tables import write_table
from mpc_balancer.config import ColumnsConfig, ControllerConfig, MpcConfig, SolverConfig, SystemModelConfig
from mpc_balancer.controllers.mpc import MpcController
from mpc_balancer.planning.solvers import solve
from mpc_balancer.price_scale import PriceScale
from mpc_balancer.serve import Balancer, ServeConfig
from mpc_balancer.serving.balancer import steered_groups
from mpc_balancer.serving.replay import differing, replay
from mpc_balancer.serving.steered import Steered
from mpc_balancer.system_model.features import Features
from mpc_balancer.system_model.model import SystemModel
from mpc_balancer.system_model.system_network import SystemNetwork
from mpc_balancer.testbed.model_plant import ModelPlant
from mpc_balancer.testbed.run_metrics import over_utilisation
from mpc_balancer.testbed.scenarios import load_scenarios, start_scenario
from mpc_balancer.train import fit_model, load_data

CONTROLLER = ControllerConfig(mpc=MpcConfig(solver=SolverConfig(deadline_ms=None)))  # a wall-clock limit is no seed
PLANNING = replaced(CONTROLLER, {"mpc.objective.horizon": 10})  # a plan of ten steps
HALF_HOUR, DOWN = 30, (0, 1, 3, 10)  # minutes
Row = dict[str, Any]


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer steps, crashes and minutes")
    add_keep(parser)
    arguments = parser.parse_args()
    quick, suffix = arguments.quick, "_quick" if arguments.quick else ""
    torch.set_num_threads(1)
    logging.disable(logging.WARNING)
    speed = pd.DataFrame([*steps(40 if quick else 400), many(20 if quick else 100), *grids(2 if quick else 12)])
    write_table(speed.round(4), arguments.results / f"serving_speed{suffix}.csv")
    print(speed.to_string(index=False))
    crashes = crash_table(range(100, 101 if quick else 105), every=240 if quick else 61)
    write_table(crashes.round(4), arguments.results / f"serving_crashes{suffix}.csv")
    print(crashes.to_string(index=False))
    print(shadow_week(days=0.1 if quick else 7.0))


# -- speed ---------------------------------------------------------------------------------------------------------------
def untrained(services: int, groups: int = 1) -> SystemModel:
    """A model that nobody trained but that knows what prices do: its time is that of a trained one."""
    names = tuple(f"dc{number}" for number in range(groups))
    size = 9 + groups
    features = Features(
        names, np.full(groups, 300.0), np.zeros(0), np.zeros(0), True, False, np.full(size, -9.0), np.full(size, 9.0)
    )
    torch.manual_seed(0)
    network = SystemNetwork(services, services, features.size, [64, 64], "utilisation_law")
    own = torch.arange(services)
    with torch.no_grad():
        network.level.fill_(4.8)  # CPU about 60 % in the middle of the box
        for layer in (0, 1):  # other services do little
            network.layers[layer].get_parameter("weight").mul_(0.2)
        network.layers[0].get_parameter("weight")[:, 2 * services :] = 0.0  # nor do the hour and the age of a forecast
        for layer, column, effect in ((0, own + services, 1.0), (1, own, 1.0), (2, own, -1.5)):
            network.layers[layer].get_parameter("weight")[own, column] += effect
    scale = PriceScale(np.zeros(services), np.full(services, 2e-3), np.full(services, 1e-4))
    return SystemModel.from_network(network, [f"s{j}" for j in range(services)], features, scale, ColumnsConfig())


def measurements(model: SystemModel, group: str, count: int) -> list[Any]:
    """Minutes of the model as its own plant, under prices that move about."""
    generator = np.random.default_rng(0)
    plant = ModelPlant(model, group, 0, np.datetime64("2026-03-09", "s"))
    prices = [model.prices.from_unit(generator.uniform(0.4, 0.6, model.prices.size)) for _ in range(count)]
    return [plant.step(price, generator.poisson(3000.0, 6)) for price in prices]


def steps(count: int) -> list[Row]:
    """A data centre of 2 and of 20 services: its decision, and its whole step."""
    rows = []
    for services in (2, 20):
        model = untrained(services)
        minutes, config = measurements(model, "dc0", count), ServeConfig(model=None, controller=CONTROLLER)
        alone = steered_groups(config, model)["dc0"]
        decision = timed(lambda one, alone=alone: alone.decide(one, "measured"), minutes)
        with tempfile.TemporaryDirectory() as folder, Balancer(config, folder, model) as balancer:
            whole = timed(balancer.step, minutes)
            assert balancer.summary["rungs"]["solver"] == count, balancer.summary
        planned = steered_groups(config.model_copy(update={"controller": PLANNING}), model)["dc0"]
        plan = timed(lambda one, planned=planned: planned.decide(one, "measured"), minutes)
        rows += [
            row(f"decision, {services} services", decision),
            row(f"whole step, {services} services", whole),
            row(f"decision of a plan of ten steps, {services} services", plan),
        ]
    return rows


def many(groups: int) -> Row:
    """One round of many data centres of 2 services in one process."""
    model = untrained(2, groups)
    minutes = [measurements(model, group, 4) for group in model.features.groups]
    config = ServeConfig(model=None, controller=CONTROLLER)
    with tempfile.TemporaryDirectory() as folder, Balancer(config, folder, model) as balancer:
        rounds = timed(lambda number: [balancer.step(own[number]) for own in minutes], list(range(4)))
    return row(f"a round of {groups} data centres", rounds)


def grids(count: int) -> list[Row]:
    """The fallback grid, and how far from the target it leaves CPU; a long Gauss-Newton search beside it."""
    rows = []
    for prices in (2, 3, 4, 5, 8, 20):
        model = untrained(prices)
        made = MpcController(PLANNING, "dc0", model.services, model.prices, model, None)
        problems = []
        for one in measurements(model, "dc0", count + 3):
            made.step(one)
            problems.append(made.problem()[0])
        config = SolverConfig(name="grid", deadline_ms=None)
        spent = timed(lambda problem, config=config: solve(problem, config), problems[3:])
        best = SolverConfig(deadline_ms=None, iterations=20, constants=30, refine=3)
        off = {
            name: float(np.mean([np.abs(one.path(solve(one, kind).plan) - one.target).mean() for one in problems[3:]]))
            for name, kind in (("cpu_off_points", config), ("cpu_off_points_best", best))
        }
        rows.append(row(f"fallback grid, {prices} prices", spent) | off)
    return rows


def timed(function: Any, values: list[Any]) -> np.ndarray:
    """CPU milliseconds of this process per value; what else runs on the machine is not counted."""
    function(values[0])
    spent = []
    for value in values[1:]:
        started = time.process_time()
        function(value)
        spent.append(1000 * (time.process_time() - started))
    return np.array(spent)


def row(what: str, spent: np.ndarray) -> Row:
    p50, p99 = np.percentile(spent, [50, 99])
    return {"what": what, "ms_p50": float(p50), "ms_p99": float(p99), "times": len(spent), **stamp(0)}


# -- crashes ---------------------------------------------------------------------------------------------------------------
def crash_table(seeds: range, every: int) -> pd.DataFrame:
    """ν in the half hour from the restart on, minus that of never stopping, points; crashes ``every`` minutes of a day."""
    model, rows = commissioned_model([64, 64], days=5), []
    scenarios = load_scenarios("configs/mpc_balancer/scenarios.yaml")
    for name in ("nominal", "hard"):
        more = np.concatenate([crashed(model, scenarios[name], seed, every) for seed in seeds])  # (crashes, downs)
        for down, column in zip(DOWN, more.T):
            rows.append(
                {
                    "scenario": name,
                    "minutes_down": down,
                    "crashes": len(column),
                    "over_use_more_points": float(column.mean()),
                    "share_within_a_tenth": float((column <= 0.1).mean()),
                    "worst_points": float(column.max()),
                    **stamp(f"{seeds[0]}-{seeds[-1]}"),
                }
            )
    return pd.DataFrame(rows)


def crashed(model: SystemModel, scenario: Any, seed: int, every: int) -> np.ndarray:
    """Differences of over-use (crashes of a day, DOWN)."""
    drawn = start_scenario(scenario, seed)
    plant, one, found = drawn.plant(), fresh(model), []
    for minute in range(len(drawn.arrivals) - HALF_HOUR - max(DOWN)):
        if minute % every == every - 1:
            ahead = drawn.arrivals[minute:]
            pairs = [[after(model, plant, one, ahead, down, never) for never in (False, True)] for down in DOWN]
            found.append([stopped - never for stopped, never in pairs])
        for _ in one.step(plant.step(one.lambda_, drawn.arrivals[minute])):
            pass
    return np.array(found)


def after(model: SystemModel, plant: Any, one: Steered, arrivals: np.ndarray, down: int, never: bool) -> float:
    """Over-use in percent in the half hour from the restart on; λ stands still until then."""
    plant, two = copy.deepcopy(plant), fresh(model)
    first = len(plant.truth) + down
    two.restore(one.state())
    for minute in range(down + HALF_HOUR):
        measured = plant.step(two.lambda_, arrivals[minute])
        if never or minute >= down:
            for _ in two.step(measured):
                pass
    return 100 * float(np.mean(over_utilisation(np.array(plant.truth[first:]), 65.0)))


def fresh(model: SystemModel) -> Steered:
    """The controller of the reference plant, as at the first start."""
    return steered_groups(ServeConfig(model=None, controller=CONTROLLER), model)["reference"]


# -- shadow ----------------------------------------------------------------------------------------------------------------
def shadow_week(days: float) -> str:
    """A week of the small world under somebody's prices, alone and with the balancer in shadow beside it."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder)
        generate(load_config(WorldConfig, shipped("configs/cascade_world/small.yaml"), ["truth.cache=null"]), out / "w")
        training = SystemModelConfig(
            table=str(out / "w/logs/system.parquet"), hidden=[24, 24], epochs=10, tune_candidates=4
        )
        model = fit_model(load_data(training), training)[0]
        config = ServeConfig(model=None, controller=CONTROLLER, shadow=True)
        with Balancer(config, out / "shadow", model) as balancer:
            alone, watched = (world_days(out / "w", days, watch) for watch in (None, balancer))
        again = replay(config, out / "shadow/log", model)
    return (
        f"shadow: {len(again)} decisions over {days:g} days; the world's minutes equal: {alone.equals(watched)};"
        f" prices of the replayed log that differ: {differing(again)}"
    )


def world_days(folder: Path, days: float, watch: Balancer | None) -> pd.DataFrame:
    """The world's minutes, all data centres; half the requests that can be cheap are, the more the dearer."""
    world = load_truth(folder).world
    traffic = make_traffic(world.config, 7, days)

    def decide(ids: np.ndarray, lambda_: np.ndarray) -> np.ndarray:
        return np.where(ids % 100 < 100 * np.exp(-lambda_.mean() / 1e-4), 444, 100)

    frames = []
    for index, group in enumerate(traffic.groups):
        plant = WorldPlant(world, group, traffic, decide, 3)
        for minute in range(traffic.arrivals.shape[1]):
            price = 1e-4 * (1 + np.sin(np.arange(len(world.services)) + minute / 50))
            measured = plant.step(price, traffic.arrivals[index, minute])
            if watch is not None:
                watch.step(measured)
        frames.append(plant.minutes().assign(idc=group))
    return pd.concat(frames, ignore_index=True)


if __name__ == "__main__":
    main()
