"""Nothing that comes later is known before: the split, the visits, the halves, the state columns."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from marca_common.errors import UserError
from recommender.config import SplitConfig
from recommender.histories.people import people_of
from recommender.histories.split import JUDGED, LOGGED, split_by_time
from recommender.histories.state_columns import state_frame, taste_groups, tiers_of
from recommender.histories.visits import Visits
from recommender.movielens.formats import read_movielens
from recommender.movielens.ratings import Ratings, cleaned
from tests.recommender.tiny_movielens import tiny_ratings, write_100k


def ratings_at(times: list[list[int]], stars: float = 5.0) -> Ratings:
    """Each user's ratings at the given times; films 0, 1, 2, … in order."""
    count = [len(one) for one in times]
    film = np.concatenate([np.arange(n) for n in count])
    return Ratings(
        user=np.repeat(np.arange(len(times)), count), film=film, stars=np.full(len(film), stars),
        time=np.concatenate([np.sort(one) for one in times]), users=np.arange(len(times)).astype(object),
        films=np.arange(film.max() + 1).astype(object), genres=np.ones((film.max() + 1, 1), np.float32),
    )  # fmt: skip


@given(
    times=st.lists(st.lists(st.integers(0, 12), min_size=4, max_size=25), min_size=1, max_size=4),
    features=st.floats(0.1, 0.6),
    every=st.integers(1, 5),
)
def test_the_split_never_leaks(times: list[list[int]], features: float, every: int) -> None:
    ratings = ratings_at(times)
    config = SplitConfig(features=features, ranker=0.25, every=every)
    try:
        people = people_of(ratings, config, 4.0, 0, "here")
    except UserError:
        usable = split_by_time(ratings, features, 0.25, 4.0, 0).usable
        assert not usable.any()
        return
    split = people.split
    for user in np.flatnonzero(split.usable):
        begin, first, second, end = (int(x[user]) for x in (split.begin, split.ranker, split.later, split.end))
        time = ratings.time
        assert time[begin:first].max() < time[first:second].min() <= time[first:second].max() < time[second:end].min()
        assert (ratings.user[begin:end] == user).all()
        assert split.features()[begin:end].sum() == first - begin
    for visits, low, high in ((people.training, split.ranker, split.later), (people.visits, split.later, split.end)):
        assert (np.diff(visits.time) >= 0).all()
        assert len(visits) > 0
        for row, user in enumerate(visits.user):
            history, later = slice(visits.begin[row], visits.now[row]), slice(visits.now[row], visits.end[row])
            assert ratings.time[history].max() < visits.time[row] == ratings.time[later].min()
            assert low[user] <= visits.now[row] < visits.end[row] == high[user]
            request = people.request(visits, row)
            assert request.films.tolist() == ratings.film[history].tolist()
            assert not np.isin(people.later_likes(visits, row), request.films).any()


def test_cuts_by_hand() -> None:
    ratings = ratings_at([[1, 2, 3, 4, 4, 4, 7, 8, 9, 10], [5] * 10])
    split = split_by_time(ratings, 0.5, 0.2, 4.0, 0)
    assert split.ranker.tolist() == [3, 10]  # half of ten would fall among the ratings of second 4: before all of them
    assert split.later.tolist() == [7, 10]
    assert split.usable.tolist() == [True, False]
    people = people_of(ratings, SplitConfig(features=0.5, ranker=0.2, every=2), 4.0, 0, "here")
    assert people.visits.now.tolist() == [7, 9]
    assert people.visits.time.tolist() == [8, 10]
    assert people.later_likes(people.visits, 0).tolist() == [
        7,
        8,
        9,
    ]  # the film rated at the visit's second is still to come
    assert people.later_likes(people.training, 0).tolist() == [3, 4, 5, 6]
    assert people.training.now.tolist() == [3]  # the second one would begin at the same second
    assert people.training.end.tolist() == [7]


def test_halves_are_disjoint_and_hold_all_later_likes(tmp_path: Path) -> None:
    ratings = cleaned(read_movielens(write_100k(tmp_path, tiny_ratings())), 20, "here")
    people = people_of(ratings, SplitConfig(), 4.0, 0, "here")
    split = people.split
    later = np.arange(len(split.half)) >= np.repeat(split.later, split.end - split.begin)
    assert ((split.half >= 0) == (later & split.liked)).all()
    sizes = np.bincount(split.half[split.half >= 0])
    assert abs(sizes[LOGGED] - sizes[JUDGED]) < 4 * np.sqrt(sizes.sum())
    for row in range(len(people.visits)):
        logged, judged = (set(people.later_likes(people.visits, row, half)) for half in (LOGGED, JUDGED))
        assert not logged & judged
        assert logged | judged == set(people.later_likes(people.visits, row))


def test_a_sample_of_visits_stays_in_order_and_without_doubles(tmp_path: Path) -> None:
    ratings = cleaned(read_movielens(write_100k(tmp_path, tiny_ratings())), 20, "here")
    every = people_of(ratings, SplitConfig(), 4.0, 0, "here")
    some = people_of(ratings, SplitConfig(most_visits=20), 4.0, 0, "here")
    for all_visits, drawn in ((every.visits, some.visits), (every.training, some.training)):
        assert len(drawn) == 20 < len(all_visits)
        assert (np.diff(drawn.time) >= 0).all()
        assert len(set(drawn.now.tolist())) == 20
        assert set(drawn.now.tolist()) <= set(all_visits.now.tolist())


def test_people_that_cannot_be_split_are_refused() -> None:
    with pytest.raises(UserError, match=r"here: no user's ratings can be cut in three by time"):
        people_of(ratings_at([[1] * 9, [2] * 9]), SplitConfig(), 4.0, 0, "here")
    with pytest.raises(UserError, match=r"here: nobody likes anything in the features; expected stars of 4 or more"):
        people_of(ratings_at([list(range(30))], stars=3.0), SplitConfig(), 4.0, 0, "here")


def test_state_columns_by_hand() -> None:
    day = 86400
    ratings = ratings_at([[0, day, 8 * day, 8 * day + 30, 8 * day + 90, 30 * day + 7200]])
    now = np.array([3, 4, 5])
    visits = Visits(np.zeros(3, int), np.zeros(3, int), now, np.full(3, 6), ratings.time[now])
    frame = state_frame(visits, ratings, np.array([2]), np.array([1.5]), tiers=2)
    assert frame["recency"].tolist() == [0, 0, 4]  # 30 s, 60 s, three weeks
    assert frame["hour"].tolist() == [0, 0, 2]
    assert frame["taste"].tolist() == [2, 2, 2]
    assert len(set(frame["user_value"])) == 1
    assert frame["history"].tolist() == [0, 1, 1]  # 3, 4 and 5 ratings, cut at 4
    assert frame["activity"].tolist() == [1, 1, 0]  # 1 (the eighth day), 2 and 0 within the week before; cut at 1


def test_equal_values_share_a_tier() -> None:
    assert tiers_of(np.array([1, 1, 1, 1, 1]), 4).tolist() == [1] * 5
    assert len(set(tiers_of(np.array([1, 1, 1, 2, 3, 9]), 4)[:3])) == 1
    assert np.bincount(tiers_of(np.arange(100), 5)).tolist() == [20] * 5


def test_taste_groups_follow_directions_not_lengths() -> None:
    vectors = np.array([[1.0, 0], [9, 0.1], [0, 1], [0.1, 8]])
    found = taste_groups(vectors, 2, 0)
    assert found[0] == found[1] != found[2] == found[3]
    assert len(set(taste_groups(np.ones((5, 2)), 3, 0))) == 1  # fewer directions than groups
