"""Each user's ratings cut in time: features | ranker labels | later, and the later likes in two halves.

Cuts lie between two different moments, so whatever is known before a cut is strictly older than what is asked after it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from marca_common.seeding import numpy_generator
from recommender.movielens.ratings import Ratings

LOGGED, JUDGED = 0, 1  # the halves of the later likes


@dataclass(frozen=True)
class Split:
    """Positions index the ratings, which are in order of user and time."""

    begin: np.ndarray  # a user's first rating, int64 (U,)
    ranker: np.ndarray  # the first one that is no feature, int64 (U,)
    later: np.ndarray  # the first one that no model has seen, int64 (U,)
    end: np.ndarray  # one past the last, int64 (U,)
    liked: np.ndarray  # bool (N,)
    half: np.ndarray  # LOGGED or JUDGED for later likes, −1 else, int8 (N,)

    def features(self) -> np.ndarray:
        """Which ratings models of taste are fitted on, bool (N,)."""
        position = np.arange(len(self.liked))
        return position < np.repeat(self.ranker, self.end - self.begin)

    @property
    def usable(self) -> np.ndarray:
        """Users with something in each of the three parts, bool (U,)."""
        return (self.begin < self.ranker) & (self.ranker < self.later) & (self.later < self.end)


def split_by_time(ratings: Ratings, features: float, ranker: float, like: float, seed: int) -> Split:
    """Cut at shares ``features`` and ``features + ranker`` of each user's ratings; a like has ``like`` stars or more.

    A cut that would fall among ratings of one second moves to the beginning of that second.
    """
    count = np.bincount(ratings.user, minlength=len(ratings.users))
    end = np.cumsum(count)
    begin = end - count
    second = begins_of_seconds(ratings)
    first, later = (
        second[begin + np.minimum((count * s).astype(int), count - 1)] for s in (features, features + ranker)
    )
    liked = ratings.stars >= like
    is_later = np.arange(len(liked)) >= np.repeat(later, count)
    coin = numpy_generator(seed, "halves").random(len(liked)) < 0.5
    half = np.where(liked & is_later, np.where(coin, LOGGED, JUDGED), -1).astype(np.int8)
    return Split(begin, first, later, end, liked, half)


def begins_of_seconds(ratings: Ratings) -> np.ndarray:
    """Per rating the position of the first one of the same user and second, int64 (N,)."""
    new = np.ones(len(ratings.time), bool)
    new[1:] = (np.diff(ratings.time) != 0) | (np.diff(ratings.user) != 0)
    return np.maximum.accumulate(np.where(new, np.arange(len(new)), 0))
