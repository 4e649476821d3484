"""Visits: moments at which a user asks for a page. What lies before is the history, what comes later may be liked."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from recommender.histories.split import Split, begins_of_seconds
from recommender.movielens.ratings import Ratings


@dataclass(frozen=True)
class Visits:
    """V visits. Positions index the ratings: history is [begin, now), what comes later [now, end)."""

    user: np.ndarray  # int64 (V,)
    begin: np.ndarray  # int64 (V,)
    now: np.ndarray  # int64 (V,)
    end: np.ndarray  # int64 (V,)
    time: np.ndarray  # seconds since 1970, int64 (V,)

    def __len__(self) -> int:
        return len(self.user)

    def __getitem__(self, rows: np.ndarray) -> Visits:
        return Visits(self.user[rows], self.begin[rows], self.now[rows], self.end[rows], self.time[rows])


def visits_between(ratings: Ratings, split: Split, first: np.ndarray, end: np.ndarray, every: int) -> Visits:
    """A visit each time a usable user has rated ``every`` more films from ``first`` to ``end`` (U,), in order of time.

    A visit begins with a second: its history is strictly older.
    """
    second = begins_of_seconds(ratings)
    rows = []
    for one in np.flatnonzero(split.usable):
        rows += [(one, moment) for moment in np.unique(second[first[one] : end[one] : every])]
    user, now = np.array(rows, np.int64).reshape(-1, 2).T
    order = np.lexsort((user, ratings.time[now]))
    user, now = user[order], now[order]
    return Visits(user, split.begin[user], now, end[user], ratings.time[now])


def sampled(visits: Visits, most: int, generator: np.random.Generator) -> Visits:
    """At most ``most`` visits, drawn without order and kept in order."""
    if len(visits) <= most:
        return visits
    return visits[np.sort(generator.choice(len(visits), most, replace=False))]
