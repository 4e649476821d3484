"""One finished run of the whole loop on the small world, for the slow tests here."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.marca_loop.whole_run import run


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Its run folder; what only ``test_loop_orchestrate.py`` changes, its last file, is the stage ``day``."""
    out = tmp_path_factory.mktemp("whole") / "run"
    done = run(out, "world.truth.cache=null")
    assert done.returncode == 0, done.stderr[-3000:]
    return out
