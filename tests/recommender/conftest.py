"""One tiny build for all tests of the room."""

from __future__ import annotations

from pathlib import Path

import pytest

from marca_common.config import load_config
from recommender.build import build
from recommender.build_parts import Parts, load_people
from recommender.config import RecommenderConfig
from tests.recommender.tiny_movielens import tiny_ratings, write_100k

SHIPPED = "configs/recommender/movielens.yaml"
TINY = [
    "models.light_factors=4", "models.heavy_factors=8", "models.als_sweeps=3", "models.neighbours=8", "models.trees=8",
    "models.candidates=12", "models.sequence=12", "models.width=8", "models.epochs=2", "models.light_recent=2", "split.tiers=3", "split.tastes=4",
    "actions.a2.levels=[3, 8, 20]", "actions.a3.levels=[2, 5, 20]", "actions.a5.levels=[5, 9, 25]", "page.slots=6",
    "cost.rounds=2", "cost.visits=1", "log.draws=4",
]  # fmt: skip


def tiny_config(folder: Path, *overrides: str) -> RecommenderConfig:
    return load_config(RecommenderConfig, SHIPPED, [f"data.folder={folder}", *TINY, *overrides])


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_100k(tmp_path_factory.mktemp("movielens"), tiny_ratings())


@pytest.fixture(scope="session")
def parts(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Parts:
    """The parts of a finished build."""
    config = tiny_config(tiny_folder)
    out = build(config, tmp_path_factory.mktemp("recommender") / "run").folder
    return Parts(config, out, load_people(config))
