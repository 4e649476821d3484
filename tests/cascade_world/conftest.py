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
def users_config(make_config: Any) -> WorldConfig:
    """The world of users, tiny: 40 of them in three placements, 512 joint actions."""
    size = ["users.count=40", "users.late=0.25", "states.placements=[home, search, feed]", "states.segments=15"]
    logs = ["logs.requests=6000", "logs.days=14", "logs.system_days=0.1", "logs.loadtest_rounds=1"]
    plant = ["plant.weight=6000", "plant.states_per_hour=200", "truth.reference_states=40", "truth.draws=60"]
    config: WorldConfig = make_config(*size, *logs, *plant, path="configs/cascade_world/manifold.yaml")
    return config


@pytest.fixture(scope="session")
def world(make_config: Any) -> World:
    found = World(make_config())
    assert found.tables.draws == 100
    return found
