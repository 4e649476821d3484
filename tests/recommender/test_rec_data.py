"""Readers of MovieLens formats, the wheel, and what is refused or counted."""

from __future__ import annotations

import logging
import zipfile
from pathlib import Path

import numpy as np
import pytest

from marca_common.errors import UserError
from recommender.movielens.formats import read_movielens
from recommender.movielens.ratings import Ratings, cleaned
from recommender.movielens.wheel import movielens_100k
from tests.recommender.tiny_movielens import GENRES, WRITERS, tiny_ratings, write_20m, write_100k


def as_set(ratings: Ratings) -> set[tuple[str, str, float, int]]:
    names = ratings.users[ratings.user], ratings.films[ratings.film]
    return set(zip(*names, ratings.stars.tolist(), ratings.time.tolist()))


@pytest.mark.parametrize("form", list(WRITERS))
def test_every_format_gives_the_same_ratings_and_genres(form: str, tmp_path: Path) -> None:
    frame = tiny_ratings()
    ratings = read_movielens(WRITERS[form](tmp_path, frame))
    rows = frame.to_numpy().tolist()
    assert as_set(ratings) == {(str(user), str(film), float(stars), time) for user, film, stars, time in rows}
    genres = dict(zip(ratings.films, ratings.genres))
    assert ratings.genres.shape == (60, 4)
    assert [genres["1"].tolist(), genres["2"].tolist()] == [[1, 0, 0, 0], [0, 1, 0, 0]]  # names of genres in order
    assert sorted(GENRES) == GENRES


def test_a_film_without_genres_has_none(tmp_path: Path) -> None:
    write_20m(tmp_path, tiny_ratings())
    text = (tmp_path / "movies.csv").read_text(encoding="utf-8")
    (tmp_path / "movies.csv").write_text(
        text.replace('Café, 1 (1995)",Action', 'Café, 1 (1995)",(no genres listed)').replace("\n60,", "\n61,")
    )
    ratings = read_movielens(tmp_path)
    genres = dict(zip(ratings.films, ratings.genres.sum(axis=1)))
    assert (genres["1"], genres["5"]) == (0, 1)
    assert genres["60"] == 0  # rated, but not among the films
    assert ratings.genres.shape == (61, 4)


def test_cleaning_orders_by_user_and_time_and_keeps_the_first_of_repeated_ratings() -> None:
    five = np.array([1, 0, 1, 1, 0])
    ratings = Ratings(
        user=five, film=np.array([7, 1, 8, 7, 2]), stars=np.array([5.0, 4, 3, 2, 1]), time=np.array([30, 9, 10, 20, 5]),
        users=np.array(["a", "b"], object), films=np.arange(9).astype(object), genres=np.zeros((9, 1), np.float32),
    )  # fmt: skip
    found = cleaned(ratings, 2, "here")
    assert found.user.tolist() == [0, 0, 1, 1]
    assert found.film.tolist() == [2, 1, 8, 7]
    assert found.stars.tolist() == [1, 4, 3, 2]  # of b's two ratings of film 7 the one at 20 s stays
    assert (found.duplicates, found.dropped_users) == (1, 0)


def test_users_with_too_few_ratings_are_counted_and_left_out(tmp_path: Path) -> None:
    frame = tiny_ratings()
    few = frame[(frame["user"] != 3) | (frame.groupby("user").cumcount() < 5)]
    found = cleaned(read_movielens(write_100k(tmp_path, few)), 20, "here")
    assert found.dropped_users == 1
    assert "3" not in found.users
    assert found.user.max() == 22
    with pytest.raises(UserError, match=r"here: no user has rated 50 films or more .*the most is 40"):
        cleaned(read_movielens(tmp_path), 50, "here")


def test_a_sample_of_users_keeps_all_their_ratings(tmp_path: Path) -> None:
    ratings = read_movielens(write_100k(tmp_path, tiny_ratings()))
    found = cleaned(ratings, 20, "here", most_users=7, seed=1)
    assert len(found.users) == 7
    assert np.bincount(found.user).tolist() == [40] * 7


def test_equal_times_are_refused(tmp_path: Path) -> None:
    frame = tiny_ratings().assign(time=5)
    with pytest.raises(UserError, match=r"here: all 960 timestamps are 5; expected times"):
        cleaned(read_movielens(write_100k(tmp_path, frame)), 20, "here")


