"""Ratings, their split and their visits together: asks for histories and for later likes go through here."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from marca_common.errors import UserError
from marca_common.seeding import numpy_generator
from recommender.config import SplitConfig
from recommender.histories.split import Split, split_by_time
from recommender.histories.visits import Visits, sampled, visits_between
from recommender.movielens.ratings import Ratings
from recommender.request import Request

_NOTHING = np.zeros(0, np.int64)


@dataclass(frozen=True)
class People:
    """Users with their ratings, and the two sets of visits."""

    ratings: Ratings
    split: Split
    training: Visits  # in the ranker part; their likes end where later begins
    visits: Visits  # in the later part: the requests of log and truth, in order of time

    def request(self, visits: Visits, row: int, kept: np.ndarray = _NOTHING) -> Request:
        """The request of a visit: only ratings strictly older than it."""
        return self.request_at(int(visits.user[row]), int(visits.now[row]), kept)

    def request_at(self, user: int, now: int, kept: np.ndarray = _NOTHING) -> Request:
        """A request of a user whose history ends before the rating ``now``."""
        history = slice(self.split.begin[user], now)
        films, liked = self.ratings.film[history], self.split.liked[history]
        return Request(user, films, films[liked], liked, kept)

    def later_likes(self, visits: Visits, row: int, half: int | None = None) -> np.ndarray:
        """Films that the visit's user likes from then on, of one half or of all."""
        later = slice(visits.now[row], visits.end[row])
        liked = self.split.liked[later] if half is None else self.split.half[later] == half
        return np.asarray(self.ratings.film[later][liked])


def people_of(ratings: Ratings, config: SplitConfig, like: float, seed: int, place: str) -> People:
    """Split and visits of ratings; a UserError where no user can be split, or nobody likes anything later."""
    split = split_by_time(ratings, config.features, config.ranker, like, seed)
    if not split.usable.any():
        raise UserError(f"{place}: no user's ratings can be cut in three by time; expected different times in each")
    for part, likes in (("features", split.liked & split.features()), ("later ratings", split.half >= 0)):
        if not likes.any():
            raise UserError(
                f"{place}: nobody likes anything in the {part}; expected stars of {like:g} or more (data.like)"
            )
    training = visits_between(ratings, split, split.ranker, split.later, config.every)
    visits = visits_between(ratings, split, split.later, split.end, config.every)
    training = sampled(training, config.most_visits, numpy_generator(seed, "training visits"))
    return People(ratings, split, training, sampled(visits, config.most_visits, numpy_generator(seed, "visits")))
