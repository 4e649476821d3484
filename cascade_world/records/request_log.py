"""The logs that learners see: requests, the system table and load-test rows."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pandas as pd

from cascade_world.data_centre.world_plant import WorldPlant
from cascade_world.mechanism.assembled_world import World
from cascade_world.mechanism.cascade import RESULTS, serve_requests
from cascade_world.population.world_traffic import MINUTES_PER_DAY, day_shape, make_traffic
from cascade_world.records.logging_policies import Incumbent, LoggingPolicy
from cascade_world.request_luck import hash_columns
from marca_common.arrays import require_range, require_shape, whole_numbers
from marca_common.progress import progress
from marca_common.protocols import Measurement
from marca_common.seeding import integer_seed, numpy_generator
from marca_common.system import system_table

_CHUNK = 20_000


def request_log(world: World, rows: int | None = None, seed: int | None = None) -> pd.DataFrame:
    """The request log in time order: states, logged actions with propensities, and what the cascade made of them."""
    rows = world.config.logs.requests if rows is None else rows
    seed = world.config.seed if seed is None else seed
    seconds = request_times(world, rows, seed)
    policy = LoggingPolicy(world)
    starts = range(0, rows, _CHUNK)

    def chunk(first: int) -> pd.DataFrame:
        return _request_rows(world, policy, seed, first, seconds[first : first + _CHUNK])

    with ThreadPoolExecutor(world.config.workers) as pool:
        parts = list(progress(pool.map(chunk, starts), what="requests", total=len(starts), unit=f"·{_CHUNK}"))
    return pd.concat(parts, ignore_index=True)


def request_times(world: World, rows: int, seed: int) -> np.ndarray:
    """Seconds since the start of the simulation, rising, spread as traffic is, int64 (rows,)."""
    minutes = np.arange(world.config.logs.days * MINUTES_PER_DAY)
    weight = np.cumsum(day_shape(world.config, minutes % MINUTES_PER_DAY))
    rng = numpy_generator(seed, "arrival_times")
    found = np.searchsorted(weight, np.sort(rng.random(rows)) * weight[-1], side="right")
    return np.sort(found * 60 + rng.integers(60, size=rows))


def request_luck(seed: int, number: np.ndarray) -> np.ndarray:
    """64 bits per request, by its number in the log: they decide its state and its logged action."""
    return hash_columns(integer_seed(seed, "requests"), number)


def serve(
    world: World, seed: int, first: int, codes: np.ndarray, joint: np.ndarray, stream: str = "serve"
) -> pd.DataFrame:
    """Send requests numbered from ``first`` with these states and actions through the mechanistic cascade."""
    joint = whole_numbers("joint action", joint)
    require_shape("codes", codes, (len(joint), None))
    require_range("joint action", joint, world.space.n_joint)
    classes, scale = world.population.latent(codes)
    results = np.empty((len(codes), len(RESULTS)))
    space = world.space
    serve_requests(
        np.uint64(integer_seed(seed, stream)), first, classes, joint, world.parameters, space.lengths, space.model,
        space.truncations, space.joint, results,
    )  # fmt: skip
    frame = pd.DataFrame(results, columns=list(RESULTS))
    factors = world.chosen_factors(codes, joint)
    for name in ("gmv", "spend", "predicted_value"):
        frame[name] *= scale * factors
    frame["predicted_value"] *= world.prediction_bias[codes[:, 1]]
    frame["revenue"] = frame["spend"] + world.config.classes.commission * frame["gmv"]
    counts = ["retrieved", "preranked", "impressions", "clicks"]
    frame[counts] = frame[counts].astype(np.int64)
    return frame


def _request_rows(world: World, policy: LoggingPolicy, seed: int, first: int, seconds: np.ndarray) -> pd.DataFrame:
    number = np.arange(first, first + len(seconds))
    luck = request_luck(seed, number)
    codes = world.population.sample(luck, seconds / 3600.0)
    joint, propensity = policy.act(codes, luck)
    served = serve(world, seed, first, codes, joint)
    start = np.datetime64(pd.Timestamp(world.config.traffic.start), "s")
    actions = np.stack(np.unravel_index(joint, world.spec.shape), axis=1)
    frame = pd.DataFrame({"timestamp": start + seconds.astype("timedelta64[s]")})
    frame = pd.concat([frame, world.population.frame(codes)], axis=1)
    for j, name in enumerate(world.spec.sub_actions):
        frame[name] = actions[:, j].astype(np.int64)
    for name in ("retrieved", "preranked", "impressions", "clicks"):
        frame[name] = served[name]
    for name in ("gmv", "spend", "predicted_value", "revenue"):
        frame[name] = served[name].round(6)
    frame["propensity"] = propensity
    return frame


def system_log(world: World, days: float | None = None, seed: int | None = None) -> pd.DataFrame:
    """The system table of ``days`` under the incumbent, whose price follows a rule and is varied widely on purpose."""
    days = world.config.logs.system_days if days is None else days
    seed = world.config.seed if seed is None else seed
    traffic = make_traffic(world.config, seed, days)
    catalogue = world.catalogue(traffic)
    plants, prices = [], []
    for g, group in enumerate(world.groups):
        incumbent = Incumbent(world, catalogue.codes, g)
        plants.append(
            WorldPlant(world, group, traffic, incumbent.decide, seed, catalogue=catalogue, expected=incumbent.expected)
        )
        prices.append(varied_prices(world, incumbent, catalogue.ids[g], traffic.qps[g], seed, group))
    minutes = range(traffic.arrivals.shape[1])

    def run(g: int) -> Iterator[Measurement]:
        for minute in minutes:
            yield plants[g].step(prices[g][minute], traffic.arrivals[g, :, :][minute])

    total = len(minutes) * len(plants)
    steps = (one for g in range(len(plants)) for one in run(g))
    return system_table(progress(steps, what="system log", total=total, unit="min"), world.services)


def rule_prices(world: World, incumbent: Incumbent, ids: np.ndarray, qps: np.ndarray, group: int) -> np.ndarray:
    """The incumbent's rule: the price, equal for all services, at which its own predictions meet C_m (minutes,)."""
    plant = world.config.plant
    rule = PriceRule(incumbent, ids.ravel()[:: max(1, ids.size // 2000)])
    usable = (plant.budget_percent - plant.idle_percent) / 100
    return rule.price(usable * world.cores[group] * 1000 / np.maximum(qps, 1e-9)[:, None])


def varied_prices(
    world: World, incumbent: Incumbent, ids: np.ndarray, qps: np.ndarray, seed: int, group: str
) -> np.ndarray:
    """Prices (minutes, services): the rule's price for the traffic, times wide log-normal factors held for minutes.

    A common factor and one per service jump at random times, so that a system model can tell price from traffic and
    one service from the other. The rule never falls under a tenth of its peak price: nights carry variation too.
    """
    logs = world.config.logs
    base = rule_prices(world, incumbent, ids, qps, world.groups.index(group))
    base = np.maximum(base, 0.1 * np.quantile(base, 0.98))
    rng = numpy_generator(seed, "prices", group)
    jumps = rng.random((len(qps), 1 + len(world.services))) < 1.0 / logs.lambda_hold
    jumps[0] = True
    noise = rng.standard_normal(jumps.shape)
    held = np.maximum.accumulate(np.where(jumps, np.arange(len(qps))[:, None], 0), axis=0)
    factor = np.take_along_axis(noise, held, axis=0)
    mixed = np.sqrt(0.7) * factor[:, :1] + np.sqrt(0.3) * factor[:, 1:]
    return np.asarray(base[:, None] * np.exp(logs.lambda_spread * mixed))


class PriceRule:
    """The price, equal for all services, at which the incumbent's predicted costs meet a budget per request."""

    def __init__(self, incumbent: Incumbent, ids: np.ndarray, points: int = 60) -> None:
        scale = float(np.median(incumbent.value) / incumbent.cost.sum(axis=1).mean())
        services = incumbent.cost.shape[1]
        self.prices = np.append(0.0, scale * np.geomspace(1e-3, 30.0, points))
        spent = [incumbent.cost[incumbent.decide(ids, np.full(services, one))].mean(axis=0) for one in self.prices]
        self.spent = np.minimum.accumulate(np.array(spent), axis=0)  # (points, services)

    def price(self, budget: np.ndarray) -> np.ndarray:
        """Price at which every service keeps to its budget of core-ms per request (minutes, services): (minutes,)."""
        each = [np.interp(-budget[:, j], -self.spent[:, j], self.prices) for j in range(budget.shape[1])]
        return np.asarray(np.max(each, axis=0))
