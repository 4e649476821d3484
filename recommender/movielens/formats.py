"""Readers of the formats that MovieLens comes in; which one a folder holds is told by the names of its files."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
import pandas as pd

from marca_common.errors import UserError
from marca_common.tables import Column, checked_frame
from recommender.movielens.ratings import Ratings

_SCHEMA = [
    Column("user", "category"),
    Column("film", "category"),
    Column("stars", "float", 0, 100),
    Column("timestamp", "float", 0, 1e11),
]
_GENRES_100K = [
    "unknown", "Action", "Adventure", "Animation", "Children's", "Comedy", "Crime", "Documentary", "Drama", "Fantasy",
    "Film-Noir", "Horror", "Musical", "Mystery", "Romance", "Sci-Fi", "Thriller", "War", "Western",
]  # fmt: skip


@dataclass(frozen=True)
class Format:
    """One layout of ratings and films."""

    name: str
    ratings: str  # pattern of the file's name
    films: str
    separator: str
    rating_columns: Sequence[str]  # those of user, film, stars, timestamp
    header: bool  # whether both files begin with the names of their columns
    genres: Callable[[list[str], list[str]], tuple[str, list[str]]]  # header and fields of a line → film, its genres


def _flags(header: list[str], fields: list[str]) -> tuple[str, list[str]]:
    if len(fields) <= len(_GENRES_100K):
        raise ValueError
    return fields[0], [name for name, flag in zip(_GENRES_100K, fields[-len(_GENRES_100K) :]) if flag.strip() == "1"]


def _piped(header: list[str], fields: list[str]) -> tuple[str, list[str]]:
    return fields[0], [name for name in fields[-1].strip().strip('"').split("|") if name and name != _NO_GENRES]


def _tokens(header: list[str], fields: list[str]) -> tuple[str, list[str]]:
    genres = header.index("class:token_seq") if "class:token_seq" in header else len(fields) - 1
    return fields[header.index("item_id:token")], fields[genres].split()


_NO_GENRES = "(no genres listed)"
_PLAIN = ("user", "film", "stars", "timestamp")
_ATOMIC = ("user_id:token", "item_id:token", "rating:float", "timestamp:float")
_CSV = ("userId", "movieId", "rating", "timestamp")
FORMATS = [
    Format("MovieLens-100K", "u.data", "u.item", "\t", _PLAIN, False, _flags),
    Format("MovieLens-1M", "ratings.dat", "movies.dat", "::", _PLAIN, False, _piped),
    Format("MovieLens-20M or later", "ratings.csv", "movies.csv", ",", _CSV, True, _piped),
    Format("RecBole's atomic files", "*.inter", "*.item", "\t", _ATOMIC, True, _tokens),
]


def read_movielens(folder: str | Path) -> Ratings:
    """Ratings and films of a folder, as they stand there; a UserError names the file, the line and what was expected."""
    folder = Path(folder)
    form, path = _found(folder)
    frame = _ratings(form, path)
    films, genres = _films(form, _one(folder, form.films, f"beside {path.name}"))
    known = pd.Index(films)
    unknown = pd.Index(frame["film"].cat.categories).difference(known)
    names = known.append(unknown)
    user = frame["user"].cat.remove_unused_categories()
    return Ratings(
        user=user.cat.codes.to_numpy(np.int64),
        film=names.get_indexer(frame["film"].astype(str)).astype(np.int64),
        stars=frame["stars"].to_numpy(),
        time=frame["timestamp"].to_numpy().astype(np.int64),
        users=user.cat.categories.to_numpy(dtype=object),
        films=names.to_numpy(dtype=object),
        genres=np.concatenate([genres, np.zeros((len(unknown), genres.shape[1]), np.float32)]),
    )


def _found(folder: Path) -> tuple[Format, Path]:
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder; expected one with MovieLens ratings")
    for form in FORMATS:
        if any(folder.glob(form.ratings)):
            return form, _one(folder, form.ratings, "only one")
    expected = ", ".join(f"{form.ratings} ({form.name})" for form in FORMATS)
    raise UserError(f"{folder}: the folder holds no ratings; expected one of {expected}")


def _one(folder: Path, pattern: str, what: str) -> Path:
    found = sorted(folder.glob(pattern))
    if len(found) != 1:
        raise UserError(f"{folder}: {len(found)} files are called {pattern}; expected one, {what}")
    return found[0]


def _ratings(form: Format, path: Path) -> pd.DataFrame:
    first = _first_line(path)
    columns = first.split(form.separator)
    if len(columns) < len(form.rating_columns):
        shape = f"{', '.join(form.rating_columns)} separated by {form.separator!r}"
        raise UserError(f"{path}: its first line is {first[:60]!r}; expected {shape}, as in {form.name}")
    names = columns if form.header else list(form.rating_columns)
    single = len(form.separator) == 1
    try:
        frame = pd.read_csv(
            path if single else io.StringIO(_text(path).replace(form.separator, "\t")),
            sep=form.separator if single else "\t",
            header=None,
            names=[dict(zip(form.rating_columns, _PLAIN)).get(name, name) for name in names],
            skiprows=int(form.header),
            index_col=False,
            dtype={"user": "category", "film": "category"},
            keep_default_na=False,
            encoding="utf-8-sig",
            low_memory=False,
        )
    except (pd.errors.ParserError, pd.errors.EmptyDataError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise UserError(f"{path}: not a readable table of ratings: {reason}") from None
    if not len(frame):
        raise UserError(f"{path}: the file has no ratings")
    return checked_frame(frame, _SCHEMA, str(path))


def _films(form: Format, path: Path) -> tuple[list[str], np.ndarray]:
    """Names of films and their genres, float32 (I, G)."""
    lines = [line for line in _text(path).replace("\r", "").split("\n") if line]  # titles may hold odder line ends
    separator = "|" if form.films == "u.item" else form.separator
    header = lines.pop(0).split(separator) if form.header and lines else []
    rows: dict[str, list[str]] = {}
    for number, line in enumerate(lines, start=1):
        try:
            film, genres = form.genres(header, line.split(separator))
        except (IndexError, ValueError):
            raise UserError(f"{path}: row {number}: got {line[:60]!r}; expected a film as in {form.name}") from None
        rows[film] = genres
    if not rows:
        raise UserError(f"{path}: the file has no films")
    names = sorted({genre for genres in rows.values() for genre in genres})
    table = np.array([[name in genres for name in names] for genres in rows.values()], np.float32)
    return list(rows), table.reshape(len(rows), len(names))


def _first_line(path: Path) -> str:
    with _opened(path) as file:
        return _decoded(file.readline()).rstrip("\r\n")


def _text(path: Path) -> str:
    with _opened(path) as file:
        return _decoded(file.read())


def _opened(path: Path) -> BinaryIO:
    try:
        file = path.open("rb")
    except OSError as error:
        raise UserError(f"{path}: cannot read: {error.strerror}") from None
    if not path.stat().st_size:
        raise UserError(f"{path}: the file is empty")
    return file


def _decoded(content: bytes) -> str:
    """Text; the older sets are Latin-1."""
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError:
        return content.decode("latin-1")
