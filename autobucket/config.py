"""Settings of the programs that use a trained estimator; a training's own are in ``results/estimator_config.py``."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field

from autobucket.results.estimator_config import DataConfig, TrainConfig
from marca_common.config import Config

__all__ = ["EvaluateConfig", "PredictConfig", "TrainConfig"]


class EvaluateConfig(Config):
    """`python -m autobucket.evaluate`."""

    checkpoint: Path = Field(description="estimator.pt of a training run")
    data: DataConfig = Field(description="the log; its last test_share rows are judged (0: all rows)")
    slices: list[str] = Field(default=["placement", "a2"], description="columns by whose values to report")
    max_slices: int = Field(default=20, ge=1, description="values reported per column, the most frequent first")
    threads: int = Field(default=1, ge=1, description="threads inside one operation")
    device: Literal["auto", "cpu", "cuda"] = Field(default="cpu", description="where to compute")


class PredictConfig(Config):
    """`python -m autobucket.predict`."""

    checkpoint: Path = Field(description="estimator.pt of a training run")
    cost_maps: Path | None = Field(
        default=None, description="cost_maps.json of fit_costs; null: write predicted results only"
    )
    requests: Path = Field(description="log or state list: costs are written for each distinct state in it")
    max_states: int | None = Field(default=None, ge=1, description="only the most frequent states; null: all")
    results: bool = Field(default=False, description="write the predicted results beside the costs")
    threads: int = Field(default=1, ge=1, description="threads inside one operation")
    device: Literal["auto", "cpu", "cuda"] = Field(default="cpu", description="where to compute")


class ExportConfig(Config):
    """What ``python -m autobucket.export`` needs."""

    estimator: str = Field(description="checkpoint of autobucket.train")
    cost_maps: str = Field(description="cost maps of autobucket.fit_costs")
    onnx: bool = Field(default=False, description="write c.onnx, too; needs the extra `onnx`")
    check_states: int = Field(
        default=64, ge=2, description="random states on which the files must equal the cost model"
    )
