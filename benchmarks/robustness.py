"""Malformed inputs over every program and reader: `python -m benchmarks.robustness [--quick] [--keep]`.

The inputs are those of ``tests/malformed``: a table of mutations of tables, configs, checkpoints, cost maps, policies, score
files and command lines, and tables drawn by hypothesis. Writes ``robustness.csv``, one row per area: how many were tried,
refused in one line with nothing written, and accepted rightly. ``tracebacks`` and ``silent`` (a bad input accepted) must be 0.
"""

from __future__ import annotations

import argparse
import logging
import sys
import tempfile
import time
from itertools import islice
from pathlib import Path

from benchmarks._results import add_keep
from marca_common.tables import write_table
from tests.malformed.cases import judged
from tests.malformed.everything import all_cases


def main() -> None:
    """Try them, write the table; exit code 1 where one did not go as it should."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="every tenth input")
    add_keep(parser)
    arguments = parser.parse_args()
    logging.disable(logging.WARNING)
    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        tally = judged(islice(all_cases(Path(folder)), 0, None, 10 if arguments.quick else 1))
    table = tally.table()
    write_table(table, arguments.results / f"robustness{'_quick' if arguments.quick else ''}.csv")
    print(*tally.failures, sep="\n")
    print(table.to_string(index=False))
    print(f"{table['tried'].sum()} inputs in {time.perf_counter() - started:.0f} s")
    sys.exit(int(bool(tally.failures)))


if __name__ == "__main__":
    main()
