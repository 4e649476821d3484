"""What strategies are made from: learned parts, traffic, the states that may arrive, and what logs say on average."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from autobucket.costs.cost_model import CostModel
from awrq_mixer.serving.policy import HullPolicy
from awrq_mixer.serving.predictor import Predictor
from cascade_world.data_centre.world_plant import WorldPlant
from cascade_world.population.catalogue import Catalogue
from cascade_world.population.world_traffic import Traffic, make_traffic
from cascade_world.world import World, load_truth
from marca_common.dotted_path import find
from marca_common.errors import UserError
from marca_common.protocols import Policy, Predicting
from marca_common.requests import RequestSpec
from marca_common.scores import read_scores
from mpc_balancer.forecasting.event_calendar import Calendar
from mpc_balancer.price_scale import PriceScale
from mpc_balancer.system_model.model import SystemModel


@dataclass(frozen=True)
class Parts:
    """Where the learned parts of a run lie; ``learner`` is the one whose Q decides where nothing else is said."""

    root: Path  # run folder of marca_loop.orchestrate
    learner: str
    world: Path | None  # folder of cascade_world.generate; None with own logs
    system: Path  # minute table of the logs
    spec: RequestSpec

    def values(self, learner: str | None) -> Path:
        """Checkpoint of awrq_mixer.train."""
        return self.root / "values" / (learner or self.learner) / "best.pt"

    def system_model(self, learner: str | None) -> Path:
        """Checkpoint of mpc_balancer.train, learned while this learner's policy decided."""
        return self.root / "balancer" / (learner or self.learner) / "system_model.pt"

    def scores(self, name: str | None) -> Path:
        """Score file of a learner, of ``truth`` or of ``predicted_costs`` on the sample of logged states."""
        return self.root / "scores" / f"{name or self.learner}.parquet"

    def cost_model(self) -> CostModel:
        """The learned C(s, a)."""
        return CostModel.load(self.root / "costs/results/estimator.pt", self.root / "costs/maps/cost_maps.json")


@dataclass(frozen=True)
class Profile:
    """What a data centre's log says on average, states aside."""

    peak_qps: float  # largest 15-minute mean of requests per second
    values: np.ndarray  # (A,) mean predicted Q, money per request
    costs: np.ndarray  # (A, services) mean predicted C, core-ms per request


@dataclass
class Scene:
    """A traffic run of one seed, with everything that a strategy may be made from."""

    parts: Parts
    world: World
    traffic: Traffic
    catalogue: Catalogue
    _policies: dict[tuple[Path, str], Any] = field(default_factory=dict)

    def policy(self, learner: str | None = None, how: str = "hull") -> Any:
        """argmax Q − λC with a learner's Q, prepared for every state that may arrive: a HullPolicy, or what ``how``,
        a ``module:function``, makes of (states, values_fn, costs_fn)."""
        path = self.parts.values(learner)
        if (path, how) not in self._policies:
            make = find(how, {"hull": HullPolicy.build}, "policy")
            values, costs = Predictor.load(path), self.parts.cost_model()
            made = self._policies[path, how] = make(self.catalogue.states, values.values, costs.costs)
            if not callable(getattr(made, "decide", None)):
                raise UserError(
                    f"policy: {how!r} made a {type(made).__name__}; expected an object with decide(states, lambda_)"
                )
        return self._policies[path, how]

    def system_model(self, learner: str | None = None) -> SystemModel:
        """g under a learner's policy."""
        return SystemModel.load(self.parts.system_model(learner))

    @cached_property
    def calendar(self) -> Calendar:
        """The planned events."""
        return Calendar.from_frame(self.traffic.calendar)

    def profile(self, group: str, learner: str | None = None) -> Profile:
        """Means over the sampled states of the log that belong to a data centre, by a learner's Q and the learned C."""
        values = read_scores(self.parts.scores(learner), self.parts.spec)
        by_service = read_scores(self.parts.scores("predicted_costs"), self.parts.spec).scores
        rows = (values.states["idc"].astype(str) == group).to_numpy()
        costs = np.stack([by_service[name][rows] for name in self.world.services], axis=-1)  # (S, A, services)
        system = pd.read_parquet(self.parts.system, columns=["idc", "qps"])
        qps = system.loc[system["idc"].astype(str) == group, "qps"]
        return Profile(float(qps.rolling(15).mean().max()), values.scores["q"][rows].mean(axis=0), costs.mean(axis=0))

    def plant(self, group: str, policy: Policy) -> WorldPlant:
        """A fresh data centre under ``policy``; the luck of its requests depends on the traffic's seed only."""
        expected = policy.expected if isinstance(policy, Predicting) else None
        return WorldPlant(
            self.world, group, self.traffic, policy.decide, self.traffic.seed,
            catalogue=self.catalogue, expected=expected,
        )  # fmt: skip


def make_scene(parts: Parts, seed: int, start_day: float, days: float) -> Scene:
    """Draw the traffic of a seed and the states that may arrive in it."""
    assert parts.world is not None
    world = load_truth(parts.world).world
    traffic = make_traffic(world.config, seed, days, start_day=start_day)
    return Scene(parts, world, traffic, world.catalogue(traffic))


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
