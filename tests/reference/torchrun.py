"""Programs started as two ranks by ``torchrun``."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

REPOSITORY = Path(__file__).parents[2]
GROUP = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]


def torchrun(*words: str) -> subprocess.CompletedProcess[str]:
    """Two ranks of a script or of ``-m module``, once both have ended."""
    place = os.environ | {"PYTHONPATH": ".", "OMP_NUM_THREADS": "1"}
    return subprocess.run([*GROUP, *words], cwd=REPOSITORY, env=place, capture_output=True, text=True, check=False)


def one_error(*words: str) -> str:
    """The one line that a group says which fails."""
    done = torchrun(*words)
    assert done.returncode != 0
    said = [line for line in done.stderr.splitlines() if line.startswith("error:")]
    assert len(said) == 1, done.stderr
    return said[0]
