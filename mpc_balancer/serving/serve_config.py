"""Typed config of the balancer on a live system."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from marca_common.column_values import Zone
from marca_common.config import Config
from marca_common.prices import PRICE_UNIT
from mpc_balancer.config import ControllerConfig


class UnitsConfig(Config):
    """What numbers mean outside; they are converted once, at the edge."""

    price: Literal["money per core-ms", "money per core-s"] = Field(
        "money per core-ms", description="λ, in measurements and in what the sink is given"
    )
    traffic: Literal["per second", "per minute", "per hour"] = Field("per second", description="requests, field qps")
    cpu: Literal["percent", "fraction"] = Field("percent", description="CPU of the declared cores")


class SourceConfig(Config):
    """Where measurements come from."""

    kind: Literal["json_lines", "prometheus", "function"] = Field("json_lines", description="which of the three below")
    path: str = Field("-", description="json_lines: file of one measurement a line; - = standard input")
    follow: bool = Field(True, description="json_lines: wait for further lines at the end of the file")
    function: str | None = Field(
        None, description="function: module:name, called once an interval; gives a Measurement, several, or None"
    )
    url: str | None = Field(None, description="prometheus: address of the server, http://host:9090")
    qps: str | None = Field(None, description="prometheus: query for the traffic of the last interval")
    cpu: str | None = Field(None, description="prometheus: query for the CPU of each service")
    price: str | None = Field(None, description="prometheus: query for λ in force; null = not known")
    degradation: str | None = Field(None, description="prometheus: query for the degradation level; null = not known")
    aggregates: dict[str, str] = Field({}, description="prometheus: queries for further inputs of the system model")
    group_label: str = Field("idc", description="prometheus: label that names the data centre")
    service_label: str = Field("service", description="prometheus: label that names the service (or the price)")
    timeout_s: float = Field(10.0, gt=0, description="an answer that takes longer is lost, seconds")

    @model_validator(mode="after")
    def _complete(self) -> SourceConfig:
        needs = {"json_lines": ("path",), "prometheus": ("url", "qps", "cpu"), "function": ("function",)}[self.kind]
        for name in needs:
            if not getattr(self, name):
                raise ValueError(f"{name}: is empty; expected one for kind {self.kind}")
        return self


class SinkConfig(Config):
    """Where λ goes."""

    kind: Literal["file", "http", "function", "none"] = Field("file", description="which of the three below, or none")
    path: str | None = Field(None, description="file: JSON file, replaced in one step; null = lambda.json in --out")
    url: str | None = Field(None, description="http: where the JSON is posted")
    function: str | None = Field(None, description="function: module:name, called with the same content")
    timeout_s: float = Field(5.0, gt=0, description="a call that takes longer has failed, seconds")

    @model_validator(mode="after")
    def _complete(self) -> SinkConfig:
        if self.kind in ("http", "function") and not getattr(self, "url" if self.kind == "http" else "function"):
            raise ValueError(f"{'url' if self.kind == 'http' else 'function'}: is empty; expected one for this kind")
        return self


class ServeConfig(Config):
    """The balancer on a live system."""

    model: str | None = Field("runs/mpc_train/system_model.pt", description="system model checkpoint; null = none")
    services: list[str] | None = Field(None, description="names of the services; null = the system model's")
    groups: list[str] | None = Field(None, min_length=1, description="data centres; null = all of the system model's")
    controller: ControllerConfig = Field(default_factory=ControllerConfig, description="who steers λ")
    controllers: dict[str, ControllerConfig] = Field({}, description="data centres with a controller of their own")
    calendar: str | None = Field(None, description="calendar CSV of planned events; null = none")
    capacity: str | None = Field(None, description="CSV of planned capacity (start, end, share); null = none")
    timezone: Zone = Field("UTC", description="IANA zone of times without an offset, in calendar and capacity")
    units: UnitsConfig = Field(default_factory=UnitsConfig, description="what numbers mean outside")
    source: SourceConfig = Field(default_factory=SourceConfig, description="where measurements come from")
    sink: SinkConfig = Field(default_factory=SinkConfig, description="where λ goes")
    shadow: bool = Field(False, description="advise only: everything as usual, but the sink is never called")
    silence_minutes: float = Field(
        15.0, gt=0, description="without any CPU for this long: λ to its maximum, until readings come back"
    )
    gap_minutes: float = Field(
        30.0, ge=0, description="minutes left out by the time stamps, up to this many, are lived through as lost ones"
    )
    state_minutes: float = Field(60.0, gt=0, description="a saved state older than this is not taken up again")
    metrics: str | None = Field(
        None, description="Prometheus text file, in the node exporter's textfile folder; null = metrics.prom in --out"
    )
    log_rows: int = Field(5_000, ge=1, description="rows of one Parquet part of the decision log")
    replay: str | None = Field(None, description="folder of a decision log: decide it again instead of serving")

    @model_validator(mode="after")
    def _prices_can_be_converted(self) -> ServeConfig:
        for one in (self.controller, *self.controllers.values()):
            if self.units.price != PRICE_UNIT and one.price_unit != PRICE_UNIT:
                raise ValueError(
                    f"units.price: got {self.units.price!r} beside controller.price_unit {one.price_unit!r};"
                    f" only {PRICE_UNIT!r} can be converted"
                )
        return self
