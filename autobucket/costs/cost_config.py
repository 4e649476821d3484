"""Settings of the fit of cost maps."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field

from marca_common.config import Config
from marca_common.cost_maps import ActionsConfig


class FitCostsConfig(Config):
    """`python -m autobucket.fit_costs`."""

    loadtest: Path = Field(description="load-test rows, CSV or Parquet (columns in data/README.md)")
    columns: dict[str, str] = Field(default={}, description="names in the file → names in data/README.md")
    actions: ActionsConfig = Field(description="settings ↔ sub-actions; travels inside the map file")
    max_knots: int = Field(default=16, ge=2, description="points of a queue curve at most")
    merge_pct: float = Field(default=2.0, ge=0, description="queue lengths closer than this share one point, percent")
    smoothness: float = Field(
        default=0.05, ge=0, description="weight of the penalty on changes of a curve's slope; 0: plain isotonic"
    )
    rate_threshold_pct: float = Field(
        default=5.0, ge=0, description="dependence on the rate is modelled where it exceeds this, percent"
    )
    additivity_threshold_pct: float = Field(
        default=5.0, ge=0, description="a larger residual of channel sets is reported as a failure, percent"
    )
    bootstrap: int = Field(default=100, ge=0, description="resamples behind the bands; 0: no bands")
    confidence: float = Field(default=0.9, gt=0, lt=1, description="coverage of the bands")
    folds: int = Field(default=10, ge=2, description="parts of the buckets for the leave-out error")
    min_cpu_percent: float = Field(
        default=0.5, ge=0, description="rows whose CPU above idle is below this are too weak to use, percent"
    )
    seed: int = Field(default=0, ge=0, description="seed of resamples and folds")
