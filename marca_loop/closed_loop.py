"""Days in closed loop on the open world: every strategy meets the same traffic, the same requests and the same luck.

Beside ``orchestrate.py`` the only place that joins the packages; benchmarks take it from here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
from pydantic import Field, model_validator

from autobucket.costs.cost_model import CostModel
from awrq_mixer.serving.policy import HullPolicy
from awrq_mixer.serving.predictor import Predictor
from cascade_world.data_centre.world_plant import WorldPlant
from cascade_world.population.catalogue import Catalogue
from cascade_world.population.world_traffic import Traffic, make_traffic
from cascade_world.world import World, load_truth
from marca_common.compute import set_threads
from marca_common.config import Config, replaced
from marca_common.processes import process_pool
from marca_common.progress import progress
from marca_common.protocols import Controller, Policy
from marca_common.seeding import numpy_generator
from marca_common.system import system_table
from marca_common.tables import write_table
from marca_loop.static_strategy import StaticPolicy, StaticRule
from marca_measures.static_mixture import StaticMixture, static_mixture
from mpc_balancer.config import ControllerConfig
from mpc_balancer.controllers import make_controller
from mpc_balancer.forecasting.event_calendar import Calendar
from mpc_balancer.price_scale import PriceScale
from mpc_balancer.system_model.model import SystemModel
from mpc_balancer.testbed.commissioning import excite
from mpc_balancer.testbed.control_loop import LoopResult
from mpc_balancer.testbed.control_loop import closed_loop as run_loop
from mpc_balancer.testbed.run_metrics import over_utilisation, utilisation

BASELINE = "static"


class DayConfig(Config):
    """The simulated days and the strategies that live through them."""

    policy: str = Field(default="awrq_mixer", description="learner whose Q decides")
    seeds: list[int] = Field(default=[100, 101], min_length=1, description="evaluation seeds, one simulated day each")
    days: float = Field(default=1.0, gt=0, description="length of each simulation, days")
    start_day: float = Field(default=28, ge=0, description="day of the simulation on which it begins, after the logs")
    controllers: dict[str, ControllerConfig] = Field(
        description="strategy → controller of its λ; the static strategy comes on top"
    )
    commission_seed: int = Field(default=50, description="seed of the commissioning days; not an evaluation seed")
    commission_days: float = Field(default=3.0, gt=0, description="days under a dithered λ, from which g is learned")
    static_levels: list[float] = Field(
        default=[1.0, 0.9, 0.8, 0.65, 0.5, 0.35],
        min_length=1,
        description="static: budget share of each downgrade level",
    )
    static_patience: int = Field(default=10, ge=1, description="static: calm minutes before a level is taken back")
    static_headroom: float = Field(default=0.85, gt=0, le=1, description="static: calm is CPU below this share of C_m")
    workers: int = Field(default=2, ge=1, description="processes that simulate seeds side by side")

    @model_validator(mode="after")
    def _seeds_apart(self) -> DayConfig:
        if self.commission_seed in self.seeds:
            raise ValueError("commission_seed is among the evaluation seeds; expected another one")
        if BASELINE in self.controllers:
            raise ValueError(f"controllers: {BASELINE!r} is the baseline's own name; expected another one")
        return self


@dataclass(frozen=True)
class Parts:
    """Where the learned parts lie: folders and files of earlier stages."""

    world: Path | None  # folder of cascade_world.generate; None with own logs
    values: Path  # checkpoint of awrq_mixer.train
    results: Path  # estimator of autobucket.train
    cost_maps: Path  # cost_maps.json of autobucket.fit_costs
    system_model: Path  # checkpoint of mpc_balancer.train


@dataclass
class Scene:
    """A traffic run with the policy prepared for every state that may arrive in it."""

    world: World
    traffic: Traffic
    catalogue: Catalogue
    policy: HullPolicy

    def plant(self, group: str, policy: Policy) -> WorldPlant:
        """A fresh data centre under ``policy``; the luck of its requests depends on the traffic's seed only."""
        expected = policy.expected if isinstance(policy, HullPolicy) else None  # static predicts nothing
        return WorldPlant(
            self.world, group, self.traffic, policy.decide, self.traffic.seed,
            catalogue=self.catalogue, expected=expected,
        )  # fmt: skip


