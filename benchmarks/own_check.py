"""How long is a platform's log checked? `python -m benchmarks.own_check [--quick] [--keep]`.

The base world's logs, disguised as another platform's CSV files, with 100,000 and 1,000,000 requests. Each is checked in a process
of its own. Writes ``own_check.csv`` (`rows, megabytes, seconds, peak_mb, findings, seed`).
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pandas as pd

from benchmarks._results import add_keep
from cascade_world.config import WorldConfig
from marca_common.config import load_config
from marca_common.tables import write_table
from own_system.example import example

ROWS = [100_000, 1_000_000]
QUICK = [20_000]


def main() -> None:
    """Check logs of rising length and write own_check.csv."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="20,000 requests only")
    parser.add_argument("--world", default="configs/cascade_world/base.yaml", help="world whose logs are taken")
    parser.add_argument("--seed", type=int, default=100, help="its seed")
    add_keep(parser)
    arguments = parser.parse_args()
    table = []
    for rows in QUICK if arguments.quick else ROWS:
        table.append(measured(rows, arguments.world, arguments.seed))
        print(pd.DataFrame(table[-1:]).to_string(index=False, header=len(table) == 1), flush=True)
    write_table(pd.DataFrame(table), arguments.results / "own_check.csv")


def measured(rows: int, world: str, seed: int) -> dict[str, Any]:
    """One check in a process of its own: its time without starting Python, and the most memory."""
    config = load_config(WorldConfig, world, [f"logs.requests={rows}", f"seed={seed}", "truth.draws=20"])
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder)
        example(config, out)
        command = [sys.executable, "-m", "own_system.check", "--out", str(out / "check")]
        for role in ("requests", "minutes", "load_tests"):
            command += ["--set", f"{role}.file={out}/{role}.csv"]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        summary = json.loads((out / "check/summary.json").read_text(encoding="utf-8"))
        return {
            "rows": rows,
            "megabytes": round((out / "requests.csv").stat().st_size / 1e6, 1),
            "seconds": round(summary["wall_s"], 2),
            "peak_mb": round(summary["peak_rss_mb"]),
            "findings": summary["errors"] + summary["warnings_found"],
            "seed": seed,
        }


if __name__ == "__main__":
    main()
