"""Where a benchmark's tables and figures go: ``runs/benchmarks/results``, or with ``--keep`` the stored ones of this folder."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from marca_common.config import content_hash

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


def parameters_hash(world: dict[str, Any]) -> str:
    """Hash of a world's config as plain values, but for its seed and workers.

    Worlds of classes have no ``users``, and no such key when the first hashes were stored.
    """
    kept = {key: one for key, one in world.items() if key not in ("seed", "workers") and (key, one) != ("users", None)}
    return content_hash(kept)[:12]
