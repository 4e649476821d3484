"""Every table of the paper on the open worlds, beside the paper's own figures: ``python -m benchmarks.paper`` (``make paper``).

Runs the benchmarks below one after another and gathers what they write in ``docs/results``: Tables 1 and 2, γ and K on the
base and the hard world, Table 3, Figure 4, Table 4 and the attribution. Each file carries the command that made it, seeds,
the world's hash and versions. All are resumable: a stopped command goes on where it was. `--quick`: short forms into
``runs/benchmarks/docs_results``.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from benchmarks._results import KEPT, SCRATCH, parameters_hash
from cascade_world.config import WorldConfig
from marca_common.config import load_config, to_dict
from marca_common.run_folder import versions
from marca_common.tables import write_table

WORLDS = ("base", "hard")
# The paper's own figures where the benchmark's table does not bring them: column → value by the row's name.
PAPER: dict[str, tuple[str, dict[str, dict[str, float]]]] = {
    "table3": (
        "controller",
        {
            "paper_mu": {"feedback_bisection": 92.33, "feedback_pi": 92.33, "mpc_eq17": 95.29},
            "paper_nu": {"feedback_bisection": 2.91, "feedback_pi": 2.91, "mpc_eq17": 0.64},
        },
    ),
    "figure4": ("parameter", {"paper_choice": {"alpha": 0.4, "beta": 8.0, "horizon": 10.0}}),
}
DOCS, QUICK_DOCS = Path("docs/results"), Path("runs/benchmarks/docs_results")


@dataclass(frozen=True)
class Step:
    """One benchmark and what it leaves: file stem in the results folder → stem in docs/results."""

    module: str
    arguments: tuple[str, ...]
    files: dict[str, str]
    world: str | None = None  # config of the world, where it is an open one
    seeds: str = ""


def steps(quick: bool) -> list[Step]:
    """All steps, in order."""
    if quick:
        return [Step("table4", (), {"table4_quick": "table4", "attribution_quick": "attribution"})]
    found = []
    for world in WORLDS:
        stored = "" if world == "base" else f"_{world}_300000"
        for table, name in (("1", "table1"), ("2", "table2"), ("gamma", "gamma"), ("heads", "heads")):
            arguments = ("--table", table, "--world", f"configs/cascade_world/{world}.yaml")
            files = {f"table{table}{stored}": name if world == "base" else f"{name}_{world}"}
            found.append(Step("paper_tables", arguments, files, world, "100 101 102 103 104"))
    found.append(Step("table3", (), {"table3": "table3"}, None, "100 101 102 103 104"))
    found.append(Step("mpc_sensitivity", (), {"mpc_sensitivity": "figure4"}, None, "30 31"))
    table4 = {name: name for name in ("table4", "table4_leads", "table4_weeks", "attribution")}
    table4 |= {f"attribution_{world}": f"attribution_{world}" for world in WORLDS}
    return [*found, Step("table4", (), table4)]


def main() -> None:
    """Run every step, then gather."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="short forms, minutes")
    parser.add_argument("--gather", action="store_true", help="only gather what stands in benchmarks/results already")
    arguments = parser.parse_args()
    for step in steps(arguments.quick):
        words = ["-m", f"benchmarks.{step.module}", *step.arguments, "--quick" if arguments.quick else "--keep"]
        if not arguments.gather:
            print("== python", *words, flush=True)
            subprocess.run([sys.executable, *words], check=True)
        gather(step, "python " + " ".join(words), *((SCRATCH, QUICK_DOCS) if arguments.quick else (KEPT, DOCS)))


def gather(step: Step, command: str, source: Path, target: Path) -> None:
    """Copy a step's files; a table gets its command, seeds, world hash and versions where it lacks them."""
    target.mkdir(parents=True, exist_ok=True)
    for stem, name in step.files.items():
        for suffix in (".png", ".md"):
            if (source / f"{stem}{suffix}").exists():
                shutil.copyfile(source / f"{stem}{suffix}", target / f"{name}{suffix}")
        if not (source / f"{stem}.csv").exists():
            continue
        table = pd.read_csv(source / f"{stem}.csv")
        for column, value in provenance(step, command).items():
            if column not in table:
                table[column] = value
        row_name, columns = PAPER.get(name, ("", {}))
        for column, values in columns.items():
            table[column] = table[row_name].map(values)
        write_table(table, target / f"{name}.csv")


def provenance(step: Step, command: str) -> dict[str, str]:
    """What a table says about its own making."""
    known = versions()
    found = {"command": command, "versions": f"python {known['python']} numpy {known['numpy']} torch {known['torch']}"}
    if step.seeds:
        found["seeds_used"] = step.seeds
    if step.world is not None:
        config = to_dict(load_config(WorldConfig, f"configs/cascade_world/{step.world}.yaml", ["logs.requests=300000"]))
        found["world_hash"] = parameters_hash(config)
    return found


if __name__ == "__main__":
    main()
