"""The type of ``configs/own_system.yaml``: a platform's files, columns, units, actions and services, declared once.

Every mapping goes one way: a name used here: the name in the platform's file.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import cached_property
from typing import Annotated, Literal

import pandas as pd
from pydantic import AfterValidator, Field, model_validator

from marca_common.column_values import CategoryText, Zone
from marca_common.config import Config
from marca_common.requests import RequestSpec
from marca_common.table_format import TableFormat

ONLY_CENTRE = "all"  # name of the data centre where none is declared
EPOCHS = {"unix_s": "s", "unix_ms": "ms"}  # time formats that are numbers since 1970, and their units
_PRICE_PER = {"core_ms": 1.0, "core_s": 1000.0, "core_min": 60_000.0, "core_hour": 3_600_000.0}


def _time_format(form: str) -> str:
    if form not in EPOCHS:
        try:
            pd.to_datetime(pd.Series(["-"]), format=form, errors="coerce")
        except ValueError as error:
            raise ValueError(f"expected a strptime format, unix_s or unix_ms: {error}") from None
    return form


class OwnTable(TableFormat):
    """One file of the platform: CSV (also .gz), Parquet, or a folder of such parts."""

    file: str = Field(description="path of the file or folder")
    time_format: Annotated[str, AfterValidator(_time_format)] | None = Field(
        default=None, description="how times are written: a strptime format, unix_s or unix_ms; null: ISO 8601"
    )


class RequestColumns(Config):
    """Names in the request log."""

    timestamp: str | None = Field(default="timestamp", description="when it came; null: rows are in time order")
    revenue: str = Field(default="revenue", description="money earned by the request")
    propensity: str | None = Field(
        default="propensity", description="probability of the logged joint action; null: not logged"
    )


class RequestTable(OwnTable):
    """The request log: one row a request."""

    columns: RequestColumns = Field(default=RequestColumns(), description="ours: yours")


class MinuteColumns(Config):
    """Names in the minute table."""

    timestamp: str = Field(default="timestamp", description="start of the minute")
    traffic: str = Field(default="qps", description="traffic of the minute")
    degradation: str | None = Field(default=None, description="elastic degradation level; null: there is none")


class MinuteTable(OwnTable):
    """The minute table: one row a minute and data centre."""

    columns: MinuteColumns = Field(default=MinuteColumns(), description="ours: yours")
    traffic: Literal["requests_per_second", "requests_per_minute"] = Field(
        default="requests_per_second", description="unit of traffic"
    )
    cpu: Literal["percent", "share"] = Field(default="percent", description="unit of CPU: 0 to 100, or 0 to 1")
    extras: list[str] = Field(default=[], description="further columns of numbers that may foretell CPU")


class LoadTestColumns(Config):
    """Names in the load tests."""

    service: str = Field(default="service", description="service whose CPU was read")
    round: str = Field(default="round", description="repetition, a whole number")
    qps: str = Field(default="qps", description="requests per second; 0: the idle service")
    machines: str = Field(default="machines", description="machines under test")
    cores: str = Field(default="cores", description="cores of each")
    cpu: str = Field(default="cpu_percent", description="CPU of all these cores")
    degradation: str | None = Field(default=None, description="degradation level that was held; null: none was")


class Channels(Config):
    """A sub-action that opens a set of channels; what a set costs is the sum of its channels."""

    action: str = Field(description="the sub-action; its values are channels joined by +")
    column: str = Field(description="load-test column of the channels that were open")
    switch: str | None = Field(
        default=None, description="sub-action among the switches that channels' costs depend on; null: none"
    )


class Length(Config):
    """A result whose length costs."""

    column: str = Field(description="load-test column of the length that was realised")
    switch: str | None = Field(
        default=None, description="sub-action among the switches whose values have curves of their own; null: one curve"
    )


class LoadTestTable(OwnTable):
    """Load tests: one row a measurement."""

    columns: LoadTestColumns = Field(default=LoadTestColumns(), description="ours: yours")
    cpu: Literal["percent", "share"] = Field(default="percent", description="unit of CPU: 0 to 100, or 0 to 1")
    channels: Channels | None = Field(default=None, description="sub-action that opens channels; null: none")
    switches: dict[str, str] = Field(
        default={}, description="sub-action that changes costs by itself: load-test column"
    )
    lengths: dict[str, Length] = Field(min_length=1, description="result: how its length is measured")


class DataCentre(Config):
    """The column that names the data centre, in each file."""

    requests: str = Field(description="a state column of the request log")
    minutes: str = Field(description="column of the minute table")
    load_tests: str = Field(description="column of the load tests")


class Service(Config):
    """A service whose CPU is steered."""

    cpu: str = Field(description="CPU column of the minute table")
    price: str = Field(description="λ column of the minute table; services that share one λ name the same")
    load_test: CategoryText | None = Field(default=None, description="its name in the load tests; null: its name here")
    cores: dict[str, Annotated[float, Field(gt=0)]] | None = Field(
        default=None,
        description="data centre: cores of the service there, to compare minutes with load tests; null: unknown",
    )


class OwnSystem(Config):
    """A platform's own system, declared once."""

    timezone: Zone = Field(default="UTC", description="IANA zone of times without an offset, in all files")
    money: float = Field(
        default=1.0, gt=0, description="one unit of revenue and λ in the files, in money (cents: 0.01)"
    )
    price_per: Literal["core_ms", "core_s", "core_min", "core_hour"] = Field(
        default="core_ms", description="what computation λ in the file is the price of"
    )
    requests: RequestTable = Field(description="the request log")
    state: dict[str, Literal["category", "numeric"]] = Field(
        min_length=1, description="state columns of the request log, what is known when a request comes"
    )
    agents: dict[str, dict[str, Annotated[list[CategoryText], Field(min_length=1)]]] = Field(
        min_length=1,
        description="agents in the order they act: sub-action columns in order: their values, cheapest first",
    )
    results: dict[str, str] = Field(
        min_length=1, description="result (its name here): column of the request log, in the order of the stages"
    )
    side_columns: list[str] = Field(
        default=[], description="columns of the request log that say what revenue says, with less noise"
    )
    history: list[str] | None = Field(
        default=None, description="category columns whose equal values behave alike, for awrq_plus; null: all of them"
    )
    data_centre: DataCentre | None = Field(default=None, description="columns that name it; null: there is one")
    services: dict[str, Service] = Field(min_length=1, description="service: its columns and names")
    minutes: MinuteTable = Field(description="the minute table")
    load_tests: LoadTestTable = Field(description="the load tests")
    loop: str = Field(
        default="configs/own_loop.yaml", description="settings of marca_loop.orchestrate to start from: sizes, learners"
    )

    @cached_property
    def sub_actions(self) -> dict[str, list[str]]:
        """Sub-action column → its values in order, over all agents."""
        return {name: values for actions in self.agents.values() for name, values in actions.items()}

    @cached_property
    def prices(self) -> dict[str, str]:
        """λ column of the minute table → its name in the translated table, each once."""
        names: dict[str, str] = {}
        for service, one in self.services.items():
            names.setdefault(one.price, f"lambda_{service}")
        return names

    @property
    def price_factor(self) -> float:
        """λ of the file times this is money per core-millisecond."""
        return self.money / _PRICE_PER[self.price_per]

    @cached_property
    def spec(self) -> RequestSpec:
        """Columns of the translated request log: sub-actions are places in the declared lists, times are in UTC."""
        columns = self.requests.columns
        return RequestSpec(
            state=self.state,
            agents={agent: list(actions) for agent, actions in self.agents.items()},
            sizes={name: len(values) for name, values in self.sub_actions.items()},
            results=list(self.results),
            timestamp="timestamp" if columns.timestamp else None,
            propensity="propensity" if columns.propensity else None,
        )

    @model_validator(mode="after")
    def _names_are_distinct(self) -> OwnSystem:
        columns = self.requests.columns
        own = [*self.state, *(name for actions in self.agents.values() for name in actions), *self.side_columns]
        ours = ["timestamp", "revenue", "propensity", *self.results]
        yours = [columns.timestamp, columns.revenue, columns.propensity, *self.results.values(), *own]
        minutes = self.minutes.columns
        table = [minutes.timestamp, minutes.traffic, minutes.degradation, *self.prices, *self.minutes.extras]
        table += [one.cpu for one in self.services.values()]
        _once("requests: a column has two roles", (name for name in yours if name is not None))
        _once("requests: a column has the name of another role", [*own, *ours])
        _once("minutes: a column has two roles", (name for name in table if name is not None))
        for name, values in self.sub_actions.items():
            _once(f"agents: {name}: a value stands twice", values)
        return self

    @model_validator(mode="after")
    def _references_exist(self) -> OwnSystem:
        tests, actions = self.load_tests, list(self.sub_actions)
        categories = [name for name, kind in self.state.items() if kind == "category"]
        if self.data_centre is not None:
            _among("data_centre.requests", self.data_centre.requests, categories)
        if tests.channels is not None:
            _among("load_tests.channels.action", tests.channels.action, actions)
        for name in tests.switches:
            _among("load_tests.switches", name, actions)
        for name in tests.lengths:
            _among("load_tests.lengths", name, list(self.results))
        for name in self.history or []:
            _among("history", name, categories)
        used = [tests.channels.switch if tests.channels else None, *(one.switch for one in tests.lengths.values())]
        for switch in used:
            if switch is not None:
                _among("load_tests: switch", switch, list(tests.switches))
        return self


def _once(what: str, names: Iterable[str]) -> None:
    seen: set[str] = set()
    for name in names:
        if name in seen:
            raise ValueError(f"{what}: {name!r}")
        seen.add(name)


def _among(place: str, name: str, known: list[str]) -> None:
    if name not in known:
        raise ValueError(f"{place}: got {name!r}; expected one of {known}")
