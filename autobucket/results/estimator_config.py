"""Settings of the action-result estimator: the log, the tasks, the network and its training."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, ClassVar, Literal

from pydantic import Field, model_validator

from marca_common.config import Config
from marca_common.requests import RequestSpec

Loss = Literal["mse", "mae", "huber", "poisson", "share", "bce"]


class TaskConfig(Config):
    """One result to predict: a column of the log, how it is modelled and when its training stops."""

    loss: Loss = Field(
        default="mse",
        description="mse | mae | huber | poisson (log link) | share (of what the action allows) for numbers, bce for 0/1",
    )
    weight: float = Field(default=1.0, gt=0, description="factor of this task's loss in the sum")
    patience: int = Field(default=2, ge=1, description="evaluations without a better one before this task stops")
    gates: list[str] | None = Field(
        default=None, description="state and action columns its expert gate sees; null: model.gates"
    )
    above: float | None = Field(
        default=None, description="turn the column into 0/1: 1 where it exceeds this; null: use it as it is"
    )

    @property
    def binary(self) -> bool:
        """Whether the prediction is a probability."""
        return self.loss == "bce"


class ModelConfig(Config):
    """MMoE over a deep & cross network."""

    cross: Literal["v2", "v1", "none"] = Field(
        default="v2", description="cross layer: v2 matrix, v1 vector (the paper's), none: deep part only"
    )
    cross_layers: int = Field(default=2, ge=0, le=16, description="number of cross layers")
    deep: list[Annotated[int, Field(ge=1)]] = Field(
        default=[96, 48], description="units of the deep part's hidden layers"
    )
    experts: int = Field(default=3, ge=1, description="shared experts")
    expert_units: int = Field(default=32, ge=1, description="units of each expert")
    tower: list[Annotated[int, Field(ge=1)]] = Field(
        default=[16], description="hidden units of each task's tower; []: linear"
    )
    state_dim: int = Field(default=16, ge=1, description="embedding width of a categorical state column")
    action_dim: int = Field(default=8, ge=1, description="embedding width of a sub-action")
    gates: list[str] = Field(
        default=[], description="columns the expert gates see, unless a task says otherwise; []: all sub-actions"
    )
    ids: Literal["embedding", "standardised"] = Field(
        default="embedding", description="standardised: feed ids as numbers, as the paper's public code does"
    )


class EstimatorOptimiserConfig(Config):
    """How the weights are found."""

    RENAMED: ClassVar[dict[str, str]] = {"batch": "batch_size"}

    lr: float = Field(default=0.012, gt=0, description="Adam's learning rate at the start")
    schedule: Literal["constant", "cosine"] = Field(
        default="cosine", description="cosine: falls to final_lr_share of lr over the epochs"
    )
    final_lr_share: float = Field(default=0.05, gt=0, le=1, description="last learning rate over the first (cosine)")
    batch_size: int = Field(default=512, ge=1, description="rows a step")
    epochs: int = Field(default=6, ge=1, description="passes over the training rows at most")
    evaluations_per_epoch: int = Field(default=1, ge=1, description="validations in each epoch")
    weight_decay: float = Field(default=0.0, ge=0, description="L2 decay (AdamW)")
    dropout: float = Field(default=0.0, ge=0, lt=1, description="dropout of the deep part")
    gradient_clip: float | None = Field(default=10.0, gt=0, description="largest gradient norm; null: no clipping")


class DataConfig(Config):
    """Which rows are learnt from: in time order, the first part trains, the next validates, the last tests."""

    requests: Path = Field(description="request log, CSV or Parquet")
    spec: RequestSpec = Field(default=RequestSpec(), description="its columns")
    validation_share: float = Field(default=0.1, gt=0, lt=1, description="share of rows that decide when to stop")
    test_share: float = Field(default=0.1, ge=0, lt=1, description="share of rows, the latest, kept for evaluate")
    max_rows: int | None = Field(default=None, ge=10, description="use only this many rows, the latest; null: all")

    @model_validator(mode="after")
    def _something_to_train_on(self) -> DataConfig:
        if self.validation_share + self.test_share >= 1:
            raise ValueError("validation_share + test_share must leave rows to train on (sum below 1)")
        return self


class TrainConfig(Config):
    """`python -m autobucket.train`."""

    data: DataConfig = Field(description="the log and its split")
    tasks: dict[str, TaskConfig] = Field(
        default={"retrieved": TaskConfig(loss="share"), "preranked": TaskConfig(loss="share")},
        description="result column → how to learn it",
    )
    model: ModelConfig = Field(default=ModelConfig(), description="the network")
    optimiser: EstimatorOptimiserConfig = Field(default=EstimatorOptimiserConfig(), description="the optimiser")
    seed: int = Field(default=0, ge=0, description="seed of weights and order of rows")
    device: Literal["auto", "cpu", "cuda"] = Field(default="auto", description="where to train")
    threads: int = Field(default=1, ge=1, description="threads inside one operation")

    @model_validator(mode="after")
    def _columns_exist(self) -> TrainConfig:
        if not self.tasks:
            raise ValueError("at least one task is needed")
        blind = [name for name, task in self.tasks.items() if task.gates == []]
        if blind:
            raise ValueError(f"tasks.{blind[0]}.gates: got []; expected at least one column, or null for model.gates")
        known = {*self.data.spec.state, *self.data.spec.sub_actions}
        wanted = [*self.model.gates, *(name for task in self.tasks.values() for name in task.gates or [])]
        unknown = [name for name in wanted if name not in known]
        if unknown:
            raise ValueError(f"gates: {unknown[0]!r} is no state or action column; expected some of {sorted(known)}")
        return self
