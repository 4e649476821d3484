"""Who gets computation, and why: ``python -m marca_loop.explain --config configs/explain.yaml``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pandas as pd
from pydantic import Field, model_validator

from autobucket.costs.cost_model import CostModel
from awrq_mixer.serving.predictor import Predictor
from marca_common.cli import run_cli
from marca_common.column_values import CategoryText
from marca_common.compute import set_threads
from marca_common.config import Config
from marca_common.errors import UserError
from marca_common.memory import require_memory
from marca_common.run_folder import RunFolder
from marca_common.seeding import numpy_generator
from marca_common.tables import write_table
from marca_loop.explain_figures import ledger_figure, mix_figure, spend_figure
from marca_loop.explaining import Decided, action_mix, agent_contributions, by_column, ledger


class Explain(Config):
    """What ``python -m marca_loop.explain`` needs."""

    checkpoint: str = Field(description="checkpoint of a learner, anchored or not")
    estimator: str = Field(description="checkpoint of autobucket.train")
    cost_maps: str = Field(description="cost maps of autobucket.fit_costs")
    requests: str = Field(description="table whose states are explained, each as often as it stands there")
    price: dict[str, Annotated[float, Field(ge=0, allow_inf_nan=False)]] = Field(
        min_length=1, description="λ in force, of each service, money per core-ms"
    )
    factors: list[Annotated[float, Field(gt=0)]] = Field(
        [4.0, 2.0, 1.4, 1.0, 0.7, 0.5, 0.25], min_length=2, description="multiples of λ that are looked at, falling"
    )
    columns: list[str] = Field(["user_value", "placement"], min_length=1, description="state columns to tell apart by")
    request: dict[str, CategoryText] | None = Field(
        None, description="state whose ledger is written, by column; null = the most frequent one"
    )
    max_states: int = Field(1000, ge=1, description="states drawn, each by its number of requests")
    seed: int = Field(0, ge=0, description="seed of that draw")

    @model_validator(mode="after")
    def _fits(self) -> Explain:
        if (np.diff(self.factors) >= 0).any():
            raise ValueError("factors: expected multiples of λ that fall")
        if not any(self.price.values()):
            raise ValueError("price: got 0 for all services; expected one above 0")
        if len(set(self.columns)) != len(self.columns):
            raise ValueError("columns: expected each name once")
        return self


@dataclass
class Explained:
    """The tables, also in the run folder."""

    by_column: pd.DataFrame
    action_mix: pd.DataFrame
    agents: pd.DataFrame
    ledger: pd.DataFrame
    summary: dict[str, Any]


def explain(config: Explain, out: str | Path) -> Explained:
    """Say who gets computation at a price, and why.

    by_column.csv: value, cost and marginal value by a column's values over λ; action_mix.csv: the choices made; agents.csv:
    what each agent's looking at the state adds; ledger.csv: one request's Q, C and λ, the runner-up, and what would change
    the choice. Each with a figure.
    """
    set_threads(1)
    model, costs = Predictor.load(config.checkpoint), CostModel.load(config.estimator, config.cost_maps)
    if set(config.price) != set(costs.services):
        raise UserError(f"price: got {', '.join(config.price)}; expected one of each of {', '.join(costs.services)}")
    price = np.array([config.price[name] for name in costs.services])
    with RunFolder(out, config) as run:
        decided, first = _decided(config, model, costs)
        who = pd.concat([by_column(decided, name, price, config.factors) for name in config.columns], ignore_index=True)
        mix = pd.concat(
            [action_mix(decided, name, price, config.factors) for name in config.columns], ignore_index=True
        )
        agents = agent_contributions(decided, price)
        account = ledger(*_of_one(first, model, costs), price, model.spec, costs.services)
        for name, table in (("by_column", who), ("action_mix", mix), ("agents", agents), ("ledger", account)):
            write_table(table, run.path / f"{name}.csv")
        for name in config.columns:
            spend_figure(who[who["column"] == name], run.path / f"who_{name}.png")
            mix_figure(mix[mix["column"] == name], run.path / f"mix_{name}.png")
        ledger_figure(account, run.path / "ledger.png")
        summary = _summary(decided, price, agents, account, first)
        run.write_summary(summary)
        return Explained(who, mix, agents, account, summary)


def _decided(config: Explain, model: Predictor, costs: CostModel) -> tuple[Decided, pd.DataFrame]:
    """A draw of the table's states with their values and costs, and the state whose ledger is written."""
    spec = model.spec.model_copy(update={"timestamp": None})
    frame = spec.read(config.requests, actions=False, reward=False)
    states, _, count = spec.distinct_states(frame)
    first = states.iloc[[int(count.argmax())]] if config.request is None else _asked(config.request, list(spec.state))
    rng = numpy_generator(config.seed, "explained_states")
    size = min(config.max_states, len(states))
    rows = (
        np.sort(rng.choice(len(states), size, replace=False, p=count / count.sum()))
        if size < len(states)
        else np.arange(size)
    )
    require_memory(size, spec.n_joint, copies=8)
    states, weight = states.iloc[rows].reset_index(drop=True), count[rows] / count[rows].sum()
    q, c = model.values(states).astype(np.float64), costs.costs(states).astype(np.float64)
    return Decided(states, weight, q, c, costs.services, model.spec), first


def _asked(state: dict[str, str], columns: list[str]) -> pd.DataFrame:
    if set(state) != set(columns):
        raise UserError(f"request: got {', '.join(state)}; expected the state columns {', '.join(columns)}")
    return pd.DataFrame([state])[columns]


def _of_one(state: pd.DataFrame, model: Predictor, costs: CostModel) -> tuple[np.ndarray, np.ndarray]:
    return model.values(state)[0].astype(np.float64), costs.costs(state)[0].astype(np.float64)


def _summary(
    decided: Decided, price: np.ndarray, agents: pd.DataFrame, account: pd.DataFrame, first: pd.DataFrame
) -> dict[str, Any]:
    value, cost = decided.at(decided.best(price))
    weigh = decided.weight
    best, second = account.iloc[0], account.iloc[1] if len(account) > 1 else None
    return {
        "states": len(decided.states),
        "mean_value": float(weigh @ value),
        "mean_cost": dict(zip(decided.services, (weigh @ cost).tolist())),
        "agents": agents.set_index("agent").to_dict("index"),
        "request": {
            "state": {str(name): str(one) for name, one in first.iloc[0].items()},
            "joint": int(best["joint"]),
            "value": float(best["q"]),
            "runner_up": None if second is None else int(second["joint"]),
            "ahead": None if second is None else float(second["behind"]),
            "holds_from_factor": float(best["factor_low"]),
            "holds_to_factor": float(best["factor_high"]) if np.isfinite(best["factor_high"]) else None,
        },
    }


if __name__ == "__main__":
    run_cli(explain, Explain, default_config="configs/explain.yaml", default_out="runs/explain")
