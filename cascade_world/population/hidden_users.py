"""Users who come back, with continuous tastes: what they do is a smooth function of taste and placement.

A user is a point in taste space, and so is a placement. The log state names the user; user_value and segment are what a
platform would estimate of wealth and taste, anew every week and with errors. Nothing discrete decides.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from scipy.special import ndtr

from cascade_world.config import UsersConfig, WorldConfig
from cascade_world.population.states import Population, births, numbered, placement_hours
from cascade_world.request_luck import hash_columns, normals
from marca_common.seeding import integer_seed, numpy_generator


@dataclass(frozen=True)
class UserPopulation(Population):
    """A population of users; a class index is user · placements + placement."""

    users: UsersConfig
    taste: np.ndarray  # (users, dimension)
    placement_taste: np.ndarray  # (placements, dimension)
    wealth: np.ndarray  # log money scale in units of its sd (users,)
    centroids: np.ndarray  # tastes that segments stand for (segments, dimension)

    @property
    def n_classes(self) -> int:
        """Number of pairs of a user and a placement."""
        return len(self.taste) * len(self.placement_taste)

    def latent(self, codes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Row of (user, placement) int64 (M,) and money scale float64 (M,) of states given as codes (M, 5).

        user_value, segment and data centre decide nothing.
        """
        user = codes[:, 4]
        return user * len(self.placement_taste) + codes[:, 1], np.exp(self.users.wealth_sd * self.wealth[user])

    def spread(self, name: str, columns: int) -> np.ndarray:
        """A tanh of random inner products with the context, then mean 0 and sd 1 over users and placements."""
        rng = numpy_generator(self.config.seed, "classes", name)
        directions = rng.standard_normal((self._context.shape[1], columns))
        bent = np.tanh(self.users.bend * self._context @ directions / np.sqrt(len(directions)))
        return np.asarray((bent - bent.mean(axis=0)) / np.maximum(bent.std(axis=0), 1e-12))

    def reports(self, week: int) -> tuple[np.ndarray, np.ndarray]:
        """Tier and segment codes of every user, as the platform estimates them in a week, int64 (users,) each."""
        users, tiers, seed = self.users, self.config.states.user_values, integer_seed(self.config.seed, "reports")
        who, cells = np.arange(len(self.taste)), np.arange(self.taste.size)
        error = normals(hash_columns(seed, cells, np.full_like(cells, week))).reshape(self.taste.shape)
        seen = self.taste + users.segment_noise * error
        distance = (self.centroids**2).sum(axis=1) - 2.0 * seen @ self.centroids.T  # less what all segments share
        slip = users.value_noise * normals(hash_columns(seed + 1, who, np.full_like(who, week)))
        tier = np.clip((ndtr(self.wealth) + slip) * tiers, 0, tiers - 1).astype(np.int64)
        return tier, np.asarray(distance.argmin(axis=1))

    @cached_property
    def _context(self) -> np.ndarray:
        """The user's taste, the placement's, and their products, per user and placement (users · placements, 3 · dimension)."""
        taste = np.repeat(self.taste, len(self.placement_taste), axis=0)
        placement = np.tile(self.placement_taste, (len(self.taste), 1))
        return np.hstack([taste, placement, taste * placement])

    def _show(self, codes: np.ndarray, who: np.ndarray, luck: np.ndarray, day: np.ndarray, hour: np.ndarray) -> None:
        """A request tells its user, and what was estimated of the user this week."""
        week = day // 7
        codes[:, 4] = who
        for one in np.unique(week):
            rows = week == one
            tier, segment = self.reports(int(one))
            codes[rows, 0], codes[rows, 2] = tier[who[rows]], segment[who[rows]]


def build_users(config: WorldConfig, users: UsersConfig) -> UserPopulation:
    """The population of a world of users; a function of its config and seed only."""
    states, rng = config.states, numpy_generator(config.seed, "population")
    count, placements = users.count, len(states.placements)
    names = numbered("v", states.user_values), list(states.placements), numbered("s", states.segments)
    values = (*names, list(states.idcs), numbered("u", count))
    return UserPopulation(
        values=dict(zip(config.state_columns, values, strict=True)),
        weight=-users.tail * np.log1p(rng.permutation(count)),
        drift=states.drift_per_week * rng.standard_normal(count),
        birth=births(config, users.late, count, rng),
        placement_hours=placement_hours(placements, rng),
        config=config,
        users=users,
        taste=rng.standard_normal((count, users.dimension)),
        placement_taste=rng.standard_normal((placements, users.dimension)),
        wealth=rng.standard_normal(count),
        centroids=rng.standard_normal((states.segments, users.dimension)),
    )
