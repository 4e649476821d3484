"""Tiny synthetic sets in every format that MovieLens comes in."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

GENRES = ["Action", "Comedy", "Drama", "War"]
_FLAGS = ["unknown", "Action", "Adventure", "Animation", "Children's", "Comedy", "Crime", "Documentary", "Drama"]
_FLAGS += ["Fantasy", "Film-Noir", "Horror", "Musical", "Mystery", "Romance", "Sci-Fi", "Thriller", "War", "Western"]


def tiny_ratings(users: int = 24, films: int = 60, each: int = 40, seed: int = 0) -> pd.DataFrame:
    """Users of four tastes rate films of four genres over some days, several films a second now and then."""
    generator = np.random.default_rng(seed)
    rows = []
    for user in range(users):
        time = 880_000_000 + int(generator.integers(0, 30 * 86400))
        for film in generator.choice(films, each, replace=False):
            time += int(generator.choice([0, 30, 3000, 90_000]))
            likes = generator.random() < (0.85 if film % 4 == user % 4 else 0.2)
            rows.append((user + 1, int(film) + 1, 4 + int(generator.integers(2)) if likes else 2, time))
    frame = pd.DataFrame(rows, columns=["user", "film", "stars", "time"])
    return frame.sample(frac=1, random_state=seed, ignore_index=True)


def write_100k(folder: Path, frame: pd.DataFrame, films: int = 60) -> Path:
    """``u.data`` and ``u.item``, Latin-1."""
    folder.mkdir(parents=True, exist_ok=True)
    frame.to_csv(folder / "u.data", sep="\t", header=False, index=False)
    lines = []
    for film in range(films):
        flags = "|".join("1" if name == GENRES[film % 4] else "0" for name in _FLAGS)
        lines.append(f"{film + 1}|Café {film + 1} (1995)|01-Jan-1995||http://none|{flags}\n")
    (folder / "u.item").write_bytes("".join(lines).encode("latin-1"))
    return folder


def write_1m(folder: Path, frame: pd.DataFrame, films: int = 60) -> Path:
    """``ratings.dat`` and ``movies.dat`` with ``::``."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = ["::".join(map(str, row)) + "\n" for row in frame.to_numpy()]
    (folder / "ratings.dat").write_text("".join(lines))
    names = [f"{film + 1}::Café: {film + 1} (1995)::{GENRES[film % 4]}\n" for film in range(films)]
    (folder / "movies.dat").write_bytes("".join(names).encode("latin-1"))
    return folder


def write_20m(folder: Path, frame: pd.DataFrame, films: int = 60) -> Path:
    """``ratings.csv`` and ``movies.csv``, half stars."""
    folder.mkdir(parents=True, exist_ok=True)
    named = frame.set_axis(["userId", "movieId", "rating", "timestamp"], axis=1)
    named.assign(rating=named["rating"].astype(float)).to_csv(folder / "ratings.csv", index=False)
    lines = [f'{film + 1},"Café, {film + 1} (1995)",{GENRES[film % 4]}\n' for film in range(films)]
    (folder / "movies.csv").write_text("movieId,title,genres\n" + "".join(lines), encoding="utf-8")
    return folder


def write_recbole(folder: Path, frame: pd.DataFrame, films: int = 60) -> Path:
    """``ml-100k.inter`` and ``ml-100k.item``."""
    folder.mkdir(parents=True, exist_ok=True)
    names = ["user_id:token", "item_id:token", "rating:float", "timestamp:float"]
    frame.set_axis(names, axis=1).to_csv(folder / "ml-100k.inter", sep="\t", index=False)
    lines = [f"{film + 1}\tCafé {film + 1}\t1995\t{GENRES[film % 4]}\n" for film in range(films)]
    header = "item_id:token\tmovie_title:token_seq\trelease_year:token\tclass:token_seq\n"
    (folder / "ml-100k.item").write_text(header + "".join(lines), encoding="utf-8")
    return folder


WRITERS = {"100k": write_100k, "1m": write_1m, "20m": write_20m, "recbole": write_recbole}
