"""The file of cost maps: realised results and settings → core-milliseconds per request, by data centre and service.

``autobucket`` writes ``cost_maps.json``; it and ``cascade_world`` read it here. docs/autobucket.md describes the file.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import Field, model_validator

from marca_common.column_values import CategoryText
from marca_common.config import Config, parse_config, to_dict
from marca_common.cost_map_file import CurvePart, ServicePart
from marca_common.errors import UserError
from marca_common.files import read_json, write_json
from marca_common.requests import RequestSpec

FORMAT, VERSION = "marca-cost-maps", 1
ALL = "all"  # key of a curve or channel cost that depends on no switch


class SettingConfig(Config):
    """A setting of the cascade that one sub-action chooses."""

    action: str = Field(description="sub-action column")
    values: list[CategoryText] = Field(
        min_length=1, description="name of the setting for each choice, as in the load test"
    )


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


def interpolate(x: np.ndarray, knots: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Piecewise linear through (knots, values), linear beyond both ends with the slope of the end's segment."""
    x = np.asarray(x, np.float64)
    if len(knots) == 1:
        return np.full(x.shape, float(values[0]))
    k = np.clip(np.searchsorted(knots, x, side="right") - 1, 0, len(knots) - 2)
    slope = (values[k + 1] - values[k]) / (knots[k + 1] - knots[k])
    return np.asarray(values[k] + slope * (x - knots[k]))


@dataclass(frozen=True)
class Curve:
    """A queue curve: cost at lengths ``x``, linear between and beyond; ``low`` and ``high`` bound a band."""

    x: np.ndarray  # (K,) rising
    cost: np.ndarray  # (K,) never falling, core-ms
    low: np.ndarray
    high: np.ndarray

    def __call__(self, length: np.ndarray) -> np.ndarray:
        """Cost at ``length``, any shape."""
        return interpolate(length, self.x, self.cost)


@dataclass(frozen=True)
class ServiceMap:
    """The map of one service in one data centre; see docs/autobucket.md for the file."""

    base: float
    switches: dict[str, dict[str, float]]  # switch → setting → difference to its first setting
    channels: dict[str, dict[str, float]]  # setting of the channel switch (or "all") → channel → cost
    queues: dict[str, dict[str, Curve]]  # element → setting of its switch (or "all") → curve
    load: tuple[list[float], list[float]] = ([0.0], [1.0])  # utilisation percent → factor, 1 at the reference
    degradation: tuple[list[float], list[float]] = ([0.0], [0.0])  # level D → f(D), core-ms
    idle_percent: float = 0.0
    quality: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class CostMaps:
    """Maps of all data centres and services, with the reading of joint actions they were made for."""

    services: tuple[str, ...]
    idcs: tuple[str, ...]
    actions: ActionsConfig
    maps: dict[str, dict[str, ServiceMap]]  # idc → service → map

    def cost(
        self,
        idc: str,
        service: str,
        lengths: Mapping[str, np.ndarray],
        channels: str = "",
        switches: Mapping[str, str] | None = None,
        load: float | None = None,
        degradation: float = 0.0,
    ) -> np.ndarray:
        """Core-ms per request at realised ``lengths`` (element → any shape) under fixed settings.

        ``load`` (percent CPU) applies the measured dependence on the rate; ``degradation`` adds f(D) of Eq. 1.
        """
        one, settings = self.maps[idc][service], dict(switches or {})
        total = np.asarray(self.fixed_cost(one, channels, settings), np.float64)
        for element, length in lengths.items():
            total = total + self.curve(one, element, settings)(np.asarray(length, np.float64))
        factor = 1.0 if load is None else float(np.interp(load, *one.load))
        return np.maximum(total, 0.0) * factor + float(np.interp(degradation, *one.degradation))

    def service_map(self, idc: str, service: str) -> ServiceMap:
        """The map of one service in one data centre; a UserError where none was measured."""
        try:
            return self.maps[idc][service]
        except KeyError:
            raise UserError(
                f"cost map: no service {service!r} in data centre {idc!r}; "
                f"known are {', '.join(self.services)} in {', '.join(self.idcs)}"
            ) from None

    def fixed_cost(self, one: ServiceMap, channels: str, settings: Mapping[str, str]) -> float:
        """Base, switches and channels: what does not depend on a queue length."""
        cost = one.base + sum(one.switches.get(name, {}).get(value, 0.0) for name, value in settings.items())
        for channel in channel_names(channels):
            cost += self.channel_cost(one, channel, settings)
        return cost

    def channel_cost(self, one: ServiceMap, channel: str, settings: Mapping[str, str]) -> float:
        """What opening one channel costs under these settings."""
        by = settings.get(self.actions.channel_switch or "", ALL)
        prices = one.channels.get(by, one.channels.get(ALL, {}))
        if channel not in prices:
            raise UserError(f"cost map: no cost of channel {channel!r}; known are {sorted(prices)}")
        return prices[channel]

    def curve(self, one: ServiceMap, element: str, settings: Mapping[str, str]) -> Curve:
        """The queue curve of an element under these settings."""
        if element not in self.actions.elements:
            raise UserError(f"cost map: no curve of {element!r}; known are {list(self.actions.elements)}")
        switch = self.actions.elements[element].switch
        setting = ALL if switch is None else settings.get(switch, "")
        if setting not in one.queues[element]:
            raise UserError(
                f"cost map: no curve of {element!r} under {switch} {setting!r}; known are {list(one.queues[element])}"
            )
        return one.queues[element][setting]

    def degradation_cost(self, idc: str, level: float) -> np.ndarray:
        """f(D) of Eq. 1 per service, (services,), core-ms per request."""
        return np.array([np.interp(level, *self.maps[idc][name].degradation) for name in self.services])

    def save(self, path: str | Path) -> None:
        """Write the documented JSON file."""
        channels = (
            sorted({c for value in self.actions.channels.values for c in channel_names(value)})
            if self.actions.channels
            else []
        )
        content = {
            "format": FORMAT,
            "version": VERSION,
            "unit": "core-milliseconds per request",
            "services": list(self.services),
            "idcs": list(self.idcs),
            "elements": list(self.actions.elements),
            "channels": channels,
            "switches": {name: setting.values for name, setting in self.actions.switches.items()},
            "actions": to_dict(self.actions),
            "maps": {
                idc: {name: _map_to_dict(one, self.actions) for name, one in by.items()}
                for idc, by in self.maps.items()
            },
        }
        write_json(path, content)

    @classmethod
    def load(cls, path: str | Path) -> CostMaps:
        """Read the JSON file; another format, a missing part or a falling curve is a UserError."""
        content = read_json(path)
        if not isinstance(content, dict) or content.get("format") != FORMAT or content.get("version") != VERSION:
            raise UserError(f"{path}: not a cost map file; expected format {FORMAT!r}, version {VERSION}")
        missing = next((name for name in ("actions", "services", "idcs", "maps") if name not in content), None)
        if missing:
            raise UserError(f"{path}: the part {missing!r} is missing")
        actions = parse_config(ActionsConfig, content["actions"], f"{path}: actions")
        services, idcs = (_names(content[name], f"{path}: {name}") for name in ("services", "idcs"))
        maps = {idc: {name: _map_from(content["maps"], idc, name, actions, path) for name in services} for idc in idcs}
        return cls(services, idcs, actions, maps)


