"""C(s, a): cost maps applied to predicted results, for every joint action of every state."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from numba import njit

from autobucket.results.estimator import Estimator
from marca_common.arrays import require_range, require_shape, whole_numbers
from marca_common.column_values import words
from marca_common.cost_maps import ALL, CostMaps
from marca_common.errors import UserError
from marca_common.requests import RequestSpec


@dataclass(frozen=True)
class CurveTables:
    """Cost maps laid out for the kernel; K points at most, padded."""

    fixed: np.ndarray  # (idcs, A, services): base, switches and channels of every joint action
    x: np.ndarray  # (idcs, services, elements, settings, K)
    y: np.ndarray  # the same
    size: np.ndarray  # points used (idcs, services, elements, settings)
    setting: np.ndarray  # curve of every joint action, int64 (elements, A)


class CostModel:
    """Predicted computation per request; a pure function of the state, fit for the allocation's inner loop."""

    def __init__(self, estimator: Estimator, maps: CostMaps) -> None:
        self.estimator, self.maps = estimator, maps
        self.tasks = [element.task or name for name, element in maps.actions.elements.items()]
        missing = [name for name in self.tasks if name not in estimator.names]
        if missing:
            raise UserError(
                f"cost map: element {missing[0]!r} is not predicted; the estimator predicts {estimator.names}"
            )
        try:
            maps.actions.check_spec(estimator.spec)
        except ValueError as error:
            raise UserError(f"cost map and estimator do not fit: {error}") from None
        self.tables = _lay_out(maps, estimator.spec)

    @classmethod
    def load(cls, estimator_checkpoint: str | Path, cost_maps: str | Path, device: str = "cpu") -> CostModel:
        """Read ``estimator.pt`` of ``train`` and ``cost_maps.json`` of ``fit_costs``."""
        return cls(Estimator.load(estimator_checkpoint, device), CostMaps.load(cost_maps))

    @property
    def services(self) -> tuple[str, ...]:
        """Names of the last axis of ``costs``."""
        return self.maps.services

    def costs(self, states: pd.DataFrame) -> np.ndarray:
        """Ĉ(s, a) of Eq. 1, core-ms per request, float32 (S, A, services), of states with the spec's columns."""
        return self.from_results(self.estimator.results(states, self.tasks), self.idc_codes(states))

    def from_results(self, results: Mapping[str, np.ndarray], idc: np.ndarray) -> np.ndarray:
        """The maps applied to results, float32 (S, A) per task, of states in data centres ``idc`` (S,)."""
        lengths = np.stack([results[name] for name in self.tasks])  # (elements, S, A)
        t = self.tables
        idc = whole_numbers("data centre", idc)
        require_shape("results", lengths, (len(self.tasks), len(idc), t.fixed.shape[1]))
        require_range("data centre", idc, len(t.fixed))
        costs: np.ndarray = _apply(lengths.astype(np.float32, copy=False), idc, t.fixed, t.x, t.y, t.size, t.setting)
        return costs

    def idc_codes(self, states: pd.DataFrame) -> np.ndarray:
        """Row of the maps for every state, int64 (S,); a data centre without a map is a UserError."""
        column = self.maps.actions.idc
        if column is None:
            return np.zeros(len(states), dtype=np.int64)
        if column not in states:
            raise UserError(f"state column {column!r} is missing; found {', '.join(map(str, states.columns))}")
        codes = pd.Index(self.maps.idcs).get_indexer(words(states, column))
        if (codes < 0).any():
            row = int(np.argmax(codes < 0))
            raise UserError(
                f"states: row {row + 1}, column {column!r}: got {states[column].iloc[row]!r}; "
                f"expected a measured data centre: {', '.join(self.maps.idcs)}"
            )
        return np.asarray(codes, np.int64)


def _lay_out(maps: CostMaps, spec: RequestSpec) -> CurveTables:
    actions, joint = maps.actions, spec.joint_table()
    column = {name: joint[:, j] for j, name in enumerate(spec.sub_actions)}
    sets = np.array(actions.channels.values)[column[actions.channels.action]] if actions.channels else [""] * len(joint)
    chosen = {name: np.array(one.values)[column[one.action]] for name, one in actions.switches.items()}
    fixed = np.empty((len(maps.idcs), len(joint), len(maps.services)))
    for i, idc in enumerate(maps.idcs):
        for j, service in enumerate(maps.services):
            one = maps.maps[idc][service]
            fixed[i, :, j] = [
                maps.fixed_cost(one, str(sets[a]), {name: str(values[a]) for name, values in chosen.items()})
                for a in range(len(joint))
            ]
    elements = list(actions.elements.items())
    settings = [actions.switches[e.switch].values if e.switch else [ALL] for _, e in elements]
    setting = np.zeros((len(elements), len(joint)), dtype=np.int64)
    for e, (_, element) in enumerate(elements):
        if element.switch:
            setting[e] = column[actions.switches[element.switch].action]
    most = max(
        len(c.x) for by in maps.maps.values() for m in by.values() for q in m.queues.values() for c in q.values()
    )
    shape = (len(maps.idcs), len(maps.services), len(elements), max(map(len, settings)))
    x, y, size = np.zeros((*shape, most)), np.zeros((*shape, most)), np.ones(shape, dtype=np.int64)
    for i, idc in enumerate(maps.idcs):
        for j, service in enumerate(maps.services):
            for e, (name, _) in enumerate(elements):
                for k, value in enumerate(settings[e]):
                    curve = maps.maps[idc][service].queues[name][value]
                    size[i, j, e, k] = len(curve.x)
                    x[i, j, e, k, : len(curve.x)], y[i, j, e, k, : len(curve.x)] = curve.x, curve.cost
    return CurveTables(fixed, x, y, size, setting)


@njit(cache=True)
def _apply(
    lengths: np.ndarray,
    idc: np.ndarray,
    fixed: np.ndarray,
    x: np.ndarray,
    y: np.ndarray,
    size: np.ndarray,
    setting: np.ndarray,
) -> np.ndarray:
    elements, n_states, n_actions = lengths.shape
    services = fixed.shape[2]
    out = np.empty((n_states, n_actions, services), dtype=np.float32)
    for s in range(n_states):
        i = idc[s]
        for a in range(n_actions):
            for j in range(services):
                total = fixed[i, a, j]
                for e in range(elements):
                    k = setting[e, a]
                    total += _interpolate(lengths[e, s, a], x[i, j, e, k], y[i, j, e, k], size[i, j, e, k])
                out[s, a, j] = max(total, 0.0)
    return out


@njit(cache=True, inline="always")
def _interpolate(value: float, x: np.ndarray, y: np.ndarray, size: int) -> float:
    if size == 1:
        return float(y[0])
    low, high = 0, size - 1
    while high - low > 1:  # segment [low, low + 1] that holds the value, or the end's
        middle = (low + high) // 2
        if x[middle] <= value:
            low = middle
        else:
            high = middle
    return float(y[low] + (y[low + 1] - y[low]) * (value - x[low]) / (x[low + 1] - x[low]))
