"""State columns: what a platform has at hand when a request comes in. All are of the history as of then."""

from __future__ import annotations

import numpy as np
import pandas as pd
from scipy.cluster.vq import kmeans2

from marca_common.seeding import integer_seed
from recommender.histories.visits import Visits
from recommender.movielens.ratings import Ratings

_RECENCY_S = np.array([60, 3600, 86400, 7 * 86400])  # edges: a minute, an hour, a day, a week
_WEEK_S = 7 * 86400


def state_frame(visits: Visits, ratings: Ratings, taste: np.ndarray, money: np.ndarray, tiers: int) -> pd.DataFrame:
    """``user_value``, ``activity``, ``recency``, ``taste``, ``hour``, ``history``, int64 (V,) each.

    ``taste`` (U,) is the user's group, ``money`` (U,) what a click of the user brings; user_value is its tier.
    activity: tier of the ratings of the last seven days; history: tier of the length of the history.
    recency: the last rating was within a minute 0, an hour 1, a day 2, a week 3, or longer ago 4. hour: of the day, UTC.
    """
    recent = [
        now - begin - np.searchsorted(ratings.time[begin:now], time - _WEEK_S)
        for begin, now, time in zip(visits.begin, visits.now, visits.time)
    ]
    return pd.DataFrame(
        {
            "user_value": tiers_of(money[visits.user], tiers),
            "activity": tiers_of(np.array(recent), tiers),
            "recency": np.searchsorted(_RECENCY_S, visits.time - ratings.time[visits.now - 1]),
            "taste": taste[visits.user].astype(np.int64),
            "hour": visits.time // 3600 % 24,
            "history": tiers_of(visits.now - visits.begin, tiers),
        }
    )


def tiers_of(values: np.ndarray, tiers: int) -> np.ndarray:
    """Tier 0 … tiers − 1 of each value, cut at quantiles; equal values share one, int64 (V,)."""
    edges = np.unique(np.quantile(values, np.arange(1, tiers) / tiers))
    return np.searchsorted(edges, values, side="right").astype(np.int64)


def taste_groups(vectors: np.ndarray, groups: int, seed: int) -> np.ndarray:
    """Cluster of each user's direction of taste (U, d), int64 (U,)."""
    length = np.linalg.norm(vectors, axis=1, keepdims=True)
    directions = vectors / np.maximum(length, 1e-12)
    groups = min(groups, len(np.unique(directions, axis=0)))
    generator = np.random.default_rng(integer_seed(seed, "taste"))
    return np.asarray(kmeans2(directions, groups, minit="++", rng=generator)[1], np.int64)
