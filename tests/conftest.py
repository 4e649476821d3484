"""What tests of several rooms share: one small world, generated once per test run."""

from __future__ import annotations

import fcntl
import os
import signal
from pathlib import Path

os.environ.update(OMP_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1")  # two workers share two cores; programs inherit it

import hypothesis
import pytest

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # a script started us in the background: Ctrl-C tests would hang
    signal.signal(signal.SIGINT, signal.default_int_handler)

hypothesis.settings.register_profile("repeatable", derandomize=True, database=None, deadline=None)
hypothesis.settings.load_profile("repeatable")  # `--hypothesis-profile=default` explores

REPOSITORY = Path(__file__).parents[1]


@pytest.fixture(scope="session")
def small_world(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> Path:
    """Run folder of ``configs/cascade_world/small.yaml``; parallel test workers share it."""
    from cascade_world.config import WorldConfig
    from cascade_world.generate import generate
    from marca_common.config import load_config

    root = tmp_path_factory.getbasetemp()
    root = root if worker_id == "master" else root.parent
    config = load_config(WorldConfig, REPOSITORY / "configs/cascade_world/small.yaml", ["truth.cache=null"])
    with (root / "small_world.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # a second worker waits, then finds everything done
        generate(config, root / "small_world")
    return root / "small_world"
