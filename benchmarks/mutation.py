"""Do the tests notice a fault? ``python -m benchmarks.mutation [--quick] [--only PATH] [--sample 75]`` (needs ``.[mutation]``).

mutmut's operators change one place of a file: a number, a sign, a comparison, an argument, a string. The file's own fast tests run
on each such mutant, in a process forked from one that has imported the libraries, without numba's compiler but for allocation. A
mutant that fails a test, or runs ten times as long, is killed. Files with many mutants are sampled with a fixed seed, allocation at a
third of the rate. Figures, annotations and decorators are left alone. The faults of ``hand_made_breaks.toml`` are tried, too.

Writes ``mutation.csv``, ``mutation_survivors.csv`` (with the reason where nobody could notice, from ``equivalent_mutants.toml``) and
``hand_made_breaks.csv``. With ``--only`` the rows of other files stay as they are.
"""

from __future__ import annotations

import argparse
import gc
import importlib
import importlib.util
import os
import time
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
from hypothesis import Phase, settings

from benchmarks._mutants import Mutant, breaks, mutants_of, outcome
from benchmarks._results import add_keep
from marca_common.progress import progress
from marca_common.seeding import numpy_generator
from marca_common.tables import write_table

BREAKS = "hand-made breaks"
COMPILED = "revenue_sim/allocation/"  # intrinsics of the compiler, and too much to do without it
EQUIVALENT = Path(__file__).with_name("equivalent_mutants.toml")
PRELOADED = ("torch", "lightgbm", "numba", "pyarrow.parquet", "scipy.optimize", "scipy.stats", "matplotlib.pyplot")
AWRQ = [f"tests/awrq_mixer/test_awrq_{topic}.py" for topic in ("equations", "breaks", "mixers", "networks")]
MEASURES = "tests/marca_measures/test_measures_"
ALLOCATE, SEVERAL = (
    [f"tests/revenue_sim/test_{name}.py" for name in ("allocate_parts", more)] for more in ("allocate", "several")
)
OFF_POLICY = [f"tests/revenue_sim/test_off_policy{part}.py" for part in ("_limits", "")]
TESTS = {  # what is mutated, and the fast tests that are asked
    BREAKS: [*AWRQ, "tests/awrq_mixer/test_awrq_latent_classes.py"],
    "awrq_mixer/equations.py": AWRQ,
    "awrq_mixer/networks/mixers.py": AWRQ,
    "awrq_mixer/networks/mixing_kernels.py": AWRQ,
    "marca_measures/calibration.py": [f"{MEASURES}calibration.py"],
    "marca_measures/clairvoyant.py": [f"{MEASURES}clairvoyant.py"],
    "marca_measures/deviance.py": AWRQ[:1],
    "marca_measures/frontier.py": [f"{MEASURES}frontier.py"],
    "marca_measures/hull.py": [f"{MEASURES}hull.py"],
    "marca_measures/rank_correlation.py": [f"{MEASURES}ranks.py"],
    "marca_measures/static_mixture.py": [f"{MEASURES}mixture.py"],
    "mpc_balancer/planning/objective.py": ["tests/mpc_balancer/test_mpc_objective.py"],
    "mpc_balancer/testbed/run_metrics.py": ["tests/mpc_balancer/test_mpc_run_metrics.py"],
    "revenue_sim/allocation/budget_curve.py": ALLOCATE,
    "revenue_sim/allocation/core_kernels.py": ALLOCATE,
    "revenue_sim/allocation/hull_kernels.py": ALLOCATE,
    "revenue_sim/allocation/level_bundle.py": SEVERAL,
    "revenue_sim/allocation/one_budget.py": ALLOCATE,
    "revenue_sim/allocation/priced_rows.py": SEVERAL,
    "revenue_sim/allocation/repair.py": SEVERAL,
    "revenue_sim/allocation/result.py": ALLOCATE,
    "revenue_sim/allocation/several_budgets.py": SEVERAL,
    "revenue_sim/allocation/whole_rows.py": ALLOCATE,
    "revenue_sim/judging/return_pct.py": ["tests/revenue_sim/test_return_pct.py"],
    "revenue_sim/off_policy/estimate.py": OFF_POLICY,
    "revenue_sim/off_policy/estimators.py": OFF_POLICY,
    "revenue_sim/off_policy/intervals.py": OFF_POLICY,
    "revenue_sim/off_policy/logged.py": OFF_POLICY,
    "revenue_sim/off_policy/support.py": OFF_POLICY,
}


