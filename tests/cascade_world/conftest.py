"""One small world for all tests of the room."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from cascade_world.config import WorldConfig
from cascade_world.world import World
from marca_common.config import load_config

SMALL = "configs/cascade_world/small.yaml"


@pytest.fixture(scope="session")
def truth_cache(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return tmp_path_factory.mktemp("truth_cache")


@pytest.fixture(scope="session")
def make_config(truth_cache: Path) -> Any:
    """A function: small world's config with overrides, its truths cached for the session."""

    def make(*overrides: str, path: str = SMALL) -> WorldConfig:
        return load_config(WorldConfig, path, [f"truth.cache={truth_cache}", "truth.draws=100", *overrides])

    return make


@pytest.fixture(scope="session")
def world(make_config: Any) -> World:
    found = World(make_config())
    assert found.tables.draws == 100
    return found
