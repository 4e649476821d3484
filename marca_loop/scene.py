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
from awrq_mixer.anchoring.global_profile import read_profile
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
from marca_loop.blind_policy import BlindPolicy
from marca_loop.deciders import PROFILE, TRUTH, Decider, Sources
from mpc_balancer.forecasting.event_calendar import Calendar
from mpc_balancer.price_scale import PriceScale
from mpc_balancer.system_model.model import SystemModel

ScoreFn = Callable[[pd.DataFrame], np.ndarray]
BLIND_SPREAD = 0.2  # sd of the log of a request's factor on the price where one profile decides for all


@dataclass(frozen=True)
class Parts:
    """Where the learned parts of a run lie; ``learner`` is the one whose Q decides where nothing else is said."""

    root: Path  # run folder of marca_loop.orchestrate
    learner: str
    world: Path | None  # folder of cascade_world.generate; None with own logs
    system: Path  # minute table of the logs
    spec: RequestSpec

    def learned(self, learner: str) -> Path:
        """Checkpoint of awrq_mixer.train, as learned."""
        return self.root / "values" / learner / "best.pt"

    def values(self, learner: str | None) -> Path:
        """Checkpoint of awrq_mixer.anchor: what decides."""
        return self.root / "anchored" / (learner or self.learner) / "anchored.pt"

    def profile(self) -> np.ndarray:
        """The global profile, money per request (A,)."""
        return read_profile(self.root / "profile/profile.csv", self.spec)

    def system_model(self, decider: str) -> Path:
        """Checkpoint of mpc_balancer.train, learned while this decider decided."""
        return self.root / "balancer" / decider / "system_model.pt"

    def policies(self, seed: int) -> Path:
        """Folder of the policies that were prepared for a traffic run."""
        return self.root / "policies" / str(seed)

    def scores(self, name: str) -> Path:
        """Score file of a learner, of ``truth`` or of ``predicted_costs`` on the sample of logged states."""
        return self.root / "scores" / f"{name}.parquet"

    @property
    def cost_files(self) -> tuple[Path, Path]:
        """What the learned C(s, a) is read from."""
        return self.root / "costs/results/estimator.pt", self.root / "costs/maps/cost_maps.json"

    def cost_model(self) -> CostModel:
        """The learned C(s, a)."""
        return CostModel.load(*self.cost_files)

    def sources(self, learners: list[str]) -> Sources:
        """Files that deciders are made from."""
        assert self.world is not None
        return Sources({name: self.values(name) for name in learners}, self.cost_files, self.world)


@dataclass(frozen=True)
class Profile:
    """What a data centre's log says on average, states aside."""

    qps: pd.Series  # requests per second of every logged minute, by its start
    values: np.ndarray  # (A,) mean Q, money per request
    costs: np.ndarray  # (A, services) mean C, core-ms per request

    @property
    def peak_qps(self) -> float:
        """An ordinary day's peak: the median over logged days of the largest 15-minute mean, so that a flash sale is none."""
        smooth = self.qps.rolling(15, min_periods=1).mean()
        return float(smooth.groupby(smooth.index.normalize()).max().median())