def test_a_folder_without_ratings_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"holds no ratings; expected one of u.data .* ratings.dat .* ratings.csv"):
        read_movielens(tmp_path)
    with pytest.raises(UserError, match="no such folder"):
        read_movielens(tmp_path / "none")
    (tmp_path / "u.data").write_text("1\t2\t3\t4\n")
    with pytest.raises(UserError, match=r"0 files are called u.item; expected one, beside u.data"):
        read_movielens(tmp_path)


@pytest.mark.parametrize(
    "name, content, said",
    [
        (
            "u.data",
            "1,2,3,4\n",
            r"u.data: its first line is '1,2,3,4'; expected user, film, stars, timestamp separated",
        ),
        ("u.data", "1\t2\t3\n", "expected user, film, stars, timestamp separated by"),
        ("u.data", "", "u.data: the file is empty"),
        ("u.data", "1\t2\tfive\t4\n", r"u.data: row 1, column 'stars': got 'five'; expected a finite number"),
        ("u.data", "1\t2\t3\t4\n1\t2\t3\t\n", r"u.data: row 2, column 'timestamp'"),
        ("u.data", "1\t2\t3\t-4\n", r"column 'timestamp': got -4"),
        ("u.data", "1\t2\t3\t4\n1\t2\t3\t4\t5\t6\n", r"u.data: not a readable table of ratings: .* 4 fields in line 2"),
        ("u.item", "1|one\n", r"u.item: row 1: got '1.one'; expected a film as in MovieLens-100K"),
        ("u.item", "", "u.item: the file is empty"),
    ],
)
def test_bad_files_are_refused_in_one_line(name: str, content: str, said: str, tmp_path: Path) -> None:
    write_100k(tmp_path, tiny_ratings())
    (tmp_path / name).write_text(content)
    with pytest.raises(UserError, match=said) as refused:
        read_movielens(tmp_path)
    assert "\n" not in str(refused.value)


def test_other_separators_of_csv_are_refused(tmp_path: Path) -> None:
    write_20m(tmp_path, tiny_ratings())
    text = (tmp_path / "ratings.csv").read_text()
    (tmp_path / "ratings.csv").write_text(text.replace(",", ";"))
    with pytest.raises(
        UserError, match=r"its first line is 'userId;movieId;rating;timestamp'; expected userId, movieId"
    ):
        read_movielens(tmp_path)
    (tmp_path / "ratings.csv").write_text(text.replace("userId", "who"))
    with pytest.raises(UserError, match=r"ratings.csv: column 'user' is missing"):
        read_movielens(tmp_path)


def fake_wheel(folder: Path, inside: str) -> None:
    write = WRITERS["recbole"](folder / "source", tiny_ratings())
    with zipfile.ZipFile(folder / "recbole-1.2.1-py3-none-any.whl", "w") as archive:
        for name in ("ml-100k.inter", "ml-100k.item"):
            archive.write(write / name, inside + name)
        about = "recbole-1.2.1.dist-info/"
        archive.writestr(about + "METADATA", "Metadata-Version: 2.1\nName: recbole\nVersion: 1.2.1\n")
        archive.writestr(about + "WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(about + "RECORD", "")


def test_data_comes_out_of_the_wheel_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    fake_wheel(tmp_path, "recbole/dataset_example/ml-100k/")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    with caplog.at_level(logging.INFO):
        folder = movielens_100k(tmp_path / "cache")
        assert movielens_100k(tmp_path / "cache") == folder
    assert caplog.text.count("fetching MovieLens-100K") == 1
    assert sorted(path.name for path in folder.iterdir()) == ["ml-100k.inter", "ml-100k.item"]
    assert len(read_movielens(folder).user) == 960


def test_a_wheel_that_cannot_be_had_says_what_to_download(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    with pytest.raises(
        UserError, match=r"recbole==1.2.1: the wheel cannot be had .*ml-100k.zip.*data.folder"
    ) as refused:
        movielens_100k(tmp_path / "cache")
    assert "\n" not in str(refused.value)
    fake_wheel(tmp_path, "elsewhere/")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    with pytest.raises(UserError, match="the wheel does not hold"):
        movielens_100k(tmp_path / "cache")
    assert not list((tmp_path / "cache").rglob("*.*"))