def tried(mutants: list[Mutant], tests: list[str]) -> Iterator[dict[str, Any]]:
    """One row a mutant; AssertionError where the tests fail without any change."""
    started = time.perf_counter()
    unchanged = Mutant(mutants[0].file, 0, "", Path(mutants[0].file).read_text(encoding="utf-8"))
    compiled = mutants[0].file.startswith(COMPILED)
    assert outcome(unchanged, tests, 300.0, compiled) == ("survived", ""), f"{tests}: fail on unchanged code"
    limit = 10 * (time.perf_counter() - started)
    for one in progress(mutants, what=mutants[0].file.split("/")[-1], total=len(mutants), unit="mutant"):
        result, noticed_by = outcome(one, tests, limit, compiled)
        yield {"file": one.file, "line": one.line, "change": one.change, "outcome": result, "noticed_by": noticed_by}


def sampled(file: str, most: int) -> tuple[list[Mutant], int]:
    """At most ``most`` mutants of a file, drawn with a seed of its name, and how many there are."""
    every, most = breaks() if file == BREAKS else mutants_of(file), most // 3 if file.startswith(COMPILED) else most
    drawn = numpy_generator(0, "mutants", file).choice(len(every), min(most, len(every)), replace=False)
    return [every[i] for i in sorted(drawn)], len(every)


def score(file: str, found: pd.DataFrame, possible: int, cpu_s: float) -> dict[str, Any]:
    """A file's row of ``mutation.csv``."""
    row: dict[str, Any] = {"file": file, "possible": possible, "mutants": len(found)}
    row["killed"] = int((found["outcome"] != "survived").sum())
    row["timeouts"] = int((found["outcome"] == "timeout").sum())
    row |= {"survived": len(found) - row["killed"], "equivalent": int((found["why"] != "").sum())}
    return row | percentages(row) | {"cpu_s": round(cpu_s)}


def percentages(row: dict[str, Any]) -> dict[str, float]:
    """``score_pct`` counts equivalent mutants as survivors, ``without_equivalent_pct`` leaves them out."""
    killed, mutants = 100.0 * row["killed"], row["mutants"]
    return {
        "score_pct": round(killed / mutants, 1),
        "without_equivalent_pct": round(killed / (mutants - row["equivalent"]), 1),
    }


def measure(file: str, most: int, results: Path) -> dict[str, Any]:
    """Try a file's mutants and put its rows into the tables of ``results``."""
    before = sum(os.times()[:4])
    mutants, possible = sampled(file, most)
    found = pd.DataFrame(tried(mutants, TESTS[file]))
    known = tomllib.loads(EQUIVALENT.read_text(encoding="utf-8")).get(file, {})
    found["why"] = [known.get(one.change, "") if one.outcome == "survived" else "" for one in found.itertuples()]
    row = score(file, found, possible, sum(os.times()[:4]) - before)
    if file == BREAKS:
        write_table(found[["change", "file", "outcome", "noticed_by"]], results / "hand_made_breaks.csv")
    else:
        survivors = found.loc[found["outcome"] == "survived", ["file", "line", "change", "why"]]
        replace_rows(results / "mutation_survivors.csv", file, survivors)
    replace_rows(results / "mutation.csv", file, pd.DataFrame([row]))
    return row


def replace_rows(path: Path, file: str, rows: pd.DataFrame) -> None:
    """A table with new rows of one file, in the order of ``TESTS``."""
    if path.exists():
        old = pd.read_csv(path, keep_default_na=False)
        rows = pd.concat([old[~old["file"].isin([file, "all"])], rows])
    write_table(rows.sort_values("file", key=lambda names: names.map([*TESTS].index), kind="stable"), path)


def add_total(path: Path) -> dict[str, Any]:
    """The row of all files together, without the faults made by hand."""
    table = pd.read_csv(path)
    numbers = table[table["file"] != BREAKS].drop(columns=["file", "score_pct", "without_equivalent_pct"])
    total = {"file": "all", **{name: int(numbers[name].sum()) for name in numbers}}
    total |= percentages(total)
    write_table(pd.concat([table, pd.DataFrame([total])]), path)
    return total


def main() -> None:
    """Make the mutants, ask the tests, write the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a dozen mutants of one file")
    parser.add_argument("--only", default="", help="only files whose path holds this text")
    parser.add_argument("--sample", type=int, default=75, help="most mutants of one file")
    add_keep(parser)
    arguments = parser.parse_args()
    if importlib.util.find_spec("mutmut") is None:
        message = "mutmut is missing; expected: pip install -e '.[test,mutation]'"
        return print(f"left out: {message}") if arguments.quick else parser.error(message)
    os.environ |= {"OMP_NUM_THREADS": "1", "MPLBACKEND": "agg"}
    settings.register_profile("mutation", derandomize=True, database=None, phases=[Phase.explicit, Phase.generate])
    settings.load_profile("mutation")
    for name in PRELOADED:
        importlib.import_module(name)
    gc.freeze()  # children collect their own garbage only
    for file in ["marca_measures/deviance.py"] if arguments.quick else [one for one in TESTS if arguments.only in one]:
        print(measure(file, 12 if arguments.quick else arguments.sample, arguments.results), flush=True)
    print(add_total(arguments.results / "mutation.csv"))


if __name__ == "__main__":
    main()
