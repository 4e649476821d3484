"""A data centre under a price: requests are served, CPUs follow with a lag, overload degrades and then loses requests.

One simulated request stands for ``weight`` real ones. Its state and its luck are functions of (seed, data centre,
minute, number within the minute), so the same request meets the same luck under every strategy.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pandas as pd
from numba import njit

from cascade_world.catalogue import Catalogue
from cascade_world.luck import GOLDEN, NORMALS, hash_columns, mix64, normal, normals, uniform, uniforms
from cascade_world.traffic import Traffic
from cascade_world.world import World
from common.protocols import Measurement
from common.seeding import integer_seed

Decide = Callable[[np.ndarray, np.ndarray], np.ndarray]
Expected = Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]
_TOTALS = ("revenue", "spend", "gmv", "clicks", "impressions", "timeouts")


@njit(cache=True, nogil=True)
def _serve_minute(
    luck, counts, weight, states, joint, classes, scale, factors, tables, conversion, basket, commission, basket_sd,
    cost, degraded, cost_factor, request_sd, capacity, lag, rise, fall, threshold, top_level, saturation, load_slope,
    idle, level, load, table, totals, used, served_joint, revenue,
):  # fmt: skip
    """Serve one minute; updates ``load`` (services,) in place and returns (degradation at the end, its mean).

    ``tables`` (classes, A, 5): p0, clicks, spend, sd of log spend after a click, impressions. ``totals`` and ``used``
    (services,) add up money, counts and core-ms of simulated requests; ``load`` is percent.
    """
    n_services = cost.shape[2]
    shift = 0.5 * request_sd * request_sd
    now, mean_load, mean_level = np.zeros(n_services), np.zeros(n_services), 0.0
    row = 0
    for part in range(len(counts)):
        now[:] = 0.0
        worst = 0.0
        for j in range(n_services):
            worst = max(worst, load[j])
        lost = 1.0 - saturation / worst if worst > saturation else 0.0
        whole = int(level)
        rest = level - whole
        for _ in range(counts[part]):
            one = mix64(luck + GOLDEN * np.uint64(2 * row + 1))
            two = mix64(luck + GOLDEN * np.uint64(2 * row + 2))
            three = mix64(two)
            a = joint[row]
            if whole > 0 or rest > 0.0:
                a = degraded[whole + 1 if uniform(three) < rest and whole + 1 < len(degraded) else whole, a]
            served_joint[row] = a
            c = classes[states[row]]
            noise = np.exp(request_sd * normal(one, 0, table) - shift)
            for j in range(n_services):
                core_ms = cost[c, a, j] * noise * cost_factor[j] * (1.0 + load_slope * (load[j] / 100.0 - 0.5))
                now[j] += core_ms
                used[j] += core_ms
            if uniform(mix64(three)) < lost:
                totals[5] += 1.0
                revenue[row] = 0.0
            else:
                totals[4] += tables[c, a, 4]
                revenue[row] = _revenue(
                    one, two, tables[c, a], conversion[c], basket[c], commission, basket_sd, scale[states[row]],
                    factors[states[row], a] if factors.shape[1] > 1 else np.float32(1.0), table, totals,
                )  # fmt: skip
            row += 1
        for j in range(n_services):
            demand = idle + now[j] * weight * capacity[j]
            load[j] += lag * (demand - load[j])
            mean_load[j] += min(load[j], 100.0) / len(counts)
        worst = 0.0
        for j in range(n_services):
            worst = max(worst, load[j])
        level += rise * (worst - threshold) / 10.0 if worst > threshold else -fall
        level = min(max(level, 0.0), top_level)
        mean_level += level / len(counts)
    return level, mean_level, mean_load


@njit(cache=True, nogil=True, inline="always")
def _revenue(one, two, row, conversion, basket, commission, basket_sd, scale, factor, table, totals):
    """Sample one outcome: clicks, spend and purchases with the class table's mean, zero share and second moment."""
    u = uniform(two)
    if u < row[0]:
        return 0.0
    some = 1.0 - row[0]
    clicks = 1
    more = row[1] / some - 1.0
    if (u - row[0]) / some > 1.0 - more:
        clicks = 2
    money = scale * factor
    sd = row[3]
    spend = row[2] / some * np.exp(sd * normal(one, 1, table) - 0.5 * sd * sd) * money
    gmv = 0.0
    bits = mix64(one)
    for _ in range(clicks):
        if uniform(bits) < conversion:
            gmv += basket * money * np.exp(basket_sd * normal(one, 2, table) - 0.5 * basket_sd * basket_sd)
        bits = mix64(bits)
    total = spend + commission * gmv
    totals[0] += total
    totals[1] += spend
    totals[2] += gmv
    totals[3] += clicks
    return total


