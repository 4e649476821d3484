"""A world put together: population, cascade, costs and truth, with what evaluation may ask of it."""

from __future__ import annotations

from functools import cached_property

import numpy as np
import pandas as pd

from cascade_world.config import WorldConfig
from cascade_world.mechanism.latent_class_parameters import build_parameters, prediction_bias
from cascade_world.mechanism.true_costs import build_costs
from cascade_world.mechanism.truth import TruthTables, cached_truth
from cascade_world.mechanism.world_actions import ActionSpace, compile_actions
from cascade_world.population.catalogue import Catalogue, build_catalogue
from cascade_world.population.hidden_classes import build_classes
from cascade_world.population.hidden_users import build_users
from cascade_world.population.states import Population
from cascade_world.population.world_traffic import Traffic
from marca_common.errors import UserError


class World:
    """Everything of a world that depends on its config alone. The truth is computed (or read) when first asked for."""

    def __init__(self, config: WorldConfig, tables: TruthTables | None = None) -> None:
        self.config = config
        self.spec = config.request_spec
        self.population: Population = build_users(config, config.users) if config.users else build_classes(config)
        self.space: ActionSpace = compile_actions(config.cascade, self.spec, int(np.ceil(config.plant.degradation_max)))
        self.parameters = build_parameters(config, self.population)
        self.costs = build_costs(config)
        self.prediction_bias = prediction_bias(config)
        self._tables = tables

    @property
    def services(self) -> tuple[str, ...]:
        """CPU services in order."""
        return self.config.services

    @property
    def groups(self) -> tuple[str, ...]:
        """Data centres in order."""
        return self.config.groups

    @cached_property
    def tables(self) -> TruthTables:
        """Expectations per (class, joint action)."""
        return self._tables or cached_truth(self.config, self.space, self.parameters, self.costs)

    @cached_property
    def cost_tables(self) -> np.ndarray:
        """Expected core-ms per data centre with its hardware, float32 (idcs, classes, A, services)."""
        by_profile = self.tables.cost[self.costs.profile]
        return np.asarray((by_profile * self.costs.hardware[:, None, None, None]).astype(np.float32))

    @cached_property
    def outcome_tables(self) -> np.ndarray:
        """No-click probability, clicks, spend, sd of log spend given a click, impressions: float32 (classes, A, 5)."""
        tables = self.tables
        some = np.maximum(1.0 - tables.p0, 1e-9)
        mean, second = tables.spend / some, tables.spend2 / some
        sd = np.sqrt(np.log(np.maximum(second / np.maximum(mean**2, 1e-12), 1.0)))
        return np.stack([tables.p0, tables.clicks, tables.spend, sd, tables.impressions], axis=-1).astype(np.float32)

    @cached_property
    def degraded_lengths(self) -> np.ndarray:
        """Items retrieved and pre-ranked under every whole degradation level over those without, on average (levels + 1, 2)."""
        lengths = (self.tables.retrieved, self.tables.preranked)
        return np.array([[one[:, cut].mean() / one.mean() for one in lengths] for cut in self.space.degraded])

    @cached_property
    def cores(self) -> np.ndarray:
        """Cores per data centre and service (idcs, services)."""
        machines = self.config.plant.machines
        return self.config.plant.cores * np.array([[machines[g][s] for s in self.services] for g in self.groups], float)

    def values(self, states: pd.DataFrame) -> np.ndarray:
        """True expected revenue of every joint action, money per request, float32 (S, A)."""
        codes = self.population.codes(states)
        classes, scale = self.population.latent(codes)
        found = self.tables.q[classes] * scale[:, None].astype(np.float32)
        factors = self.action_factors(codes)
        return np.asarray(found if factors is None else found * factors)

    def action_factors(self, codes: np.ndarray) -> np.ndarray | None:
        """Perturbation of Q per (state, joint action), float32 (S, A); None where the world has none."""
        if self.config.states.action_noise == 0:
            return None
        return self.population.action_factors(codes, np.arange(self.space.n_joint))

    def expected_values(self, codes: np.ndarray, joint: np.ndarray) -> np.ndarray:
        """True expected revenue of one joint action per state, float64 (M,)."""
        classes, scale = self.population.latent(codes)
        found = self.tables.q[classes, joint] * scale
        return np.asarray(found * self.chosen_factors(codes, joint))

    def chosen_factors(self, codes: np.ndarray, joint: np.ndarray) -> np.ndarray:
        """Perturbation of Q of one joint action per state, 1 where the world has none, (M,)."""
        if self.config.states.action_noise == 0:
            return np.ones(len(codes))
        return self.population.action_factors(codes, joint[:, None])[:, 0].astype(np.float64)

    def expected_costs(self, states: pd.DataFrame) -> np.ndarray:
        """True expected cost of every joint action, core-ms per request and service, float32 (S, A, services)."""
        codes = self.population.codes(states)
        classes, _ = self.population.latent(codes)
        return np.asarray(self.cost_tables[codes[:, 3], classes])

    def catalogue(self, traffic: Traffic) -> Catalogue:
        """The distinct states that can arrive in this traffic: ``.states`` (ids = row numbers), class and scale."""
        return build_catalogue(self.population, traffic)

    def budget_percent(self) -> float:
        """C_m, percent of a data centre's declared cores (the same for every service)."""
        return self.config.plant.budget_percent

    def require_budget(self) -> None:
        """A UserError where even the cheapest actions need more than C_m at the ordinary peak."""
        least = self.cost_tables.min(axis=2).mean(axis=1)  # (idcs, services)
        for g, (group, budget) in enumerate(self.budgets().items()):
            if (budget < least[g]).any():
                raise UserError(
                    f"plant.machines.{group}: they allow {np.round(budget, 3)} core-ms per request at the peak; "
                    f"expected at least {np.round(least[g], 3)}, what the cheapest actions need: add machines or lower traffic.peak_qps"
                )

    def budgets(self, peak_qps: float | None = None) -> dict[str, np.ndarray]:
        """Core-ms per request that C_m allows at the ordinary peak, per data centre (services,)."""
        total = self.config.traffic.peak_qps if peak_qps is None else peak_qps
        shares = np.array(list(self.config.states.idcs.values()))
        shares = shares / shares.sum()
        usable = (self.config.plant.budget_percent - self.config.plant.idle_percent) / 100
        return {g: usable * self.cores[i] * 1000 / (total * shares[i]) for i, g in enumerate(self.groups)}
