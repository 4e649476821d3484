"""The file of cost maps: realised results and settings → core-milliseconds per request, by data centre and service.

``autobucket`` writes ``cost_maps.json``; it and ``cascade_world`` read it here. docs/autobucket.md describes the file.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import Field, model_validator

from marca_common.column_values import CategoryText
from marca_common.config import Config, to_dict
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
        """Write the documented JSON file; a cost that is not finite is a UserError, and nothing is written."""
        for idc, by in self.maps.items():
            for name, one in by.items():
                _require_whole(one, self.actions, f"{path}: not written: {idc}.{name}")
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
        try:
            actions = ActionsConfig.model_validate(content["actions"])
            services, idcs = tuple(content["services"]), tuple(content["idcs"])
            if not services or not idcs or not all(isinstance(name, str) for name in (*services, *idcs)):
                raise UserError(
                    f"{path}: services {services}, data centres {idcs}; expected names of at least one each"
                )
            maps = {
                idc: {name: _map_from_dict(content["maps"][idc][name], f"{path}: {idc}.{name}") for name in services}
                for idc in idcs
            }
            for idc, by in maps.items():
                for name, one in by.items():
                    _require_whole(one, actions, f"{path}: {idc}.{name}")
        except KeyError as error:
            raise UserError(f"{path}: the part {error} is missing") from None
        except (AttributeError, TypeError, ValueError) as error:
            raise UserError(f"{path}: not a valid cost map: {str(error).splitlines()[0]}") from None
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


def _map_from_dict(values: Mapping[str, Any], place: str) -> ServiceMap:
    queues = {
        element: {key: _curve_from_dict(curve, f"{place}.queues.{element}.{key}") for key, curve in by.items()}
        for element, by in values["queues"].items()
    }
    load, degradation = values.get("load"), values.get("degradation")
    for name in ("switches", "channels"):
        if not all(isinstance(by, dict) for by in values[name].values()):
            raise UserError(f"{place}.{name}: expected a mapping of names to costs under each key")
    return ServiceMap(
        base=float(values["base"]),
        switches={name: dict(by) for name, by in values["switches"].items()},
        channels={name: dict(by) for name, by in values["channels"].items()},
        queues=queues,
        load=(load["percent"], load["factor"]) if load is not None else ([0.0], [1.0]),
        degradation=(degradation["level"], degradation["cost"]) if degradation is not None else ([0.0], [0.0]),
        idle_percent=float(values.get("idle_percent", 0.0)),
        quality=values.get("quality", {}),
    )


def _require_whole(one: ServiceMap, actions: ActionsConfig, place: str) -> None:
    """A UserError where a number is not finite, or where a setting, a channel or a curve of ``actions`` is missing."""
    curves = [(f"queues.{e}.{key}", curve) for e, by in one.queues.items() for key, curve in by.items()]
    numbers: list[tuple[str, Any]] = [("base", one.base), ("idle_percent", one.idle_percent)]
    numbers += [(f"switches.{name}.{key}", cost) for name, by in one.switches.items() for key, cost in by.items()]
    numbers += [(f"channels.{name}.{key}", cost) for name, by in one.channels.items() for key, cost in by.items()]
    for name, number in numbers:
        if not isinstance(number, int | float):
            raise UserError(f"{place}.{name}: got {number!r}; expected a number")
    numbers += [(name, part) for name, curve in curves for part in (curve.x, curve.cost, curve.low, curve.high)]
    for name, curve in curves:
        with np.errstate(over="ignore"):  # lengths so close that the slope between them is not finite
            numbers.append((f"{name}: the slope", np.diff(curve.cost) / np.diff(curve.x)))
    numbers += [
        (name, part) for name, table in (("load", one.load), ("degradation", one.degradation)) for part in table
    ]
    for name, values in numbers:
        array = np.asarray(values, np.float64)
        if not np.isfinite(array).all():
            bad = array.reshape(-1)[np.argmin(np.isfinite(array.reshape(-1)))]
            raise UserError(f"{place}.{name}: got {bad:g}; expected finite numbers")
    _require_parts(one, actions, place)


def _require_parts(one: ServiceMap, actions: ActionsConfig, place: str) -> None:
    for name, (x, y) in (("load", one.load), ("degradation", one.degradation)):
        if np.ndim(x) != 1 or np.shape(x) != np.shape(y) or not len(x) or (np.diff(x) <= 0).any():
            raise UserError(f"{place}.{name}: expected rising levels and as many values, got {x} and {y}")
    _require_keys(one.switches, actions.switches, f"{place}.switches", "costs")
    for name, setting in actions.switches.items():
        _require_keys(one.switches[name], setting.values, f"{place}.switches.{name}", "cost")
    opened = [c for value in actions.channels.values for c in channel_names(value)] if actions.channels else []
    for key in _settings(actions, actions.channel_switch):
        found = ALL if key not in one.channels and ALL in one.channels else key
        _require_keys(one.channels.get(found, {}), opened, f"{place}.channels.{found}", "cost")
    for name, element in actions.elements.items():
        settings = _settings(actions, element.switch)
        _require_keys(one.queues.get(name, {}), settings, f"{place}.queues.{name}", "curve")


def _settings(actions: ActionsConfig, switch: str | None) -> list[str]:
    return [ALL] if switch is None else actions.switches[switch].values


def _require_keys(found: Mapping[str, Any], wanted: Iterable[str], place: str, what: str) -> None:
    missing = [key for key in wanted if key not in found]
    if missing:
        raise UserError(f"{place}: no {what} of {missing[0]!r}; found {list(found)}")


def _curve_from_dict(values: Mapping[str, Any], place: str) -> Curve:
    x, cost = np.array(values["x"], np.float64), np.array(values["cost"], np.float64)
    if x.ndim != 1 or len(x) == 0 or x.shape != cost.shape or (np.diff(x) <= 0).any() or (np.diff(cost) < 0).any():
        raise UserError(
            f"{place}: expected rising x and as many costs that never fall, got {_short(x)} and {_short(cost)}"
        )
    low = np.array(values.get("low", cost), np.float64)
    high = np.array(values.get("high", cost), np.float64)
    if low.shape != x.shape or high.shape != x.shape:
        raise UserError(f"{place}: expected {len(x)} low and high costs, got {low.shape} and {high.shape}")
    return Curve(x, cost, low, high)


def _short(values: np.ndarray) -> Sequence[float]:
    return [float(v) for v in np.atleast_1d(values)[:8]]