class WorldPlant:
    """One data centre of a world (a ``common.protocols.Plant``)."""

    def __init__(
        self,
        world: World,
        group: str,
        traffic: Traffic,
        decide: Decide,
        seed: int,
        *,
        catalogue: Catalogue | None = None,
        expected: Expected | None = None,
        start_minute: int = 0,
    ) -> None:
        """``decide(state_ids, lambda_)`` chooses joint actions; ``expected(state_ids, joint)`` gives the policy's own
        predictions of value (M,) and cost (M, services) for the measurement's aggregates (absent: none are reported).
        """
        self.world, self.group, self.traffic, self.decide, self.expected = world, group, traffic, decide, expected
        self.catalogue = catalogue or world.catalogue(traffic)
        self.index = world.groups.index(group)
        self.minute = start_minute
        self.seed = integer_seed(seed, "plant", group)
        plant = world.config.plant
        self.capacity = 100.0 / (world.cores[self.index] * 1000.0 * 60.0 / world.config.traffic.sub_intervals)
        self.tables = _outcome_tables(world)
        self.cost = world.cost_tables[self.index]
        factors = world.population.action_factors(self.catalogue.codes, world.space.n_joint)
        self.factors = np.ones((1, 1), np.float32) if factors is None else factors
        seconds = 60.0 / world.config.traffic.sub_intervals
        self.lag = 1.0 if plant.lag_seconds == 0 else 1.0 - float(np.exp(-seconds / plant.lag_seconds))
        self.load = np.full(len(world.services), plant.idle_percent)
        self.level = 0.0
        self.pending: list[np.ndarray] = []
        self.frozen_until, self.last_cpu = -1, np.full(len(world.services), np.nan)
        self.cost_noise = 0.0
        self.records: list[dict[str, float]] = []
        size = (len(self.catalogue.states), world.space.n_joint)
        self.breakdown = Breakdown(world, self.catalogue, size[1])

    def step(self, lambda_: np.ndarray, exogenous: np.ndarray) -> Measurement:
        """Serve one minute under prices ``lambda_`` (services,) with ``exogenous`` arrivals per sub-interval."""
        world, plant, minute = self.world, self.world.config.plant, self.minute
        in_force = self._actuate(np.asarray(lambda_, dtype=float))
        counts = self._thinned(np.asarray(exogenous), minute)
        states = self._arriving(minute, int(counts.sum()))
        joint = np.asarray(self.decide(states, in_force), dtype=np.int64)
        if joint.shape != states.shape:
            raise ValueError(f"decide returned shape {joint.shape} for {len(states)} states")
        totals, used = np.zeros(len(_TOTALS)), np.zeros(len(world.services))
        served, revenue = np.empty(len(states), np.int64), np.zeros(len(states))
        par, config = world.parameters, world.config
        self.level, mean_level, mean_load = _serve_minute(
            np.uint64(self._word("luck", minute)), counts, plant.weight, states, joint, self.catalogue.classes,
            self.catalogue.scale, self.factors, self.tables, par.conversion, par.basket, par.commission, par.basket_sd,
            self.cost, world.space.degraded, self._cost_factor(minute), config.cost.request_sd, self.capacity, self.lag,
            plant.degradation_rise, plant.degradation_fall, plant.degradation_threshold, plant.degradation_max,
            plant.saturation, config.cost.load_slope, plant.idle_percent, self.level, self.load, NORMALS,
            totals, used, served, revenue,
        )  # fmt: skip
        self.breakdown.add(self.traffic.timestamps[minute], states, served, revenue)
        self._record(minute, exogenous, counts, in_force, totals, used, mean_level, mean_load)
        self.minute += 1
        return Measurement(
            minute=minute,
            timestamp=self.traffic.timestamps[minute],
            group=self.group,
            qps=float(np.sum(exogenous)) / 60.0,
            cpu=self._measured(minute, mean_load),
            degradation=float(mean_level),
            lambda_=in_force,
            arrivals=np.asarray(exogenous),
            aggregates=self._aggregates(states, joint),
        )

    def minutes(self) -> pd.DataFrame:
        """What really happened, one row per minute: money and counts scaled to real requests, true CPU, level D."""
        return pd.DataFrame(self.records)

    def _actuate(self, lambda_: np.ndarray) -> np.ndarray:
        if lambda_.shape != (len(self.world.services),) or not np.all(np.isfinite(lambda_)) or (lambda_ < 0).any():
            raise ValueError(
                f"lambda_: got {lambda_}; expected {len(self.world.services)} finite numbers of at least 0"
            )
        if not self.pending:
            self.pending = [lambda_] * self.world.config.plant.actuation_delay
        self.pending.append(lambda_)
        return self.pending.pop(0)

    def _word(self, stream: str, minute: int) -> int:
        return int(hash_columns(self.seed, np.array([minute]), np.array([_STREAMS.index(stream)]))[0])

    def _thinned(self, exogenous: np.ndarray, minute: int) -> np.ndarray:
        """Simulated requests per sub-interval: real ones over the weight, rounded at random without bias."""
        exact = exogenous / self.world.config.plant.weight
        rng = uniforms(hash_columns(self._word("thin", minute), np.arange(len(exact))))
        return np.floor(exact + rng).astype(np.int64)

    def _arriving(self, minute: int, count: int) -> np.ndarray:
        start = self.traffic.start_day * 1440
        hour = int((start + minute) // 60 - start // 60)
        pool = self.catalogue.ids[self.index, hour]
        luck = uniforms(hash_columns(self._word("state", minute), np.arange(count)))
        return pool[(luck * len(pool)).astype(np.int64)]

    def _cost_factor(self, minute: int) -> np.ndarray:
        """Common factor on the minute's cost: AR noise and releases."""
        z = float(normals(np.array([self._word("cost", minute)], dtype=np.uint64))[0])
        self.cost_noise = 0.8 * self.cost_noise + 0.6 * z
        return np.exp(self.world.config.cost.minute_sd * self.cost_noise) * self._releases(minute)

    def _releases(self, minute: int) -> np.ndarray:
        day = self.traffic.start_day + minute / 1440
        factor = np.ones(len(self.world.services))
        for release in self.world.config.cost.releases:
            if day >= release.day:
                factor[self.world.services.index(release.service)] *= release.factor
        return factor

    def _measured(self, minute: int, mean_load: np.ndarray) -> np.ndarray:
        """CPU as reported: noisy, sometimes lost (NaN), sometimes frozen at an earlier reading."""
        plant = self.world.config.plant
        word = self._word("measure", minute)
        noise = normals(hash_columns(word, np.arange(len(mean_load)))) * plant.measurement_noise
        lost, freeze = uniforms(hash_columns(word + 1, np.arange(2)))
        reading = np.clip(mean_load + noise, 0.0, 100.0)
        if minute >= self.frozen_until and freeze < plant.frozen:
            self.frozen_until = minute + plant.frozen_minutes
        elif minute >= self.frozen_until:
            self.last_cpu = reading
        if minute < self.frozen_until and np.isfinite(self.last_cpu).all():
            reading = self.last_cpu
        return np.full(len(mean_load), np.nan) if lost < plant.dropped else reading.copy()

    def _aggregates(self, states: np.ndarray, joint: np.ndarray) -> dict[str, float]:
        if self.expected is None:
            return {}
        q, c = self.expected(states, joint)
        n, weight = max(len(states), 1), self.world.config.plant.weight
        found = {"q_sum": float(q.sum()) * weight, "q_mean": float(q.sum()) / n}
        for j, name in enumerate(self.world.services):
            total = float(c[:, j].sum())
            found |= {f"c_{name}_sum": total * weight, f"c_{name}_mean": total / n}
        return found

    def _record(
        self, minute: int, exogenous: np.ndarray, counts: np.ndarray, lambda_: np.ndarray, totals: np.ndarray,
        used: np.ndarray, level: float, load: np.ndarray,
    ) -> None:  # fmt: skip
        weight = self.world.config.plant.weight
        row = {"minute": minute, "qps": float(np.sum(exogenous)) / 60.0, "requests": float(counts.sum()) * weight}
        row |= {name: float(value) * weight for name, value in zip(_TOTALS, totals)}
        row["degradation"] = float(level)
        for j, name in enumerate(self.world.services):
            row |= {
                f"cpu_{name}": float(load[j]),
                f"lambda_{name}": float(lambda_[j]),
                f"core_ms_{name}": used[j] * weight,
            }
        self.records.append(row)


_STREAMS = ("luck", "thin", "state", "cost", "measure")


class Breakdown:
    """Who gets what: requests, revenue and computation by user value, placement and hour, and the action mix."""

    def __init__(self, world: World, catalogue: Catalogue, n_joint: int) -> None:
        self.world, self.catalogue = world, catalogue
        sizes = {"user_value": world.config.states.user_values, "placement": len(world.config.states.placements)}
        self.dimensions = {**sizes, "hour": 24}
        self.requests = {name: np.zeros((size, n_joint)) for name, size in self.dimensions.items()}
        self.revenue = {name: np.zeros(size) for name, size in self.dimensions.items()}
        self.core_ms = {name: np.zeros(size) for name, size in self.dimensions.items()}

    def add(self, timestamp: np.datetime64, states: np.ndarray, joint: np.ndarray, revenue: np.ndarray) -> None:
        """Count one minute's requests (served joint actions, money)."""
        codes = self.catalogue.codes[states]
        cost = self.world.cost_tables[codes[:, 3], self.catalogue.classes[states], joint].sum(axis=1)
        hour = np.full(len(states), pd.Timestamp(timestamp).hour)
        for name, values in (("user_value", codes[:, 0]), ("placement", codes[:, 1]), ("hour", hour)):
            size = len(self.revenue[name])
            np.add.at(self.requests[name], (values, joint), 1.0)
            self.revenue[name] += np.bincount(values, revenue, size)
            self.core_ms[name] += np.bincount(values, cost, size)

    def table(self) -> pd.DataFrame:
        """``dimension, value, requests, revenue, core_ms`` and ``<sub-action>=<choice>`` counts, in real requests."""
        weight, spec = self.world.config.plant.weight, self.world.spec
        joint, rows = spec.joint_table(), []
        labels = {**self.world.population.values, "hour": [str(hour) for hour in range(24)]}
        for name in self.dimensions:
            for i, label in enumerate(labels[name]):
                counts = self.requests[name][i]
                row = {"dimension": name, "value": label, "requests": counts.sum() * weight}
                row |= {"revenue": self.revenue[name][i] * weight, "core_ms": self.core_ms[name][i] * weight}
                for j, sub in enumerate(spec.sub_actions):
                    by_choice = np.bincount(joint[:, j], counts, spec.shape[j]) * weight
                    row |= {f"{sub}={choice}": by_choice[choice] for choice in range(spec.shape[j])}
                if row["requests"] > 0:
                    rows.append(row)
        return pd.DataFrame(rows)


def _outcome_tables(world: World) -> np.ndarray:
    """p0, clicks, spend, sd of log spend given a click, impressions per (class, joint action), float32 (C, A, 5)."""
    tables = world.tables
    some = np.maximum(1.0 - tables.p0, 1e-9)
    mean, second = tables.spend / some, tables.spend2 / some
    sd = np.sqrt(np.log(np.maximum(second / np.maximum(mean**2, 1e-12), 1.0)))
    return np.stack([tables.p0, tables.clicks, tables.spend, sd, tables.impressions], axis=-1).astype(np.float32)
