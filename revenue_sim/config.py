"""Configs of the entry points of this package."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar

from pydantic import Field, field_validator

from marca_common.config import Config
from marca_common.keyed_tables import KeyedTable
from marca_common.requests import RequestSpec


class ScoreSource(KeyedTable):
    """Where scores are read from; a plain path, or a list of them, may stand for it. The layout is that of long files."""

    files: list[str] = Field(min_length=1, description="score files, one per training seed")
    column: str | None = Field(
        default=None, description="score column; null: the only one of a wide file, 'value' of a long one"
    )
    missing: float | None = Field(
        default=None,
        ge=-3e38,
        le=3e38,
        description="what a pair that a long file lacks is worth, money; null: it must hold every pair",
    )


class CountTable(KeyedTable):
    """A table of counts; a plain path may stand for it."""

    file: str = Field(description="table of counts, CSV or Parquet")
    count: str | None = Field(default="count", description="column of counts; null: each row counts as 1")


def as_source(value: Any) -> Any:
    """A path, or a list of them, as the mapping of a ScoreSource."""
    if isinstance(value, str):
        return {"files": [value]}
    return {"files": value} if isinstance(value, list) else value


def as_table(value: Any) -> Any:
    """A path as the mapping of a CountTable."""
    return {"file": value} if isinstance(value, str) else value


def path_not_columns(value: Any) -> Any:
    """Until version 0.1 ``requests`` held the columns: say where they belong."""
    if isinstance(value, dict):
        raise ValueError("'requests' is the path of the request log; its columns belong under 'spec'")
    return value


class RunConfig(Config):
    """What ``python -m revenue_sim.run`` needs."""

    RENAMED: ClassVar[dict[str, str]] = {"log": "requests"}

    spec: RequestSpec = Field(default=RequestSpec(), description="columns of the request log")
    requests: str | None = Field(default=None, description="request log that quotas and state counts are taken from")
    states: CountTable | None = Field(default=None, description="table of state counts, instead of the log's")
    quotas: CountTable | None = Field(default=None, description="table of action quotas, instead of the log's")
    truth: ScoreSource = Field(description="scores taken as the truth")
    models: dict[str, ScoreSource] = Field(min_length=1, description="models to judge: name → score files")
    costs: str | None = Field(default=None, description="score file of true costs, a column per service; null: none")
    model_costs: str | None = Field(default=None, description="score file of decision costs; null: the true ones")
    sample_states: int | None = Field(default=2000, ge=1, description="states drawn from the truth's; null: all")
    budget: float | None = Field(
        default=None,
        gt=0,
        description="core-ms per request, all services together; null: a third of the way from least to where λ is 0",
    )
    service_budgets: list[Annotated[float, Field(gt=0)]] | None = Field(
        default=None,
        description="core-ms per request of each service in `costs`, in its order; null: as the truth spends the budget",
    )
    integral: bool = Field(default=False, description="also prove the best choice of whole rows at the budget")
    integral_time_limit_s: float | None = Field(
        default=60.0, gt=0, description="seconds for that proof; what is reached by then is reported; null: none"
    )
    curve_budgets: int = Field(default=25, ge=2, description="budgets on the curve, from least to enough")
    bootstrap_draws: int = Field(default=1000, ge=10, description="draws of states and seeds for the intervals")
    confidence: float = Field(default=0.95, gt=0, lt=1, description="coverage of the intervals")
    buckets: int = Field(default=100, ge=3, description="buckets of the truth's correlation with observed revenue")
    threads: int | None = Field(default=None, ge=1, description="threads of the compiled loops; null: all processors")
    seed: int = Field(default=0, ge=0, description="seed of the state sample and of the bootstrap")

    _source = field_validator("truth", mode="before")(as_source)
    _tables = field_validator("states", "quotas", mode="before")(as_table)
    _path = field_validator("requests", mode="before")(path_not_columns)

    @field_validator("models", mode="before")
    @classmethod
    def _sources(cls, value: Any) -> Any:
        return {name: as_source(one) for name, one in value.items()} if isinstance(value, dict) else value


class EvaluateConfig(Config):
    """What ``python -m revenue_sim.evaluate`` needs."""

    RENAMED: ClassVar[dict[str, str]] = {"requests": "spec"}

    spec: RequestSpec = Field(default=RequestSpec(), description="columns of states and sub-actions")
    allocation: CountTable = Field(description="table of the allocation to judge: state, action, count")
    truth: ScoreSource = Field(description="scores taken as the truth")
    costs: str | None = Field(default=None, description="score file of true costs, a column per service; null: unknown")
    threads: int | None = Field(default=None, ge=1, description="threads of the compiled loops; null: all processors")

    _source = field_validator("truth", mode="before")(as_source)
    _table = field_validator("allocation", mode="before")(as_table)


class ShardsConfig(Config):
    """What ``python -m revenue_sim.shards`` needs."""

    hulls: str = Field(description="folder of hull shards")
    budget: float | None = Field(
        default=None,
        gt=0,
        description="core-ms per request, all services together; null: a third of the way from least to where λ is 0",
    )
    wait_s: float = Field(default=1800.0, gt=0, description="seconds that ranks wait for one another before giving up")
