"""How long are a platform's logs checked, and the whole loop run on them? `python -m benchmarks.own_check [--quick] [--keep]`.

The base world's logs, disguised as another platform's CSV files, with 100,000 and 1,000,000 requests. ``check`` is
`python -m own_system.check`; ``loop`` is `own_system.translate` and `orchestrate.py` with the settings for real work,
which end with the signed uplift. Each is a process of its own. Writes ``own_check.csv`` (`rows, megabytes, step, seconds, peak_mb, findings, seed`).
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd

from benchmarks._results import add_keep
from cascade_world.config import WorldConfig
from marca_common.config import load_config
from marca_common.files import read_json
from marca_common.tables import write_table
from own_system.example import example

ROWS = [100_000, 1_000_000]
QUICK = [20_000]
ROLES = ("requests", "minutes", "load_tests")


def main() -> None:
    """Check logs of rising length, run the loop on them, and write own_check.csv."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="20,000 requests, and the loop of the fast test")
    parser.add_argument("--rows", type=int, nargs="+", help=f"requests; by default {ROWS}")
    parser.add_argument("--world", default="configs/cascade_world/base.yaml", help="world whose logs are taken")
    parser.add_argument("--seed", type=int, default=100, help="its seed")
    add_keep(parser)
    arguments = parser.parse_args()
    loop = "configs/smoke.yaml" if arguments.quick else "configs/own_loop.yaml"
    table: list[dict[str, Any]] = []
    for rows in arguments.rows or (QUICK if arguments.quick else ROWS):
        for one in measured(rows, arguments.world, arguments.seed, loop):
            table.append(one)
            print(pd.DataFrame(table[-1:]).to_string(index=False, header=len(table) == 1), flush=True)
            write_table(pd.DataFrame(table), arguments.results / "own_check.csv")


def measured(rows: int, world: str, seed: int, loop: str) -> Iterator[dict[str, Any]]:
    """A check and a loop in processes of their own: time, that of starting Python included, and the most memory."""
    config = load_config(WorldConfig, world, [f"logs.requests={rows}", f"seed={seed}", "truth.draws=20"])
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder)
        example(config, out)
        files = [part for role in ROLES for part in ("--set", f"{role}.file={out}/{role}.csv")]
        known = {"rows": rows, "megabytes": round((out / "requests.csv").stat().st_size / 1e6, 1), "seed": seed}
        seconds = _seconds("own_system.check", *files, "--out", f"{out}/check")
        summary = read_json(out / "check/summary.json")
        findings = summary["errors"] + summary["warnings_found"]
        yield known | {
            "step": "check",
            "seconds": seconds,
            "peak_mb": round(summary["peak_rss_mb"]),
            "findings": findings,
        }
        seconds = _seconds("own_system.translate", *files, "--set", f"loop={loop}", "--out", f"{out}/own")
        seconds += _seconds("orchestrate", "--config", f"{out}/own/loop.yaml", "--out", f"{out}/run")
        yield known | {
            "step": "loop",
            "seconds": seconds,
            "peak_mb": round(read_json(out / "run/summary.json")["peak_rss_mb"]),
        }


def _seconds(module: str, *arguments: str) -> float:
    """A program's wall time; its output is only of interest where it fails."""
    started = time.perf_counter()
    subprocess.run([sys.executable, "-m", module, *arguments], check=True, stdout=subprocess.DEVNULL)
    return round(time.perf_counter() - started, 1)


if __name__ == "__main__":
    main()
