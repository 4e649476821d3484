"""Do the tests notice a fault? ``python -m benchmarks.mutation [--quick] [--only PATH] [--sample 150]`` (needs ``.[mutation]``).

mutmut's operators change one place of a file: a number, a sign, a comparison, an argument, a string. The file's fast tests run
on each such mutant, in a process forked from one that has imported the libraries, without numba's compiler. A mutant that fails
a test, or runs ten times as long, is killed. Large files are sampled with a fixed seed. Figures, annotations and decorators are
left alone. The faults of ``hand_made_breaks.toml`` are tried, too. Writes ``mutation.csv`` and ``mutation_survivors.csv``, which
says of some survivors why nobody could notice them (``equivalent_mutants.toml``).
"""

from __future__ import annotations

import argparse
import difflib
import gc
import importlib
import importlib.util
import os
import signal
import sys
import time
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.abc import Loader
from pathlib import Path
from typing import Any

os.environ |= {"NUMBA_DISABLE_JIT": "1", "OMP_NUM_THREADS": "1", "MPLBACKEND": "agg"}  # before anything is imported

import pandas as pd
import pytest
from hypothesis import Phase, settings

from benchmarks._results import add_keep
from marca_common.progress import progress
from marca_common.seeding import numpy_generator
from marca_common.tables import write_table

HERE = Path(__file__).parent
BREAKS = "hand-made breaks"
PRELOADED = ("torch", "lightgbm", "numba", "pyarrow.parquet", "scipy.optimize", "scipy.stats", "matplotlib.pyplot")
AWRQ = [f"tests/awrq_mixer/test_awrq_{topic}.py" for topic in ("equations", "breaks", "mixers", "networks")]
MEASURES = "tests/marca_measures/test_measures_"
TESTS = {  # what is mutated, and the fast tests that are asked
    BREAKS: [*AWRQ, "tests/awrq_mixer/test_awrq_plus.py"],
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
    "revenue_sim/judging/return_pct.py": ["tests/revenue_sim/test_return_pct.py"],
}
PLUGINS = [f"-pno:{name}" for name in ("cacheprovider", "xdist", "unraisableexception", "threadexception")]


@dataclass
class Mutant:
    """A file with one change."""

    file: str
    line: int
    change: str
    source: str


def mutants_of(file: str) -> list[Mutant]:
    """Every mutant of a file, in order of its lines."""
    import libcst as cst
    from mutmut.mutation.mutators import mutation_operators

    def nodes(node: Any) -> Iterator[Any]:
        figure = isinstance(node, cst.FunctionDef) and node.name.value.endswith("_figure")
        if not (figure or isinstance(node, (cst.Annotation, cst.Decorator, cst.Import, cst.ImportFrom))):
            yield node
            for child in node.children:
                yield from nodes(child)

    source = Path(file).read_text()
    module, made = cst.parse_module(source), {}
    for node in nodes(module):
        for kind, operator in mutation_operators:
            for changed in operator(node) if isinstance(node, kind) else ():
                text = module.deep_replace(node, changed).code
                made[text] = _change(source, text)
    return [Mutant(file, line, change, text) for text, (line, change) in sorted(made.items(), key=lambda one: one[1])]


def _change(before: str, after: str) -> tuple[int, str]:
    """First changed line, and its texts before and after."""
    old, new = before.splitlines(), after.splitlines()
    for tag, i, j, k, m in difflib.SequenceMatcher(None, old, new, autojunk=False).get_opcodes():
        if tag != "equal":
            return i + 1, f"{' '.join(''.join(old[i:j]).split())}  =>  {' '.join(''.join(new[k:m]).split())}"
    return 0, ""


def breaks() -> list[Mutant]:
    """The faults made by hand."""
    made = []
    for one in tomllib.loads((HERE / "hand_made_breaks.toml").read_text())["break"]:
        source = Path(one["file"]).read_text()
        assert source.count(one["old"]) == 1, f"hand_made_breaks.toml: {one['what']}: text not found once"
        line = source[: source.index(one["old"])].count("\n") + 1
        made.append(Mutant(one["file"], line, one["what"], source.replace(one["old"], one["new"])))
    return made


def outcome(mutant: Mutant, tests: list[str], limit: float) -> tuple[str, str]:
    """``killed``, ``timeout`` or ``survived``, and the test that failed: pytest in a process of its own, for at most ``limit`` s."""
    answer, told = os.pipe()
    child = os.fork()
    if child == 0:
        signal.setitimer(signal.ITIMER_REAL, limit)  # the alarm ends the process
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, 1)
        os.dup2(null, 2)
        sys.meta_path.insert(0, _Finder(mutant))
        os._exit(int(pytest.main(["-x", "-q", "-m", "not slow", *PLUGINS, *tests], [_Failures(told)])))
    _, status = os.waitpid(child, 0)
    os.close(told)
    with os.fdopen(answer) as pipe:
        noticed_by = pipe.read().split("\n")[0]
    if os.WIFSIGNALED(status):
        return "timeout" if os.WTERMSIG(status) == signal.SIGALRM else "killed", noticed_by
    return "killed" if os.WEXITSTATUS(status) else "survived", noticed_by


