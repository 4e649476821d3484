"""What a simulation looks at: score files, costs and the log's demand, brought to the same states."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pandas as pd

from marca_common.errors import UserError
from marca_common.progress import progress
from marca_common.requests import RequestSpec
from marca_common.seeding import numpy_generator
from marca_measures.rank_correlation import TruthRanks
from revenue_sim.checks import check_budget
from revenue_sim.config import RunConfig
from revenue_sim.judging import score_files
from revenue_sim.judging.score_files import Demand, load_costs, load_scores, total


@dataclass
class Inputs:
    """Everything a simulation looks at, in the order of ``states``."""

    spec: RequestSpec
    states: pd.DataFrame
    demand: Demand
    truth: np.ndarray  # float32 (S, A)
    models: dict[str, list[np.ndarray]]  # name → (S, A) per training seed
    costs: np.ndarray | None  # (S, A) true core-ms per request, all services together
    model_costs: np.ndarray | None  # (S, A) the costs that decisions are made with
    service_costs: dict[str, np.ndarray]  # service → (S, A) true core-ms per request; empty: unknown
    decision_costs: dict[str, np.ndarray]  # the same, as decisions see them
    logged: pd.DataFrame | None  # requests of these states: row, joint action, reward

    @cached_property
    def ranks(self) -> TruthRanks:
        """The truth's ranks, made once for all models."""
        return TruthRanks(self.truth, self.demand.states)


def load_inputs(config: RunConfig) -> Inputs:
    """Read all files and bring them to the sampled states; quotas are those of the log, or of the two tables."""
    spec = config.spec
    states, _ = load_scores(config.truth.files[0], spec, config.truth)
    if config.states and config.quotas:
        demand, kept = score_files.read_demand(config.states, config.quotas, spec, states)
        states = states.iloc[kept].reset_index(drop=True)
        demand = Demand(demand.states[kept], demand.actions)
        logged = None
    elif config.requests:
        states, demand, logged = _sampled_log(config, spec, states)
    else:
        raise UserError("config: neither 'requests' nor both 'states' and 'quotas' are given; expected one of the two")
    truth = score_files.mean_scores(config.truth, spec, states)
    models = {
        name: score_files.load_source(source, spec, states)
        for name, source in progress(config.models.items(), what="score files", unit="model")
    }
    costs = load_costs(config.costs, spec, states) if config.costs else {}
    decision_costs = load_costs(config.model_costs, spec, states) if config.model_costs else costs
    given = config.service_budgets
    if given is not None and (len(given) != len(costs) or set(costs) != set(decision_costs)):
        raise UserError(
            f"service_budgets: got {given}; expected one for each service of both cost files: {list(costs)}"
        )
    summed, decided = (total(one) if one else None for one in (costs, decision_costs))
    return Inputs(spec, states, demand, truth, models, summed, decided, costs, decision_costs, logged)


def _sampled_log(
    config: RunConfig, spec: RequestSpec, states: pd.DataFrame
) -> tuple[pd.DataFrame, Demand, pd.DataFrame]:
    """A seeded sample of the truth's states that the log visits, with the log's requests in them."""
    assert config.requests is not None
    frame = spec.read(config.requests)
    demand, at = score_files.demand_of_log(frame, spec, states)
    visited = np.nonzero(demand.states)[0]
    if config.sample_states is not None and config.sample_states < len(visited):
        generator = numpy_generator(config.seed, "revenue_sim", "states")
        visited = np.sort(generator.choice(visited, config.sample_states, replace=False))
    position = np.full(len(states) + 1, -1)  # the last slot is for requests in no state of the scores
    position[visited] = np.arange(len(visited))
    row = position[at]
    inside = row >= 0
    joint = spec.joint_index(frame[inside])
    logged = pd.DataFrame({"row": row[inside], "joint": joint, "reward": frame[spec.reward].to_numpy()[inside]})
    uses = np.bincount(joint, minlength=spec.n_joint)
    return states.iloc[visited].reset_index(drop=True), Demand(demand.states[visited], uses), logged


def reference_budget(config: RunConfig, inputs: Inputs) -> float:
    """Core-ms per request: the configured budget, or a third of the way from the least cost to where λ reaches 0."""
    if config.budget is not None:
        return check_budget(config.budget)
    assert inputs.costs is not None
    rows, weight = np.arange(len(inputs.truth)), inputs.demand.states / inputs.demand.states.sum()
    least = float(weight @ inputs.costs.min(axis=1))
    free = float(weight @ inputs.costs[rows, inputs.truth.argmax(axis=1)])
    return least + (free - least) / 3.0