def make_scene(parts: Parts, seed: int, start_day: float, days: float) -> Scene:
    """Draw traffic and states of a seed and score them with the learned Q and C."""
    assert parts.world is not None
    world = load_truth(parts.world).world
    values, costs = Predictor.load(parts.values), CostModel.load(parts.results, parts.cost_maps)
    traffic = make_traffic(world.config, seed, days, start_day=start_day)
    catalogue = world.catalogue(traffic)
    return Scene(world, traffic, catalogue, HullPolicy.build(catalogue.states, values.values, costs.costs))


def price_scale(policy: HullPolicy, ids: np.ndarray, services: int) -> PriceScale:
    """λ's box for a policy: per service up to where a higher price, the other services being free, saves nothing more."""

    def spent(service: int, price: float) -> float:
        lambda_ = np.where(np.arange(services) == service, price, 0.0)
        return float(policy.expected(ids, policy.decide(ids, lambda_))[1][:, service].mean())

    high, ref = np.empty(services), np.empty(services)
    for j in range(services):
        most, least = spent(j, 0.0), spent(j, 1e12)
        high[j] = _price_of(partial(spent, j), least + 0.02 * (most - least))
        ref[j] = _price_of(partial(spent, j), least + 0.6 * (most - least))
    return PriceScale(np.zeros(services), high, np.minimum(ref, high))


def _price_of(spent: Callable[[float], float], target: float) -> float:
    """Least price at which a falling ``spent(price)`` is at the target, by bisection in the logarithm."""
    low, high = 1e-9, 1e9
    for _ in range(60):
        middle = float(np.sqrt(low * high))
        low, high = (middle, high) if spent(middle) > target else (low, middle)
    return high


def commission(config: DayConfig, parts: Parts, folder: Path) -> None:
    """Write system.parquet: the learned policy under a feedback rule with a dithered λ, on days before the evaluation's."""
    scene = make_scene(parts, config.commission_seed, config.start_day - config.commission_days, config.commission_days)
    world = scene.world
    ids = numpy_generator(config.commission_seed, "price_scale").choice(len(scene.catalogue.states), 2000)
    scale = price_scale(scene.policy, ids, len(world.services))
    rows = []
    for g, group in enumerate(progress(world.groups, what="commissioning", unit="idc")):
        plant = scene.plant(group, scene.policy)
        rows += excite(plant, scene.traffic.arrivals[g], scale, config.commission_seed, target=world.budget_percent())
    write_table(system_table(rows, world.services), folder / "system.parquet")


def simulate(config: DayConfig, parts: Parts, levels: dict[str, list[StaticMixture]], folder: Path) -> None:
    """Write minutes.parquet and who_gets_what.csv: all strategies on all seeds (columns as in ``report``)."""
    work = partial(_simulate_seed, config, parts, levels)
    with process_pool(min(config.workers, len(config.seeds))) as pool:
        found = list(progress(pool.map(work, config.seeds), what="days", total=len(config.seeds), unit="seed"))
    breakdown = pd.concat([one[1] for one in found])
    keys = ["strategy", "dimension", "value"]
    write_table(breakdown.groupby(keys, sort=False).sum().reset_index(), folder / "who_gets_what.csv")
    write_table(pd.concat([one[0] for one in found], ignore_index=True), folder / "minutes.parquet")


