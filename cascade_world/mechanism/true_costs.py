"""Cost of realised results, as lookup tables over whole lengths; from the config's curves or from a measured map."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from cascade_world.config import WorldConfig
from marca_common.cost_maps import CostMaps, ServiceMap


@dataclass(frozen=True)
class CostTables:
    """Core-ms per request. Profile = data centre where costs were measured per data centre, else the one reference."""

    base: np.ndarray  # (profiles, services, models)
    channel: np.ndarray  # (profiles, services, models, channels)
    retrieved: np.ndarray  # by items retrieved (profiles, services, models, lengths)
    preranked: np.ndarray  # by items ranked (profiles, services, models, rankers, lengths)
    profile: np.ndarray  # data centre → profile, int64 (idcs,)
    hardware: np.ndarray  # data centre → factor (idcs,)

    def cost(
        self, idc: int, model: int, ranker: int, channels: list[int], retrieved: float, preranked: float
    ) -> np.ndarray:
        """Expected cost of one request with these results on data centre ``idc``, per service (services,)."""
        p = self.profile[idc]
        x = np.arange(self.retrieved.shape[-1])
        ranked = [np.interp(preranked, x, curve) for curve in self.preranked[p, :, model, ranker]]
        queue = [np.interp(retrieved, x, curve) for curve in self.retrieved[p, :, model]]
        opened = self.channel[p, :, model][:, channels].sum(axis=1)
        return np.asarray(self.hardware[idc] * (self.base[p, :, model] + opened + np.array(queue) + np.array(ranked)))


def build_costs(config: WorldConfig) -> CostTables:
    """Lookup tables of the config's costs, or of its measured map."""
    if config.cost.map is not None:
        return _from_map(config, config.cost.map)
    channels, models, rankers = config.cascade.channels, list(config.cascade.models), list(config.cascade.rankers)
    x = np.arange(len(channels) * config.cascade.max_candidates + 1)
    services = [config.cost.services[name] for name in config.services]
    base = np.array([[one.base] * len(models) for one in services])
    opened = [[[one.channels.get(m, {}).get(c, 0.0) for c in channels] for m in models] for one in services]
    queue = [[_curve(x, one.retrieved.get(m)) for m in models] for one in services]
    ranked = [[[_curve(x, one.preranked.get(k)) for k in rankers] for _ in models] for one in services]
    idcs = config.groups
    return CostTables(
        base=base[None],
        channel=np.array(opened)[None],
        retrieved=np.array(queue)[None],
        preranked=np.array(ranked)[None],
        profile=np.zeros(len(idcs), dtype=np.int64),
        hardware=np.array([config.cost.hardware.get(name, 1.0) for name in idcs]),
    )


def _curve(x: np.ndarray, points: list[tuple[float, float]] | None) -> np.ndarray:
    if not points:
        return np.zeros(len(x))
    return np.asarray(np.interp(x, [point[0] for point in points], [point[1] for point in points]))


def _from_map(config: WorldConfig, path: str) -> CostTables:
    """Read a cost map file; every data centre, service, channel and model of the world must stand in it."""
    maps = CostMaps.load(path)
    channels, models, rankers = config.cascade.channels, list(config.cascade.models), list(config.cascade.rankers)
    x = np.arange(len(channels) * config.cascade.max_candidates + 1)
    settings = [[{"model": m, "ranker": k} for k in rankers] for m in models]
    base, opened, queue, ranked = [], [], [], []
    for idc in config.groups:
        ones = [maps.service_map(idc, service) for service in config.services]
        base.append([[maps.fixed_cost(one, "", by[0]) for by in settings] for one in ones])
        opened.append([[[maps.channel_cost(one, c, by[0]) for c in channels] for by in settings] for one in ones])
        queue.append([[maps.curve(one, "retrieved", by[0])(x) for by in settings] for one in ones])
        ranked.append([[[_ranked(maps, one, x, s, by[0]) for s in by] for by in settings] for one in ones])
    groups = len(config.groups)
    return CostTables(
        np.array(base), np.array(opened), np.array(queue), np.array(ranked), np.arange(groups), np.ones(groups)
    )


def _ranked(
    maps: CostMaps, one: ServiceMap, x: np.ndarray, settings: dict[str, str], first: dict[str, str]
) -> np.ndarray:
    """Cost of ranking ``x`` items, with what this ranker costs more than the first one whatever the length."""
    extra = maps.fixed_cost(one, "", settings) - maps.fixed_cost(one, "", first)
    return maps.curve(one, "preranked", settings)(x) + extra
