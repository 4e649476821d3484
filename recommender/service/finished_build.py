"""A finished build, opened for reading."""

from __future__ import annotations

from pathlib import Path

from marca_common.config import load_config
from marca_common.errors import UserError
from recommender.build_parts import MODELS_FILE, Parts, load_people
from recommender.config import RecommenderConfig


def open_build(folder: Path) -> Parts:
    """The parts of a finished ``recommender.build``; a UserError where the folder holds none."""
    for name in ("summary.json", "config.yaml", MODELS_FILE):
        if not (folder / name).is_file():
            raise UserError(
                f"build: {folder} has no {name}; expected a finished build (python -m recommender.build --out {folder})"
            )
    config = load_config(RecommenderConfig, folder / "config.yaml")
    return Parts(config, folder, load_people(config))