class _Failures:
    """Tells the names of failed tests, and of files that could not be read, through a pipe."""

    def __init__(self, told: int) -> None:
        self.told = told

    def pytest_runtest_logreport(self, report: Any) -> None:
        """A test."""
        if report.failed:
            os.write(self.told, f"{report.nodeid}\n".encode())

    pytest_collectreport = pytest_runtest_logreport


class _Finder(Loader):
    """Gives out the mutant's source in place of its file."""

    def __init__(self, mutant: Mutant) -> None:
        self.name, self.mutant = mutant.file.removesuffix(".py").replace("/", "."), mutant

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
        """A spec for the mutated module only."""
        return (
            importlib.util.spec_from_file_location(name, self.mutant.file, loader=self) if name == self.name else None
        )

    def create_module(self, spec: Any) -> None:
        """The usual one."""

    def exec_module(self, module: Any) -> None:
        """Run the changed source."""
        exec(compile(self.mutant.source, self.mutant.file, "exec"), module.__dict__)


def tried(mutants: list[Mutant], tests: list[str]) -> Iterator[dict[str, Any]]:
    """One row a mutant, its ``outcome`` included; AssertionError where the tests fail without any change."""
    started = time.perf_counter()
    unchanged = Mutant(mutants[0].file, 0, "", Path(mutants[0].file).read_text())
    assert outcome(unchanged, tests, 300.0) == ("survived", ""), f"{tests}: fail on unchanged code"
    limit = 10 * (time.perf_counter() - started)
    for one in progress(mutants, what=mutants[0].file.split("/")[-1], total=len(mutants), unit="mutant"):
        result, noticed_by = outcome(one, tests, limit)
        yield {"file": one.file, "line": one.line, "change": one.change, "outcome": result, "noticed_by": noticed_by}


def sampled(file: str, most: int) -> tuple[list[Mutant], int]:
    """At most ``most`` mutants of a file, drawn with a seed of its name, and how many there are."""
    every = breaks() if file == BREAKS else mutants_of(file)
    drawn = numpy_generator(0, "mutants", file).choice(len(every), min(most, len(every)), replace=False)
    return [every[i] for i in sorted(drawn)], len(every)


def score(file: str, found: pd.DataFrame, possible: int, cpu_s: float) -> dict[str, Any]:
    """A file's row of ``mutation.csv``; ``score_pct`` counts equivalent mutants as survivors, the next column leaves them out."""
    mutants, survived, equivalent = (
        len(found),
        int((found["outcome"] == "survived").sum()),
        int((found["why"] != "").sum()),
    )
    return {
        "file": file,
        "possible": possible,
        "mutants": mutants,
        "killed": mutants - survived,
        "timeouts": int((found["outcome"] == "timeout").sum()),
        "survived": survived,
        "equivalent": equivalent,
        "score_pct": round(100 * (mutants - survived) / mutants, 1),
        "without_equivalent_pct": round(100 * (mutants - survived) / max(mutants - equivalent, 1), 1),
        "cpu_s": round(cpu_s),
    }


def main() -> None:
    """Make the mutants, ask the tests, write the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a dozen mutants of one file")
    parser.add_argument("--only", default="", help="only files whose path holds this text")
    parser.add_argument("--sample", type=int, default=100, help="most mutants of one file")
    add_keep(parser)
    arguments = parser.parse_args()
    if importlib.util.find_spec("mutmut") is None:
        message = "mutmut is missing; expected: pip install -e '.[test,mutation]'"
        return print(f"left out: {message}") if arguments.quick else parser.error(message)
    settings.register_profile("mutation", derandomize=True, database=None, phases=[Phase.explicit, Phase.generate])
    settings.load_profile("mutation")
    for name in PRELOADED:
        importlib.import_module(name)
    gc.freeze()  # children collect their own garbage only
    known = tomllib.loads((HERE / "equivalent_mutants.toml").read_text())
    files = ["marca_measures/deviance.py"] if arguments.quick else [file for file in TESTS if arguments.only in file]
    rows, tables = [], []
    for file in files:
        before = os.times()
        mutants, possible = sampled(file, 12 if arguments.quick else arguments.sample)
        found = pd.DataFrame(tried(mutants, TESTS[file]))
        reasons = found["change"].map(lambda change, file=file: known.get(file, {}).get(change, ""))
        tables.append(found.assign(why=reasons.where(found["outcome"] == "survived", "")))
        after = os.times()
        spent = sum(after[:4]) - sum(before[:4])
        rows.append(score(file, tables[-1], possible, spent))
        print(rows[-1], flush=True)
    every = pd.concat(tables)
    rows.append(score("all", every, sum(row["possible"] for row in rows), sum(row["cpu_s"] for row in rows)))
    print(rows[-1])
    write_table(pd.DataFrame(rows), arguments.results / "mutation.csv")
    survivors = every[every["outcome"] == "survived"]
    write_table(survivors[["file", "line", "change", "why"]], arguments.results / "mutation_survivors.csv")
    if BREAKS in files:
        table = tables[files.index(BREAKS)]
        write_table(table[["change", "file", "outcome", "noticed_by"]], arguments.results / "hand_made_breaks.csv")


if __name__ == "__main__":
    main()
