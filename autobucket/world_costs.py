"""The maps in the words of cascade_world's cost settings, so that a world can run on measured costs (`cost.map`)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from autobucket.cost_maps import ALL, CostMaps, ServiceMap
from common.files import write_json


def write_world_costs(maps: CostMaps, path: str | Path) -> None:
    """Write ``{service: {base, channels, retrieved, preranked}}`` of the first data centre, atomically.

    A switch's difference has no place of its own there; it is added to the curves of the first element that has curves by
    that switch (and to the base where a difference is negative, so that no point falls below 0).
    """
    write_json(path, {name: _one(maps, maps.maps[maps.idcs[0]][name]) for name in maps.services})


def _one(maps: CostMaps, one: ServiceMap) -> dict[str, Any]:
    base = one.base
    content: dict[str, Any] = {"channels": _channels(maps, one)}
    pending = {name: dict(by) for name, by in one.switches.items()}
    for element, by in one.queues.items():
        switch = maps.actions.elements[element].switch
        offsets = pending.pop(switch, {}) if switch is not None else {}
        lowest = min([0.0, *offsets.values()])
        base += lowest
        content[element] = {}
        for key, curve in by.items():
            x, cost = _from_zero(curve.x, curve.cost + offsets.get(key, 0.0) - lowest)
            content[element][key] = [[float(a), float(b)] for a, b in zip(x, cost)]
    return {"base": max(base, 0.0), **content}


def _channels(maps: CostMaps, one: ServiceMap) -> dict[str, dict[str, float]]:
    if ALL not in one.channels:
        return one.channels
    settings = next((s.values for s in maps.actions.switches.values()), [ALL])
    return {setting: one.channels[ALL] for setting in settings}


def _from_zero(x: np.ndarray, cost: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Cut a curve at 0 where its line towards length 0 would go below it: costs there are at least 0."""
    return x, np.maximum(cost, 0.0)
