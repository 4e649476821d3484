"""Users as members of hidden classes: placement × segment cluster × band of user_value, borders blurred by hashing."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from cascade_world.config import WorldConfig
from cascade_world.population.states import Population, births, numbered, placement_hours
from cascade_world.request_luck import hash_columns, normals, uniforms
from marca_common.seeding import integer_seed, numpy_generator


@dataclass(frozen=True)
class ClassPopulation(Population):
    """A population of segments; a class index is (placement · clusters + cluster) · bands + band."""

    segment_tier: np.ndarray  # mean tier of a segment's users, 0–1 (segments,)
    cluster: np.ndarray  # hidden cluster (segments,)
    tier_scale: np.ndarray  # log money scale (user_values,)
    segment_scale: np.ndarray  # log money scale (segments,)

    @property
    def n_classes(self) -> int:
        """Number of hidden classes."""
        states = self.config.states
        return len(states.placements) * states.clusters * states.bands

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

    def spread(self, name: str, columns: int) -> np.ndarray:
        """Standard normals (classes, columns): half of the variance by placement, cluster and band, half by the class."""
        states, rng = self.config.states, numpy_generator(self.config.seed, "classes", name)
        shape = (len(states.placements), states.clusters, states.bands)
        shared = sum(
            rng.standard_normal((*[n if axis == i else 1 for i, n in enumerate(shape)], columns)) for axis in range(3)
        )
        own = rng.standard_normal((*shape, columns))
        return np.asarray((np.sqrt(0.5 / 3) * shared + np.sqrt(0.5) * own).reshape(-1, columns))

    def _show(self, codes: np.ndarray, who: np.ndarray, luck: np.ndarray, day: np.ndarray, hour: np.ndarray) -> None:
        """A request tells its segment; its tier varies around the segment's, and with hour and weekend."""
        tiers, weekend = self.config.states.user_values, self._is_weekend(day)
        level = self.segment_tier[who] + 0.08 * np.cos((hour - 20.0) * np.pi / 12.0) + 0.04 * weekend
        spread = normals(hash_columns(9, luck)) * 0.22
        codes[:, 0] = np.clip((level + spread) * tiers, 0, tiers - 1).astype(np.int64)
        codes[:, 2] = who


def build_classes(config: WorldConfig) -> ClassPopulation:
    """The population of a world of hidden classes; a function of its config and seed only."""
    states = config.states
    rng = numpy_generator(config.seed, "population")
    segments, tiers = states.segments, states.user_values
    cluster = rng.integers(states.clusters, size=segments)
    birth = births(config, states.late_segments, segments, rng)
    cluster_tier = rng.uniform(0.3, 0.7, size=states.clusters)
    values = (numbered("v", tiers), list(states.placements), numbered("s", segments), list(states.idcs))
    return ClassPopulation(
        values=dict(zip(config.state_columns, values, strict=True)),
        weight=-states.segment_tail * np.log1p(rng.permutation(segments)),
        drift=states.drift_per_week * rng.standard_normal(segments),
        birth=birth,
        segment_tier=np.clip(cluster_tier[cluster] + 0.1 * rng.standard_normal(segments), 0.1, 0.9),
        placement_hours=placement_hours(len(states.placements), rng),
        cluster=cluster,
        tier_scale=states.tier_slope * (np.linspace(0, 1, tiers) ** 1.5 - 0.4),
        segment_scale=states.segment_sd * rng.standard_normal(segments),
        config=config,
    )
