"""Mutants of a file: how they are made, and what the tests say of one in a process of its own."""

from __future__ import annotations

import difflib
import importlib
import importlib.util
import os
import signal
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.abc import Loader
from pathlib import Path
from typing import Any

import pytest

BREAKS = Path(__file__).with_name("hand_made_breaks.toml")
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

    source = Path(file).read_text(encoding="utf-8")
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
    for one in tomllib.loads(BREAKS.read_text(encoding="utf-8"))["break"]:
        source = Path(one["file"]).read_text(encoding="utf-8")
        assert source.count(one["old"]) == 1, f"hand_made_breaks.toml: {one['what']}: text not found once"
        line = source[: source.index(one["old"])].count("\n") + 1
        made.append(Mutant(one["file"], line, one["what"], source.replace(one["old"], one["new"])))
    return made


def outcome(mutant: Mutant, tests: list[str], limit: float, compiled: bool = False) -> tuple[str, str]:
    """``killed``, ``timeout`` or ``survived``, and the test that failed: pytest in a process of its own, for at most ``limit`` s.

    ``compiled``: with numba's compiler, whose stored code is that of other files only.
    """
    answer, told = os.pipe()
    child = os.fork()
    if child == 0:
        signal.setitimer(signal.ITIMER_REAL, limit)  # the alarm ends the process
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, 1)
        os.dup2(null, 2)
        numba: Any = importlib.import_module("numba")
        numba.config.DISABLE_JIT = not compiled
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
        source = self.mutant.source.replace("cache=True", "cache=False")  # what is stored is the unchanged file's
        exec(compile(source, self.mutant.file, "exec"), module.__dict__)