def static_levels(
    config: DayConfig,
    world: World,
    peak_qps: dict[str, float],
    values: dict[str, np.ndarray],
    costs: dict[str, np.ndarray],
) -> dict[str, list[StaticMixture]]:
    """Per data centre the best mixtures that keep C_m at its peak traffic, one per downgrade level.

    ``values`` mean Q per joint action (A,), ``costs`` mean C (A, services), both predicted from logs, per data centre.
    """
    usable = world.budget_percent() - world.config.plant.idle_percent
    levels = {}
    for g, group in enumerate(world.groups):
        allowed = usable / 100 * world.cores[g] * 1000 / peak_qps[group]  # core-ms per request (services,)
        least = float((costs[group] / allowed).max(axis=1).min())  # share at which one fixed action still fits
        levels[group] = [
            static_mixture(values[group], costs[group], allowed * max(share, 1.001 * least))
            for share in config.static_levels
        ]
    return levels


def summarise(minutes: pd.DataFrame, services: tuple[str, ...], budget: float) -> dict[str, dict[str, float]]:
    """Per strategy: revenue per seed's day, uplift in % over static, μ and ν (Eqs. 21, 22) over services and centres."""
    found = {}
    baseline = minutes.loc[minutes["strategy"] == BASELINE, "revenue"].sum()
    for strategy, part in minutes.groupby("strategy", sort=False):
        cpu = part[[f"cpu_{name}" for name in services]].to_numpy()
        found[str(strategy)] = {
            "revenue": float(part["revenue"].sum() / part["seed"].nunique()),
            "uplift_pct": 100 * float(part["revenue"].sum() / baseline - 1),
            "mu": float(np.mean(utilisation(cpu, budget))),
            "nu": float(np.mean(over_utilisation(cpu, budget))),
            "cpu_mean": float(cpu.mean()),
            "timeouts": float(part["timeouts"].sum()),
        }
    return found


def _simulate_seed(
    config: DayConfig, parts: Parts, levels: dict[str, list[StaticMixture]], seed: int
) -> tuple[pd.DataFrame, pd.DataFrame]:
    set_threads(1)
    scene = make_scene(parts, seed, config.start_day, config.days)
    minutes, breakdowns = [], []
    for strategy, group, policy, controller in _strategies(config, parts, scene, levels):
        plant = scene.plant(group, policy)
        loop = run_loop(
            plant, controller, scene.traffic.arrivals[scene.world.groups.index(group)], what=f"{strategy} {group}"
        )
        minutes.append(_minutes(plant, loop).assign(strategy=strategy, seed=seed, group=group))
        breakdowns.append(plant.breakdown.table().assign(strategy=strategy))
    return pd.concat(minutes), pd.concat(breakdowns)


def _strategies(
    config: DayConfig, parts: Parts, scene: Scene, levels: dict[str, list[StaticMixture]]
) -> Iterator[tuple[str, str, Policy, Controller]]:
    """(strategy, data centre, policy, controller): static first, then the configured ones on the learned policy."""
    world, model = scene.world, SystemModel.load(parts.system_model)
    budget = np.full(len(world.services), world.budget_percent())
    calendar = Calendar.from_frame(scene.traffic.calendar)
    for group in world.groups:
        draws = numpy_generator(scene.traffic.seed, BASELINE, group)
        rule = StaticRule(budget, len(config.static_levels), config.static_patience, config.static_headroom)
        yield BASELINE, group, StaticPolicy(levels[group], draws), rule
        for strategy, settings in config.controllers.items():
            settings = replaced(settings, {"budget": world.budget_percent()})
            yield strategy, group, scene.policy, make_controller(settings, group, model, calendar)


def _minutes(plant: WorldPlant, loop: LoopResult) -> pd.DataFrame:
    """The plant's own minute records, with time, budget and the controller's time per step."""
    table = plant.minutes()
    table["timestamp"] = [one.timestamp for one in loop]
    table["step_ms"] = 1e3 * np.array(loop.step_seconds)
    for name in plant.world.services:
        table[f"budget_{name}"] = plant.world.budget_percent()
    return table
