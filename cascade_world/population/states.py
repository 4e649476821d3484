"""Who asks, when, and what stands behind a state: the part that all kinds of population share."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import numpy as np
import pandas as pd

from cascade_world.config import WorldConfig
from cascade_world.request_luck import hash_columns, normals, uniforms
from marca_common.errors import UserError
from marca_common.seeding import integer_seed

_HOURS = 24
_BLOCK = 2048  # states whose action factors are drawn together


@dataclass(frozen=True)
class Population(ABC):
    """The state columns' values, their mix over time, and the hidden mapping of states to (class, scale).

    A class is a row of the truth's tables: a hidden class, or a user in a placement.
    """

    values: dict[str, list[str]]  # state column → its values; codes index them
    weight: np.ndarray  # log frequency of those who come: segments, or users (N,)
    drift: np.ndarray  # change of log frequency per week (N,)
    birth: np.ndarray  # day of first appearance (N,)
    placement_hours: np.ndarray  # P(placement | hour) on weekdays, on weekends (2, 24, placements)
    config: WorldConfig

    @property
    @abstractmethod
    def n_classes(self) -> int:
        """Number of classes."""

    @abstractmethod
    def latent(self, codes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Class int64 (M,) and money scale float64 (M,) of states given as codes (M, columns)."""

    @abstractmethod
    def spread(self, name: str, columns: int) -> np.ndarray:
        """How the classes differ in the cascade parameter ``name``: mean 0 and sd 1, about (classes, columns)."""

    @abstractmethod
    def _show(self, codes: np.ndarray, who: np.ndarray, luck: np.ndarray, day: np.ndarray, hour: np.ndarray) -> None:
        """Fill the columns of ``codes`` (M, columns) in which those who come, ``who`` (M,), are seen."""

    def codes(self, states: pd.DataFrame) -> np.ndarray:
        """Integer codes of state columns given as text or categories, int64 (M, columns); an unknown value is a UserError."""
        found = np.empty((len(states), len(self.values)), dtype=np.int64)
        for j, (name, values) in enumerate(self.values.items()):
            column = states[name].astype("category")
            by_category = pd.Index(values).get_indexer(column.cat.categories.astype(str))
            if (by_category < 0).any():
                unknown = column.cat.categories[by_category < 0][0]
                raise UserError(f"state column {name!r}: got {str(unknown)!r}; this world has no such value")
            found[:, j] = by_category[column.cat.codes.to_numpy()]
        return found

    def frame(self, codes: np.ndarray) -> pd.DataFrame:
        """State columns of integer codes (M, columns), as categories of text."""
        return pd.DataFrame(
            {
                name: pd.Categorical.from_codes(codes[:, j], values)
                for j, (name, values) in enumerate(self.values.items())
            }
        )

    def sample(self, luck: np.ndarray, hours: np.ndarray, idc: np.ndarray | None = None) -> np.ndarray:
        """States of requests, int64 (M, columns): ``luck`` 64 bits each, ``hours`` since the start of the simulation.

        ``idc`` fixes the data centre's code; else it is drawn by the shares of traffic.
        """
        codes = np.empty((len(luck), len(self.values)), dtype=np.int64)
        who = np.empty(len(luck), dtype=np.int64)
        day, hour = (hours // _HOURS).astype(np.int64), (hours % _HOURS).astype(np.int64)
        draw = [uniforms(hash_columns(stream, luck)) for stream in (1, 2, 4)]
        for one in np.unique(day):
            rows = day == one
            edges = np.cumsum(self._shares(float(one)))
            who[rows] = np.searchsorted(edges, draw[0][rows] * edges[-1], side="right")
        edges = np.cumsum(self.placement_hours, axis=2)[self._is_weekend(day).astype(np.int64), hour]  # (M, placements)
        codes[:, 1] = (draw[1][:, None] > edges[:, :-1]).sum(axis=1)
        shares = np.cumsum(list(self.config.states.idcs.values()))
        codes[:, 3] = np.searchsorted(shares, draw[2] * shares[-1], side="right") if idc is None else idc
        self._show(codes, who, luck, day, hour)
        return codes

    def action_factors(self, codes: np.ndarray, actions: np.ndarray) -> np.ndarray:
        """Perturbation of Q around 1, float32, for codes (M, columns): of ``actions`` (A,) for every state (M, A), or,
        where ``actions`` is (M, 1), of one action per state (M, 1).

        Half of the variance is shared by all states of a segment, the other half is the state's own.
        """
        sd, one_each = self.config.states.action_noise, np.ndim(actions) == 2
        found = np.empty((len(codes), 1 if one_each else len(actions)), np.float32)
        for start in range(0, len(codes), _BLOCK):  # the temporaries are five times the result
            rows = slice(start, start + _BLOCK)
            by_segment, own = self.action_noise(codes[rows], actions[rows] if one_each else actions)
            found[rows] = np.exp(sd * np.sqrt(0.5) * (by_segment + own) - 0.5 * sd * sd)
        return found

    def action_noise(self, codes: np.ndarray, actions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The perturbation's two parts, standard normals float32 shaped as ``action_factors``: the segment's, the state's."""
        seed = integer_seed(self.config.seed, "action_noise")
        by_action = hash_columns(seed, np.atleast_1d(actions).ravel()).reshape(np.shape(actions))
        by_segment = hash_columns(seed + 1, codes[:, 2])[:, None]
        by_state = hash_columns(seed + 2, *codes.T)[:, None]
        return _pair_normals(by_segment, by_action), _pair_normals(by_state, by_action)

    def _shares(self, day: float) -> np.ndarray:
        weight = self.weight + self.drift * day / 7.0
        shares = np.where(day >= self.birth, np.exp(weight - weight.max()), 0.0)
        return np.asarray(shares / shares.sum())

    def _is_weekend(self, day: np.ndarray) -> np.ndarray:
        first = pd.Timestamp(self.config.traffic.start).dayofweek
        return np.asarray((first + day) % 7 >= 5)


def numbered(letter: str, count: int) -> list[str]:
    """``count`` names of equal length: a letter and a number."""
    width = len(str(count - 1))
    return [f"{letter}{i:0{width}d}" for i in range(count)]


def births(config: WorldConfig, share: float, count: int, rng: np.random.Generator) -> np.ndarray:
    """Day of first appearance (count,): ``states.late_after`` of the log's days for a random ``share``, else the first."""
    birth = np.zeros(count)
    birth[rng.permutation(count)[: int(round(share * count))]] = config.states.late_after * config.logs.days
    return birth


def placement_hours(placements: int, rng: np.random.Generator) -> np.ndarray:
    """P(placement | hour): every placement has its own favourite hour and swing, and weekends differ (2, 24, placements)."""
    base, favourite = rng.normal(0, 0.4, placements), rng.uniform(0, _HOURS, placements)
    swing, weekend = rng.uniform(0.1, 0.6, placements), rng.normal(0, 0.25, placements)
    phase = np.cos((np.arange(_HOURS)[:, None] - favourite) * 2 * np.pi / _HOURS)  # (24, placements)
    weight = np.exp(base + swing * phase + np.array([0.0, 1.0])[:, None, None] * weekend)
    return np.asarray(weight / weight.sum(axis=2, keepdims=True))


def _pair_normals(rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """A standard normal per pair of hashed rows and columns (broadcast), float32."""
    mixed = (rows ^ columns) * np.uint64(0x9E3779B97F4A7C15)
    return normals(mixed >> np.uint64(40))
