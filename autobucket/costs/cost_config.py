"""Settings of the cost maps: which measured setting belongs to which sub-action, and how the maps are fitted."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field, model_validator

from marca_common.config import Config
from marca_common.requests import RequestSpec


class SettingConfig(Config):
    """A setting of the cascade that one sub-action chooses."""

    action: str = Field(description="sub-action column")
    values: list[str] = Field(min_length=1, description="name of the setting for each choice, as in the load test")


class ElementConfig(Config):
    """A realised queue length whose cost curve is fitted (elastic queue)."""

    task: str | None = Field(default=None, description="estimator task that predicts it; null: the element's own name")
    switch: str | None = Field(
        default=None, description="switch whose settings have curves of their own; null: one curve"
    )


class ActionsConfig(Config):
    """How joint actions and predicted results are read as measured settings."""

    idc: str | None = Field(default="idc", description="state column that says which map applies; null: the only map")
    channels: SettingConfig | None = Field(
        default=None, description="channel sets (channels joined by +) per choice; null: no elastic channel"
    )
    channel_switch: str | None = Field(
        default=None, description="switch that channel costs depend on; null: the same under all its settings"
    )
    switches: dict[str, SettingConfig] = Field(
        default={}, description="load-test column → model switch (elastic model)"
    )
    elements: dict[str, ElementConfig] = Field(description="load-test column → realised queue length (elastic queue)")

    @model_validator(mode="after")
    def _switches_exist(self) -> ActionsConfig:
        used = [self.channel_switch, *(element.switch for element in self.elements.values())]
        unknown = [name for name in used if name is not None and name not in self.switches]
        if unknown:
            raise ValueError(f"unknown switch {unknown[0]!r}; expected one of {list(self.switches)}")
        if not self.elements:
            raise ValueError("at least one element (queue length) is needed")
        return self

    def check_spec(self, spec: RequestSpec) -> None:
        """Raise ValueError unless every setting names a sub-action of ``spec`` and as many values as it has choices."""
        named = dict(self.switches) | ({"channels": self.channels} if self.channels else {})
        for name, setting in named.items():
            if setting.action not in spec.sizes:
                raise ValueError(f"{name}.action: {setting.action!r} is no sub-action; expected {list(spec.sizes)}")
            if len(setting.values) != spec.sizes[setting.action]:
                raise ValueError(
                    f"{name}.values: {len(setting.values)} values, but {setting.action} has "
                    f"{spec.sizes[setting.action]} choices"
                )
        if self.idc is not None and self.idc not in spec.state:
            raise ValueError(f"idc: {self.idc!r} is no state column; expected one of {list(spec.state)}")


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
