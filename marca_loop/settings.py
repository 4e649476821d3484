"""Settings of the whole loop."""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import Field, model_validator

import autobucket.config
import autobucket.costs.cost_config
import awrq_mixer.config
import mpc_balancer.config
import revenue_sim.config
import revenue_sim.train
from cascade_world.config import WorldConfig
from marca_common.config import Config
from marca_common.requests import RequestSpec
from marca_loop.deciders import PROFILE, TRUTH, Decider
from marca_loop.signed_uplift import SignedUplift
from marca_loop.strategies import AnyStrategy


class OwnLogs(Config):
    """A platform's own tables (columns in data/README.md), in place of the open world."""

    requests: str = Field(description="request log")
    loadtest: str = Field(description="load-test rows")
    system: str = Field(description="minute table")
    spec: RequestSpec = Field(
        default=RequestSpec(), description="columns of the request log; its timezone holds for the minute table, too"
    )
    services: list[str] = Field(default=["retrieval", "ranking"], min_length=1, description="CPU services")
    policy_states: int = Field(default=20000, ge=1, description="most frequent states that policy.npz is prepared for")


class DayConfig(Config):
    """The simulated days and the strategies that live through them."""

    RENAMED: ClassVar[dict[str, str]] = {
        "controllers": "strategies (name: {kind: priced, controller: {…}})",
        "static_levels": "strategies.static.levels",
        "static_patience": "strategies.static.patience",
        "static_headroom": "strategies.static.headroom",
    }

    policy: str = Field(default="awrq_mixer", description="learner whose Q decides where a strategy names none")
    seeds: list[Annotated[int, Field(ge=0)]] = Field(
        default=[100, 101], min_length=1, description="evaluation seeds, one simulated day each"
    )
    days: float = Field(default=1.0, gt=0, description="length of each simulation, days")
    start_day: float = Field(default=28, ge=0, description="day of the simulation on which it begins, after the logs")
    strategies: dict[str, AnyStrategy] = Field(min_length=1, description="name → strategy, in the order of the report")
    baseline: str = Field(default="static", description="strategy that uplifts are stated against")
    hourly: str | None = Field(
        default=None, description="strategy of one mixture per hour, a second baseline; null: none"
    )
    blind: str | None = Field(
        default=None, description="strategy that prices one profile, a third baseline; null: none"
    )
    oracle: str | None = Field(default=None, description="strategy that bounds what can be had; null: none")
    attribution: dict[str, str] = Field(
        default={}, description="step → strategy that it reaches: from the baseline to the bound, one reason at a time"
    )
    commission_seed: int = Field(default=50, ge=0, description="seed of the commissioning days; not an evaluation seed")
    commission_days: float = Field(default=3.0, gt=0, description="days under a dithered λ, from which g is learned")
    workers: int = Field(default=2, ge=1, description="processes that simulate seeds side by side")

    @property
    def deciders(self) -> list[Decider]:
        """Whose Q and C some strategy decides by, each once."""
        found = (one.decider(self.policy) for one in self.strategies.values())
        return list(dict.fromkeys(one for one in found if one is not None))

    @property
    def steered(self) -> list[Decider]:
        """Deciders that some controller steers, each once: a system model is learned under every one."""
        found = (one.decider(self.policy) for one in self.strategies.values() if one.steered)
        return list(dict.fromkeys(one for one in found if one is not None))

    @property
    def learners(self) -> list[str]:
        """Learners whose Q some strategy uses, the policy's first."""
        named = [self.policy, *(one.values for one in self.deciders)]
        return [name for name in dict.fromkeys(named) if name not in (PROFILE, TRUTH)]

    @model_validator(mode="after")
    def _consistent(self) -> DayConfig:
        if self.commission_seed in self.seeds:
            raise ValueError("commission_seed is among the evaluation seeds; expected another one")
        named = {"baseline": self.baseline, "hourly": self.hourly, "blind": self.blind, "oracle": self.oracle}
        for key, name in {**named, **{f"attribution.{step}": one for step, one in self.attribution.items()}}.items():
            if name is not None and name not in self.strategies:
                raise ValueError(f"{key}: got {name!r}; expected one of {list(self.strategies)}")
        return self


class Orchestration(Config):
    """One run of the whole loop. The parts are the configs of the programs named; paths are filled in here."""

    seed: int = Field(default=0, ge=0, description="seed of the state sample; the parts have seeds of their own")
    world: WorldConfig | None = Field(default=None, description="cascade_world.generate; null: own logs are given")
    logs: OwnLogs | None = Field(default=None, description="own logs; null: those of the world")
    learners: dict[str, awrq_mixer.config.TrainConfig] = Field(min_length=1, description="awrq_mixer.train, each")
    profile: awrq_mixer.config.ProfileConfig = Field(
        default=awrq_mixer.config.ProfileConfig(), description="awrq_mixer.profile, which anchors every learner"
    )
    anchor: awrq_mixer.config.AnchorConfig = Field(
        default=awrq_mixer.config.AnchorConfig(), description="awrq_mixer.anchor, of every learner"
    )
    judge: awrq_mixer.config.EvaluateConfig = Field(description="awrq_mixer.evaluate, of every learner")
    results: autobucket.config.TrainConfig = Field(description="autobucket.train")
    costs: autobucket.costs.cost_config.FitCostsConfig = Field(description="autobucket.fit_costs")
    ground_truth: revenue_sim.train.TrainConfig = Field(description="revenue_sim.train")
    offline: revenue_sim.config.RunConfig = Field(description="revenue_sim.run")
    balancer: mpc_balancer.config.SystemModelConfig = Field(description="mpc_balancer.train")
    uplift: SignedUplift | None = Field(
        default=None, description="marca_loop.signed_uplift, of own logs with the costs learned here; null: none"
    )
    day: DayConfig = Field(description="the simulated days")
    workers: int = Field(default=2, ge=1, description="processes that learn or judge side by side, one thread each")
    sample_states: int = Field(default=2000, ge=10, description="states of the log's last part, scored for comparison")

    @property
    def spec(self) -> RequestSpec:
        """Columns of the request log."""
        if self.world is not None:
            return self.world.request_spec
        assert self.logs is not None
        return self.logs.spec

    @model_validator(mode="after")
    def _parts_fit(self) -> Orchestration:
        if (self.world is None) == (self.logs is None):
            raise ValueError("give either world or logs: the open world's logs or your own")
        for name in (PROFILE, TRUTH):
            if name in self.learners:
                raise ValueError(f"learners: {name!r} is the name of no learner's values; call yours something else")
        for decider in self.day.deciders if self.world is not None else []:  # own logs have no days to simulate
            for name in decider.free:
                if name not in self.spec.sub_actions:
                    raise ValueError(f"day: free: got {name!r}; expected some of {list(self.spec.sub_actions)}")
        for name in [*self.day.learners, *([self.day.policy] if self.logs else [])]:
            if name not in self.learners:
                raise ValueError(f"day: uses the learner {name!r}; expected one of {list(self.learners)}")
        return self
