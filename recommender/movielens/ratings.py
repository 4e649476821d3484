"""Ratings in memory: who rated which film how, and when."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from marca_common.errors import UserError
from marca_common.seeding import numpy_generator


@dataclass(frozen=True)
class Ratings:
    """N ratings by U users of I films, in order of user and time; codes index ``users`` and ``films``."""

    user: np.ndarray  # int64 (N,), rising
    film: np.ndarray  # int64 (N,)
    stars: np.ndarray  # float64 (N,)
    time: np.ndarray  # seconds since 1970, int64 (N,), rising within a user
    users: np.ndarray  # names in the files, object (U,)
    films: np.ndarray  # names in the files, object (I,)
    genres: np.ndarray  # float32 (I, G), 1 where the film has the genre
    duplicates: int = 0  # ratings left out because their user had rated the film before
    dropped_users: int = 0  # users left out because they had rated too few films


def cleaned(ratings: Ratings, min_ratings: int, place: str, most_users: int | None = None, seed: int = 0) -> Ratings:
    """In order of user and time, the first of repeated ratings kept, users with fewer than ``min_ratings`` left out.

    Of the others ``most_users`` drawn at random stay. A UserError where all times are equal or nobody is left.
    """
    if len(ratings.time) and ratings.time.min() == ratings.time.max():
        raise UserError(
            f"{place}: all {len(ratings.time)} timestamps are {ratings.time[0]}; expected times, ratings are split by them"
        )
    order = np.lexsort((ratings.time, ratings.user))
    pair = ratings.user[order] * len(ratings.films) + ratings.film[order]
    first = np.sort(np.unique(pair, return_index=True)[1])
    order = order[first]
    count = np.bincount(ratings.user[order], minlength=len(ratings.users))
    kept = count >= min_ratings
    if not kept.any():
        most = int(count.max(initial=0))
        raise UserError(
            f"{place}: no user has rated {min_ratings} films or more (data.min_ratings); the most is {most}"
        )
    dropped = int((~kept).sum())
    if most_users is not None and kept.sum() > most_users:
        drawn = numpy_generator(seed, "users").choice(np.flatnonzero(kept), most_users, replace=False)
        kept = np.isin(np.arange(len(kept)), drawn)
    order = order[kept[ratings.user[order]]]
    return Ratings(
        user=(np.cumsum(kept) - 1)[ratings.user[order]],
        film=ratings.film[order],
        stars=ratings.stars[order],
        time=ratings.time[order],
        users=ratings.users[kept],
        films=ratings.films,
        genres=ratings.genres,
        duplicates=len(pair) - len(first),
        dropped_users=dropped,
    )
