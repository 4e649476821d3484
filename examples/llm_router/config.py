"""Config of the example."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from marca_common.config import Config


class RouterConfig(Config):
    """What ``python -m examples.llm_router.run`` needs."""

    data: str = Field(description="folder of scored prompts: train.csv, test.csv and llm_prices.json, or pair files")
    prices: dict[str, Annotated[float, Field(gt=0)]] = Field(
        default={"weak": 0.24, "strong": 24.7}, description="list price of a model; goes before that of llm_prices.json"
    )
    budgets: list[Annotated[float, Field(gt=0, le=1)]] = Field(
        default=[0.15, 0.2, 0.3, 0.4, 0.5, 0.7, 1.0],
        min_length=1,
        description="budgets, each a share of what the dearest model costs for all prompts",
    )
    test_share: float = Field(
        default=0.3, gt=0, lt=1, description="share of the prompts held out where the folder has no test file"
    )
    folds: int = Field(default=4, ge=2, description="folds of the cross-validation within the training prompts")
    bootstrap_draws: int = Field(default=2000, ge=10, description="draws of test prompts for the intervals")
    confidence: float = Field(default=0.95, gt=0, lt=1, description="coverage of the intervals")
    seed: int = Field(default=0, ge=0, description="seed of split, folds, features, networks and bootstrap")