@dataclass
class Scene:
    """A traffic run of one seed, with everything that a strategy may be made from."""

    parts: Parts
    world: World
    traffic: Traffic
    catalogue: Catalogue
    _policies: dict[tuple[str, str], Any] = field(default_factory=dict)
    _profiles: dict[tuple[str, str | None], Profile] = field(default_factory=dict)

    def policy(self, decider: Decider | str | None = None, how: str = "hull") -> Any:
        """argmax Q − λC of a decider (or of a learner, named), for every state that may arrive.

        ``how``: hull = the prepared exact argmax; a ``module:function`` makes one of (states, values_fn, costs_fn).
        """
        decider = decider if isinstance(decider, Decider) else Decider(decider or self.parts.learner)
        known = (decider.key, how)
        if known not in self._policies:
            self._policies[known] = self._made(decider, how)
        return self._policies[known]

    def _made(self, decider: Decider, how: str) -> Any:
        if decider.blind:
            costs = np.stack([self.profile(group).costs for group in self.world.groups])
            group_of = self.world.groups.index
            groups = [group_of(name) for name in self.catalogue.states["idc"].astype(str)]
            return BlindPolicy(self.parts.profile(), costs, BLIND_SPREAD, groups)
        if how == "hull":
            return self._prepared(self.parts.policies(self.traffic.seed) / f"{decider.key}.npz")
        made = find(how, {}, "policy")(self.catalogue.states, *self._functions(decider))
        if not callable(getattr(made, "decide", None)):
            raise UserError(
                f"policy: {how!r} made a {type(made).__name__}; expected an object with decide(states, lambda_)"
            )
        return made

    def _prepared(self, path: Path) -> HullPolicy:
        policy, mine = HullPolicy.load(path), self.catalogue.states
        if not policy.states.astype(str).equals(mine.astype(str)):
            raise UserError(f"{path}: prepared for other states than the {len(mine)} that may arrive in these days")
        return policy

    def _functions(self, decider: Decider) -> tuple[ScoreFn, ScoreFn]:
        assert self.parts.world is not None
        truth = load_truth(self.parts.world)
        values = truth.values if decider.values == TRUTH else Predictor.load(self.parts.values(decider.values)).values
        return values, truth.costs if decider.costs == "true" else self.parts.cost_model().costs

    def system_model(self, decider: Decider | str | None = None) -> SystemModel:
        """g under a decider's policy (or a learner's, named)."""
        key = decider.key if isinstance(decider, Decider) else decider or self.parts.learner
        return SystemModel.load(self.parts.system_model(key))

    @cached_property
    def calendar(self) -> Calendar:
        """The planned events."""
        return Calendar.from_frame(self.traffic.calendar)

    def profile(self, group: str, values: str | None = None) -> Profile:
        """The global profile (``values``: null, or ``truth`` for the true means), and means of C over the sampled states of
        the log that belong to a data centre: the learned C, with ``truth`` the true one."""
        known = (group, values)
        if known not in self._profiles:
            self._profiles[known] = self._averaged(*known)
        return self._profiles[known]

    def _averaged(self, group: str, values: str | None) -> Profile:
        true = values == TRUTH
        by_service = read_scores(self.parts.scores("costs" if true else "predicted_costs"), self.parts.spec)
        rows = (by_service.states["idc"].astype(str) == group).to_numpy()
        costs = np.stack([by_service.scores[name][rows].mean(axis=0) for name in self.world.services], axis=-1)
        if true:
            mean = read_scores(self.parts.scores(TRUTH), self.parts.spec).scores["value"][rows].mean(axis=0)
        elif values in (None, PROFILE):
            mean = self.parts.profile()
        else:
            raise UserError(f"values: got {values!r}; a static mixture is chosen by {PROFILE!r} or by {TRUTH!r}")
        system = pd.read_parquet(self.parts.system, columns=["idc", "timestamp", "qps"])
        mine = system[system["idc"].astype(str) == group]
        return Profile(pd.Series(mine["qps"].to_numpy(), pd.DatetimeIndex(mine["timestamp"])), mean, costs)

    def allowed(self, group: str, qps: float | np.ndarray) -> np.ndarray:
        """Core-ms per request and service (…, services) that C_m allows at ``qps`` requests per second."""
        world = self.world
        usable = (world.budget_percent() - world.config.plant.idle_percent) / 100
        core_ms = usable * world.cores[world.groups.index(group)] * 1000
        return np.asarray(core_ms / np.maximum(np.asarray(qps, float), 1e-9)[..., None])

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


def price_scale(policy: Any, ids: np.ndarray, services: int) -> PriceScale:
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
