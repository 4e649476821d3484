"""A data centre under a price: requests are served, CPUs follow with a lag, overload degrades and then loses requests.

One simulated request stands for ``weight`` real ones. Its state and its luck are functions of (seed, data centre,
minute, number within the minute), so the same request meets the same luck under every strategy.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pandas as pd
from scipy.signal import lfilter

from cascade_world.data_centre.breakdown import Breakdown
from cascade_world.data_centre.minute_serving import TOTALS, arriving_states, serve_minute
from cascade_world.mechanism.assembled_world import World
from cascade_world.population.catalogue import Catalogue
from cascade_world.population.world_traffic import MINUTES_PER_DAY, Traffic
from cascade_world.request_luck import NORMALS, hash_columns, normals, uniforms
from marca_common.arrays import require_range, whole_numbers
from marca_common.protocols import Measurement
from marca_common.seeding import integer_seed

Decide = Callable[[np.ndarray, np.ndarray], np.ndarray]
Expected = Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]


class WorldPlant:
    """One data centre of a world (a ``marca_common.protocols.Plant``)."""

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
    ) -> None:
        """``decide(state_ids, lambda_)`` chooses joint actions; ``expected(state_ids, joint)`` gives the policy's own
        predictions of value (M,) and cost (M, services) for the measurement's aggregates (absent: none are reported).
        """
        self.world, self.group, self.traffic, self.decide, self.expected = world, group, traffic, decide, expected
        self.catalogue = catalogue or world.catalogue(traffic)
        self.index = world.groups.index(group)
        self.luck = _MinuteLuck(world, traffic, integer_seed(seed, "plant", group))
        self.sensor = _Sensor(world, self.luck)
        self.tables, self.cost = world.outcome_tables, world.cost_tables[self.index]
        factors = world.action_factors(self.catalogue.codes)
        self.factors = np.ones((1, 1), np.float32) if factors is None else factors
        seconds = 60.0 / world.config.traffic.sub_intervals
        self.capacity = 100.0 / (world.cores[self.index] * 1000.0 * seconds)
        lag = world.config.plant.lag_seconds
        self.lag = 1.0 if lag == 0 else 1.0 - float(np.exp(-seconds / lag))
        self.minute, self.level = 0, 0.0
        self.load = np.full(len(world.services), world.config.plant.idle_percent)
        self.pending: list[np.ndarray] = []
        self.records: list[tuple[float, ...]] = []
        self.breakdown = Breakdown(world, self.catalogue)

    def step(self, lambda_: np.ndarray, exogenous: np.ndarray) -> Measurement:
        """Serve one minute under prices ``lambda_`` (services,) with ``exogenous`` arrivals per sub-interval."""
        minute, exogenous = self.minute, np.asarray(exogenous)
        if not (np.isfinite(exogenous).all() and (exogenous >= 0).all()):
            raise ValueError(f"exogenous: got {exogenous}; expected finite arrivals of at least 0")
        in_force = self._actuate(np.asarray(lambda_, dtype=float))
        counts = self._thinned(exogenous, minute)
        states = arriving_states(self.luck.states[minute], self.pool(minute), int(counts.sum()))
        joint = self._decided(states, in_force)
        totals, used, mean_level, mean_load = self._serve(minute, counts, states, joint)
        self._record(minute, exogenous, counts, in_force, totals, used, mean_level, mean_load)
        self.minute += 1
        return Measurement(
            minute=minute,
            timestamp=self.traffic.timestamps[minute],
            group=self.group,
            qps=float(exogenous.sum()) / 60.0,
            cpu=self.sensor.read(minute, mean_load),
            degradation=mean_level,
            lambda_=in_force,
            arrivals=exogenous,
            aggregates=self._aggregates(states, joint),
        )

    def minutes(self) -> pd.DataFrame:
        """What really happened, one row per minute: money and counts in real requests, true CPU, level D."""
        services = self.world.services
        per_service = [f"{what}_{name}" for what in ("cpu", "lambda", "core_ms") for name in services]
        table = pd.DataFrame(
            self.records, columns=["minute", "qps", "requests", *TOTALS, "degradation", *per_service]
        ).astype({"minute": int})
        return table

    def allowed_cost(self, requests: np.ndarray) -> np.ndarray:
        """Expected core-ms per request and service (T, services) that put each minute's CPU on the budget.

        ``requests`` (T,) real ones per minute. That minute's common cost factor and the slope of cost by load are known here.
        """
        world = self.world
        usable = (world.budget_percent() - world.config.plant.idle_percent) / 100.0
        core_ms = usable * world.cores[self.index] * 60_000.0  # (services,)
        slope = 1.0 + world.config.cost.load_slope * (world.budget_percent() / 100.0 - 0.5)
        factor = self.luck.cost_factor[: len(requests)] * slope
        return np.asarray(core_ms / (np.maximum(requests, 1.0)[:, None] * factor))

    def _serve(
        self, minute: int, counts: np.ndarray, states: np.ndarray, joint: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, float, np.ndarray]:
        world, plant, par = self.world, self.world.config.plant, self.world.parameters
        totals, used = np.zeros(len(TOTALS)), np.zeros(len(world.services))
        served, revenue, core_ms = np.empty(len(states), np.int64), np.zeros(len(states)), np.zeros(len(states))
        self.level, mean_level, mean_load = serve_minute(
            self.luck.requests[minute], counts, plant.weight, states, joint, self.catalogue.classes,
            self.catalogue.scale, self.factors, self.tables, par.conversion, par.basket, par.commission, par.basket_sd,
            self.cost, world.space.degraded, self.luck.cost_factor[minute], world.config.cost.request_sd,
            self.capacity, self.lag, plant.degradation_rise, plant.degradation_fall, plant.degradation_threshold,
            plant.degradation_max, plant.saturation, world.config.cost.load_slope, plant.idle_percent, self.level,
            self.load, NORMALS, totals, used, served, revenue, core_ms,
        )  # fmt: skip
        self.breakdown.add(self.traffic.timestamps[minute], states, served, revenue, core_ms)
        return totals, used, float(mean_level), mean_load

    def _decided(self, states: np.ndarray, lambda_: np.ndarray) -> np.ndarray:
        """The policy's joint actions, checked: the compiled loops that serve them check nothing."""
        joint = np.asarray(self.decide(states, lambda_))
        if joint.shape != states.shape:
            raise ValueError(f"decide returned shape {joint.shape} for {len(states)} states")
        joint = whole_numbers("decide returned a joint action", joint)
        require_range("decide returned a joint action", joint, self.cost.shape[1])
        return joint

    def _actuate(self, lambda_: np.ndarray) -> np.ndarray:
        if lambda_.shape != (len(self.world.services),) or not np.isfinite(lambda_).all() or (lambda_ < 0).any():
            raise ValueError(
                f"lambda_: got {lambda_}; expected {len(self.world.services)} finite numbers of at least 0"
            )
        if not self.pending:
            self.pending = [lambda_] * self.world.config.plant.actuation_delay
        self.pending.append(lambda_)
        return self.pending.pop(0)

    def _thinned(self, exogenous: np.ndarray, minute: int) -> np.ndarray:
        """Simulated requests per sub-interval: real ones over the weight, rounded at random without bias."""
        return np.asarray(
            np.floor(exogenous / self.world.config.plant.weight + self.luck.thinning[minute]).astype(np.int64)
        )

    def pool(self, minute: int) -> np.ndarray:
        """State ids that the requests of a minute come from, evenly, int64 (states_per_hour,)."""
        start = self.traffic.start_day * MINUTES_PER_DAY
        return np.asarray(self.catalogue.ids[self.index, int((start + minute) // 60 - start // 60)])

    def _aggregates(self, states: np.ndarray, joint: np.ndarray) -> dict[str, float]:
        if self.expected is None:
            return {}
        q, c = self.expected(states, joint)
        n, weight = max(len(states), 1), self.world.config.plant.weight
        total = float(q.sum())
        found = {"q_sum": total * weight, "q_mean": total / n}
        for j, name in enumerate(self.world.services):
            total = float(c[:, j].sum())
            found |= {f"c_{name}_sum": total * weight, f"c_{name}_mean": total / n}
        return found

    def _record(
        self, minute: int, exogenous: np.ndarray, counts: np.ndarray, lambda_: np.ndarray, totals: np.ndarray,
        used: np.ndarray, level: float, load: np.ndarray,
    ) -> None:  # fmt: skip
        weight = self.world.config.plant.weight
        money = (float(exogenous.sum()) / 60.0, float(counts.sum()) * weight, *(totals * weight).tolist(), level)
        self.records.append((minute, *money, *load.tolist(), *lambda_.tolist(), *(used * weight).tolist()))


class _MinuteLuck:
    """All luck that is the same for every strategy, minute by minute."""

    def __init__(self, world: World, traffic: Traffic, seed: int) -> None:
        minutes, services = len(traffic.timestamps), len(world.services)
        clock, cost = np.arange(minutes), world.config.cost

        def words(stream: int, columns: int) -> np.ndarray:
            rows, numbers = np.divmod(np.arange(minutes * columns), columns)
            return hash_columns(seed + stream, clock[rows], numbers).reshape(minutes, columns)

        self.requests, self.states = words(0, 1)[:, 0], words(1, 1)[:, 0]
        self.thinning = uniforms(words(2, world.config.traffic.sub_intervals))
        self.reading, self.lost, self.freeze = normals(words(3, services)), *uniforms(words(4, 2)).T
        drift = lfilter([0.6], [1.0, -0.8], normals(words(5, 1))[:, 0].astype(float))
        factor = np.exp(cost.minute_sd * drift)[:, None] * np.ones(services)
        day = traffic.start_day + clock / MINUTES_PER_DAY
        for release in cost.releases:
            factor[:, world.services.index(release.service)] *= np.where(day >= release.day, release.factor, 1.0)
        self.cost_factor = factor  # (minutes, services)


class _Sensor:
    """CPU as it is reported: noisy, sometimes lost (NaN), sometimes frozen at an earlier reading."""

    def __init__(self, world: World, luck: _MinuteLuck) -> None:
        self.plant, self.luck = world.config.plant, luck
        self.frozen_until, self.last = -1, np.full(len(world.services), np.nan)

    def read(self, minute: int, mean_load: np.ndarray) -> np.ndarray:
        """The report on true loads (services,), percent."""
        plant = self.plant
        reading = np.clip(mean_load + plant.measurement_noise * self.luck.reading[minute], 0.0, 100.0)
        if minute >= self.frozen_until and self.luck.freeze[minute] < plant.frozen and np.isfinite(self.last).all():
            self.frozen_until = minute + plant.frozen_minutes
        if minute < self.frozen_until:
            reading = self.last.copy()
        self.last = reading
        return np.full(len(reading), np.nan) if self.luck.lost[minute] < plant.dropped else reading
