"""The whole loop on the small world, as a command."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

REPOSITORY = Path(__file__).parents[2]
SMOKE = REPOSITORY / "configs/smoke.yaml"


def command(out: Path, *overrides: str) -> list[str]:
    """``orchestrate.py`` on the smoke config."""
    sets = [part for override in overrides for part in ("--set", override)]
    return [sys.executable, "orchestrate.py", "--config", str(SMOKE), "--out", str(out), *sets]


def run(out: Path, *overrides: str) -> subprocess.CompletedProcess[str]:
    """Run it to its end."""
    return subprocess.run(command(out, *overrides), cwd=REPOSITORY, capture_output=True, text=True, check=False)
