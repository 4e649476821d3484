"""The example's foreign files, written once per test run from the shared small world."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.own_system.foreign import write_example


@pytest.fixture(scope="session")
def example(small_world: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with requests.csv, minutes.csv and load_tests.csv without a defect."""
    return write_example(small_world, tmp_path_factory.mktemp("foreign"))
