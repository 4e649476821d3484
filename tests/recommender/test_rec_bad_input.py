"""What a user can mend ends recommender.build and the benchmarks on it with one line and exit code 2, and nothing is written."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest

import benchmarks.movielens
from benchmarks._script import script
from marca_common.cli import run_cli
from marca_common.files import read_json
from recommender.build import build
from recommender.config import RecommenderConfig
from tests.recommender.conftest import SHIPPED, tiny_config
from tests.recommender.tiny_movielens import tiny_ratings, write_20m, write_100k

Frame = Callable[[pd.DataFrame], pd.DataFrame]


def left(folder: Path, capsys: pytest.CaptureFixture[str], *sets: str) -> str:
    """The line that the program leaves with."""
    out = folder.parent / "out"
    argv = ["--out", str(out), "--set", f"data.folder={folder}", *(word for one in sets for word in ("--set", one))]
    with pytest.raises(SystemExit) as ended:
        run_cli(build, RecommenderConfig, default_config=SHIPPED, default_out="unused", argv=argv)
    assert ended.value.code == 2
    assert not out.exists()
    errors = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1
    return errors[0]


def test_a_folder_without_ratings(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "data").mkdir()
    assert "data: the folder holds no ratings; expected one of u.data (MovieLens-100K), ratings.dat" in left(
        tmp_path / "data", capsys
    )


def test_other_separators(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write_20m(tmp_path / "data", tiny_ratings()) / "ratings.csv"
    path.write_text(path.read_text().replace(",", ";"))
    said = left(tmp_path / "data", capsys)
    assert (
        "its first line is 'userId;movieId;rating;timestamp'; expected userId, movieId, rating, timestamp separated by ','"
        in said
    )


@pytest.mark.parametrize(
    "change, said",
    [
        (lambda frame: frame.groupby("user").head(12), "no user has rated 20 films or more (data.min_ratings); the most is 12"),
        (lambda frame: frame.assign(time=880_000_000), "all 960 timestamps are 880000000; expected times, ratings are split by them"),
        (lambda frame: frame.assign(time=frame["film"] % 2), "no user's ratings can be cut in three by time; expected different times"),
        (lambda frame: frame.assign(stars=2), "nobody likes anything in the features; expected stars of 4 or more (data.like)"),
        (lambda frame: pd.concat([frame.assign(film=7)] * 2), "no user has rated 20 films or more (data.min_ratings); the most is 1"),
    ],
)  # fmt: skip
def test_ratings_that_cannot_be_split(
    change: Frame, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert said in left(write_100k(tmp_path / "data", change(tiny_ratings())), capsys)


def test_a_wheel_that_cannot_be_had(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    said = left(tmp_path / "data", capsys, "data.folder=null", f"data.cache={tmp_path / 'cache'}")
    assert "recbole==1.2.1: the wheel cannot be had" in said
    assert "download ml-100k.zip from https://grouplens.org/datasets/movielens/100k/" in said


@pytest.mark.slow
def test_repeated_ratings_and_users_with_few_are_left_out_and_named(tmp_path: Path) -> None:
    frame = tiny_ratings()
    few = frame[(frame["user"] != 3) | (frame.groupby("user").cumcount() < 5)]
    folder = write_100k(tmp_path / "data", pd.concat([few, few.head(4).assign(time=999_999_999)]))
    build(tiny_config(folder), tmp_path / "out")
    summary = read_json(tmp_path / "out/summary.json")
    assert (summary["duplicates"], summary["dropped_users"], summary["users"]) == (4, 1, 23)
    assert summary["warnings"][:2] == [
        "4 ratings left out: their user had rated the film before",
        "1 users left out: fewer ratings than data.min_ratings",
    ]


def test_a_benchmark_on_a_folder_of_ones_own(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["movielens", "--data", str(tmp_path / "none"), "--quick"])
    with pytest.raises(SystemExit) as ended:
        script(benchmarks.movielens.main)
    assert ended.value.code == 2
    errors = [line for line in capsys.readouterr().err.splitlines() if "error" in line]
    assert errors == [f"error: {tmp_path / 'none'}: no such folder; expected one with MovieLens ratings"]
    assert not list(tmp_path.rglob("*.pt"))
