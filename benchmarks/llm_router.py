"""Which language model answers which prompt, on public data: ``python -m benchmarks.llm_router FOLDER … [--quick] [--keep]``.

Each folder holds prompts in a format of ``examples.llm_router``; without one there is nothing to measure. Writes llm_router.csv
(held-out prompts), llm_router_cross_validated.csv (training prompts, by fits that were not given them) and llm_router.png.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import pandas as pd

from benchmarks._results import add_keep
from benchmarks._script import script
from examples.llm_router.config import RouterConfig
from examples.llm_router.router_figure import accuracy_figure
from examples.llm_router.run import run
from marca_common.config import load_config
from marca_common.tables import write_table

SEED = 100


def main(argv: list[str] | None = None) -> None:
    """Run the example on every folder and put the tables together."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="*")
    parser.add_argument("--quick", action="store_true", help="two folds, and 200 draws for the intervals")
    add_keep(parser)
    arguments = parser.parse_args(argv)
    if not arguments.folders:
        print("no folder of prompts was named: nothing to measure")
        return
    sets = [f"seed={SEED}", *(["folds=2", "bootstrap_draws=200"] if arguments.quick else [])]
    found = []
    for folder in arguments.folders:
        config = load_config(RouterConfig, "configs/other_computation/llm_router.yaml", [*sets, f"data={folder}"])
        found.append(run(config, Path("runs/benchmarks/llm_router") / Path(folder).name))
    table = pd.concat([one.table for one in found], ignore_index=True)
    within = pd.concat([one.cross_validated for one in found], ignore_index=True)
    write_table(table.round(4), arguments.results / "llm_router.csv")
    write_table(within.round(4), arguments.results / "llm_router_cross_validated.csv")
    accuracy_figure(table, arguments.results / "llm_router.png")
    routed = table[table["strategy"] == "router"].drop(columns="strategy")
    print(routed.round(3).to_string(index=False))


if __name__ == "__main__":
    script(main)
