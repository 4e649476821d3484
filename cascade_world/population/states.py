"""Who asks, when, and which hidden class and money scale stand behind a state."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from cascade_world.config import WorldConfig
from cascade_world.request_luck import hash_columns, normals, uniforms
from marca_common.errors import UserError
from marca_common.seeding import integer_seed, numpy_generator

COLUMNS = ("user_value", "placement", "segment", "idc")
_HOURS = 24
_BLOCK = 2048  # states whose action factors are drawn together


@dataclass(frozen=True)
class Population:
    """The state columns' values, their mix over time, and the hidden mapping of states to (class, scale)."""

    values: dict[str, list[str]]  # column → its values; codes index them
    segment_weight: np.ndarray  # log frequency (segments,)
    segment_drift: np.ndarray  # change of log frequency per week (segments,)
    segment_birth: np.ndarray  # day of first appearance (segments,)
    segment_tier: np.ndarray  # mean tier of a segment's users, 0–1 (segments,)
    placement_hours: np.ndarray  # P(placement | hour) on weekdays, on weekends (2, 24, placements)
    cluster: np.ndarray  # hidden cluster (segments,)
    tier_scale: np.ndarray  # log money scale (user_values,)
    segment_scale: np.ndarray  # log money scale (segments,)
    config: WorldConfig

    @property
    def n_classes(self) -> int:
        """Number of latent classes."""
        states = self.config.states
        return len(states.placements) * states.clusters * states.bands

    def codes(self, states: pd.DataFrame) -> np.ndarray:
        """Integer codes of state columns given as text or categories, int64 (M, 4); an unknown value is a UserError."""
        found = np.empty((len(states), len(COLUMNS)), dtype=np.int64)
        for j, name in enumerate(COLUMNS):
            column = states[name].astype("category")
            by_category = pd.Index(self.values[name]).get_indexer(column.cat.categories.astype(str))
            if (by_category < 0).any():
                unknown = column.cat.categories[by_category < 0][0]
                raise UserError(f"state column {name!r}: got {str(unknown)!r}; this world has no such value")
            found[:, j] = by_category[column.cat.codes.to_numpy()]
        return found

    def frame(self, codes: np.ndarray) -> pd.DataFrame:
        """State columns of integer codes (M, 4), as categories of text."""
        return pd.DataFrame(
            {name: pd.Categorical.from_codes(codes[:, j], self.values[name]) for j, name in enumerate(COLUMNS)}
        )

    def sample(self, luck: np.ndarray, hours: np.ndarray, idc: np.ndarray | None = None) -> np.ndarray:
        """States of requests, int64 (M, 4): ``luck`` 64 bits each, ``hours`` since the start of the simulation.

        ``idc`` fixes the data centre's code; else it is drawn by the shares of traffic.
        """
        states = self.config.states
        codes = np.empty((len(luck), 4), dtype=np.int64)
        day = (hours // _HOURS).astype(np.int64)
        draw = [uniforms(hash_columns(stream, luck)) for stream in range(1, 5)]
        for one in np.unique(day):
            rows = day == one
            edges = np.cumsum(self._segment_shares(float(one)))
            codes[rows, 2] = np.searchsorted(edges, draw[0][rows] * edges[-1], side="right")
        hour = (hours % _HOURS).astype(np.int64)
        weekend = self._is_weekend(day).astype(np.int64)
        edges = np.cumsum(self.placement_hours, axis=2)[weekend, hour]  # (M, placements)
        codes[:, 1] = (draw[1][:, None] > edges[:, :-1]).sum(axis=1)
        level = self.segment_tier[codes[:, 2]] + 0.08 * np.cos((hour - 20.0) * np.pi / 12.0) + 0.04 * weekend
        spread = normals(hash_columns(9, luck)) * 0.22
        codes[:, 0] = np.clip((level + spread) * states.user_values, 0, states.user_values - 1).astype(np.int64)
        shares = np.cumsum(list(states.idcs.values()))
        codes[:, 3] = np.searchsorted(shares, draw[3] * shares[-1], side="right") if idc is None else idc
        return codes

    def latent(self, codes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Hidden class int64 (M,) and money scale float64 (M,) of states given as codes (M, 4).

        Band borders are blurred per (tier, placement, segment), part of the (segment, placement, tier group) cells
        belong to another cluster than their segment, and every state has its own factor: no column decides alone.
        """
        states = self.config.states
        seed = integer_seed(self.config.seed, "latent")
        tier, placement, segment, idc = codes.T
        blur = normals(hash_columns(seed, tier, placement, segment)) * states.band_jitter
        band = np.floor(((tier + 0.5) / states.user_values + blur) * states.bands)
        band = np.clip(band, 0, states.bands - 1).astype(np.int64)
        cell = hash_columns(seed + 1, segment, placement, tier * 8 // states.user_values)
        other = (hash_columns(seed + 2, cell) % np.uint64(states.clusters)).astype(np.int64)
        cluster = np.where(uniforms(cell) < states.cluster_noise, other, self.cluster[segment])
        classes = (placement * states.clusters + cluster) * states.bands + band
        own = normals(hash_columns(seed + 3, tier, placement, segment, idc)) * states.state_sd
        scale = np.exp(self.tier_scale[tier] + self.segment_scale[segment] + own)
        return classes, scale

    def action_factors(self, codes: np.ndarray, actions: np.ndarray) -> np.ndarray:
        """Perturbation of Q around 1, float32, for codes (M, 4): of ``actions`` (A,) for every state (M, A), or, where
        ``actions`` is (M, 1), of one action per state (M, 1).

        Half of the variance is shared by all states of a segment, the other half is the state's own.
        """
        sd, seed = self.config.states.action_noise, integer_seed(self.config.seed, "action_noise")
        by_action = hash_columns(seed, np.atleast_1d(actions).ravel()).reshape(np.shape(actions))
        by_segment = hash_columns(seed + 1, codes[:, 2])[:, None]
        by_state = hash_columns(seed + 2, *codes.T)[:, None]
        one_each = np.ndim(actions) == 2
        found = np.empty((len(codes), 1 if one_each else len(actions)), np.float32)
        for start in range(0, len(codes), _BLOCK):  # the temporaries are five times the result
            rows = slice(start, start + _BLOCK)
            actions_here = by_action[rows] if one_each else by_action
            noise = _pair_normals(by_segment[rows], actions_here) + _pair_normals(by_state[rows], actions_here)
            found[rows] = np.exp(sd * np.sqrt(0.5) * noise - 0.5 * sd * sd)
        return found

    def _segment_shares(self, day: float) -> np.ndarray:
        weight = self.segment_weight + self.segment_drift * day / 7.0
        shares = np.where(day >= self.segment_birth, np.exp(weight - weight.max()), 0.0)
        return np.asarray(shares / shares.sum())

    def _is_weekend(self, day: np.ndarray) -> np.ndarray:
        first = pd.Timestamp(self.config.traffic.start).dayofweek
        return np.asarray((first + day) % 7 >= 5)


def _pair_normals(rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """A standard normal per pair of hashed rows and columns (broadcast), float32."""
    mixed = (rows ^ columns) * np.uint64(0x9E3779B97F4A7C15)
    return normals(mixed >> np.uint64(40))


def build_population(config: WorldConfig) -> Population:
    """The population of a world; a function of its config and seed only."""
    states = config.states
    rng = numpy_generator(config.seed, "population")
    segments, tiers = states.segments, states.user_values
    cluster = rng.integers(states.clusters, size=segments)
    n_late = int(round(states.late_segments * segments))
    birth = np.zeros(segments)
    birth[rng.permutation(segments)[:n_late]] = states.late_after * config.logs.days
    cluster_tier = rng.uniform(0.3, 0.7, size=states.clusters)
    width = len(str(segments - 1))
    tier_width = len(str(tiers - 1))
    return Population(
        values={
            "user_value": [f"v{i:0{tier_width}d}" for i in range(tiers)],
            "placement": list(states.placements),
            "segment": [f"s{i:0{width}d}" for i in range(segments)],
            "idc": list(states.idcs),
        },
        segment_weight=-states.segment_tail * np.log1p(rng.permutation(segments)),
        segment_drift=states.drift_per_week * rng.standard_normal(segments),
        segment_birth=birth,
        segment_tier=np.clip(cluster_tier[cluster] + 0.1 * rng.standard_normal(segments), 0.1, 0.9),
        placement_hours=_placement_hours(len(states.placements), rng),
        cluster=cluster,
        tier_scale=states.tier_slope * (np.linspace(0, 1, tiers) ** 1.5 - 0.4),
        segment_scale=states.segment_sd * rng.standard_normal(segments),
        config=config,
    )


def _placement_hours(placements: int, rng: np.random.Generator) -> np.ndarray:
    """P(placement | hour): every placement has its own favourite hour and swing, and weekends differ."""
    base, favourite = rng.normal(0, 0.4, placements), rng.uniform(0, _HOURS, placements)
    swing, weekend = rng.uniform(0.1, 0.6, placements), rng.normal(0, 0.25, placements)
    phase = np.cos((np.arange(_HOURS)[:, None] - favourite) * 2 * np.pi / _HOURS)  # (24, placements)
    weight = np.exp(base + swing * phase + np.array([0.0, 1.0])[:, None, None] * weekend)
    return np.asarray(weight / weight.sum(axis=2, keepdims=True))