def channel_names(channels: str) -> list[str]:
    """``"1+3"`` → ``["1", "3"]``; an empty set has no names."""
    return [name for name in str(channels).split("+") if name and name != "none"]


def _map_to_dict(one: ServiceMap, actions: ActionsConfig) -> dict[str, Any]:
    """Plain values; what depends on no switch is also written under each setting of the first, for simple readers."""
    first, settings = next(((name, setting.values) for name, setting in actions.switches.items()), ("", []))
    curves = {
        element: {
            key: {"x": curve.x, "cost": curve.cost, "low": curve.low, "high": curve.high}
            for key, curve in _spread(by, settings).items()
        }
        for element, by in one.queues.items()
    }
    return {
        "base": one.base,
        "switches": one.switches,
        **({first: one.switches.get(first, {})} if first else {}),
        "channels": _spread(one.channels, settings),
        "queues": curves,
        "load": {"percent": one.load[0], "factor": one.load[1]},
        "degradation": {"level": one.degradation[0], "cost": one.degradation[1]},
        "idle_percent": one.idle_percent,
        "quality": one.quality,
    }


def _spread(by: dict[str, Any], settings: Sequence[str]) -> dict[str, Any]:
    return by | {setting: by[ALL] for setting in settings if setting not in by} if ALL in by else by


def _names(values: Any, place: str) -> tuple[str, ...]:
    if not isinstance(values, list) or not values or not all(isinstance(one, str) for one in values):
        raise UserError(f"{place}: got {values!r:.120}; expected a list of names")
    return tuple(values)


def _map_from(maps: Any, idc: str, name: str, actions: ActionsConfig, path: str | Path) -> ServiceMap:
    for part in (idc, name):
        if not isinstance(maps, dict) or part not in maps:
            raise UserError(f"{path}: the part {part!r} is missing")
        maps = maps[part]
    one = parse_config(ServicePart, maps, f"{path}: {idc}.{name}")
    for element, mapped in actions.elements.items():
        wanted = {ALL} if mapped.switch is None else set(actions.switches[mapped.switch].values)
        if not wanted & set(one.queues.get(element, {})):
            raise UserError(f"{path}: {idc}.{name}.queues.{element}: expected curves of {sorted(wanted)}")
    return ServiceMap(
        base=one.base,
        switches=one.switches,
        channels=one.channels,
        queues={element: {key: _curve(part) for key, part in by.items()} for element, by in one.queues.items()},
        load=(one.load.percent, one.load.factor) if one.load else ([0.0], [1.0]),
        degradation=(one.degradation.level, one.degradation.cost) if one.degradation else ([0.0], [0.0]),
        idle_percent=one.idle_percent,
        quality=one.quality,
    )


def _curve(part: CurvePart) -> Curve:
    x, cost, *band = (
        np.array(part.cost if one is None else one, np.float64) for one in (part.x, part.cost, part.low, part.high)
    )
    return Curve(x, cost, *band)
