"""Where a benchmark's tables and figures go: ``runs/benchmarks/results``, or with ``--keep`` the stored ones of this folder."""

from __future__ import annotations

import argparse
from pathlib import Path

KEPT = Path(__file__).parent / "results"
SCRATCH = Path("runs/benchmarks/results")


def add_keep(parser: argparse.ArgumentParser) -> None:
    """``--keep``; ``arguments.results`` is the folder to write to."""
    parser.add_argument(
        "--keep",
        dest="results",
        action="store_const",
        const=KEPT,
        default=SCRATCH,
        help=f"replace the stored results in benchmarks/results; without it they go to {SCRATCH}",
    )
    SCRATCH.mkdir(parents=True, exist_ok=True)
