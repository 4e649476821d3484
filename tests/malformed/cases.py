"""One malformed (or odd but sound) input, and what became of it."""

from __future__ import annotations

import io
import shutil
from collections.abc import Callable, Iterable
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import pandas as pd

from marca_common.cli import run_cli
from marca_common.errors import UserError

Expected = Literal["refused", "accepted", "either"]
OUTCOMES = ("refused", "accepted_rightly", "tracebacks", "silent", "refused_wrongly")


@dataclass(frozen=True)
class Case:
    """An input, how to try it and what has to happen. ``attempt`` returns what was made of it, or raises UserError."""

    area: str
    place: str  # the reader, or the program and its argument
    kind: str
    expected: Expected
    attempt: Callable[[], Any]
    names: tuple[str, ...] = ("",)  # a refusal says one of these: the file, the key, the flag
    base: Any = None  # what the sound input gives; an input that may not differ gives the same


@dataclass
class Tally:
    """Outcomes by area, and a line for each that may not be."""

    rows: list[tuple[str, str]] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)

    def table(self) -> pd.DataFrame:
        """One row per area: how many were tried, and each outcome."""
        frame = pd.DataFrame(self.rows, columns=["area", "outcome"])
        counts = pd.crosstab(frame["area"], frame["outcome"]).reindex(columns=list(OUTCOMES), fill_value=0)
        counts.insert(0, "tried", counts.sum(axis=1))
        return counts.reset_index().rename_axis(columns=None)


def judged(cases: Iterable[Case]) -> Tally:
    """Try every case once."""
    tally = Tally()
    for case in cases:
        outcome, said = outcome_of(case)
        tally.rows.append((case.area, outcome))
        if outcome not in OUTCOMES[:2]:
            tally.failures.append(f"{outcome:<16}{case.place}: {case.kind}: {said[:300]}")
    return tally


def outcome_of(case: Case) -> tuple[str, str]:
    """The outcome and what was said. A refusal of several lines, or one that names no place, counts as a traceback."""
    try:
        found = case.attempt()
    except UserError as error:
        said = str(error)
        if "\n" in said.strip() or not any(name in said for name in case.names):
            return "tracebacks", f"a refusal in several lines or without the place: {said!r}"
        return ("refused_wrongly" if case.expected == "accepted" else "refused"), said
    except Exception as error:
        return "tracebacks", f"{type(error).__name__}: {error}"
    if case.expected == "refused":
        return "silent", "accepted"
    if case.expected == "accepted" and case.base is not None and not _equal(found, case.base):
        return "silent", "accepted, but with another result"
    return "accepted_rightly", ""


def _equal(one: Any, two: Any) -> bool:
    if isinstance(one, pd.DataFrame):
        return list(one) == list(two) and all(one[name].astype(str).equals(two[name].astype(str)) for name in one)
    return bool(one == two)


@dataclass(frozen=True)
class Program:
    """A program as the command line starts it."""

    name: str  # module.function
    function: Callable[..., Any]
    config: type[Any]
    file: str  # the shipped config
    sets: tuple[str, ...] = ()  # overrides that make it tiny and sound
    inputs: tuple[tuple[str, str], ...] = ()  # config key → name of the reader whose file it takes

    @property
    def area(self) -> str:
        """The room it lives in."""
        return self.name.partition(".")[0]

    def start(self, out: Path, *arguments: str, config: str | Path | None = None, untouched: bool = True) -> Any:
        """Run it in this process. A refusal is a UserError; one that leaves anything in ``out`` is an AssertionError."""
        before = _listing(out)
        argv = [f"--config={config or self.file}", *(f"--set={one}" for one in self.sets), f"--out={out}", *arguments]
        code, said = _left(self, argv)
        errors = [line for line in said.splitlines() if line.startswith("error: ")]
        usage = code == 2 and "usage:" in said
        if code == 2 and (len(errors) == 1 or usage) and "Traceback" not in said:
            assert usage or said.rstrip().splitlines()[-1] == errors[0], f"more than one line: {said[-300:]}"
            assert _listing(out) == before, f"refused, but --out has changed: {_listing(out) ^ before}"
            raise UserError(errors[0] if errors else said.strip().splitlines()[-1])
        assert code == 0, f"exit code {code}: {said[-300:]}"
        summary = out / "summary.json"
        found = summary.read_text() if summary.exists() else ""
        if untouched:
            shutil.rmtree(out)
        return found


def _left(program: Program, argv: list[str]) -> tuple[Any, str]:
    said = io.StringIO()
    with redirect_stderr(said), redirect_stdout(io.StringIO()):
        try:
            run_cli(program.function, program.config, default_config=program.file, default_out="runs/unused", argv=argv)
        except SystemExit as left:
            return left.code, said.getvalue()
    return None, said.getvalue()


def _listing(out: Path) -> set[tuple[str, int]]:
    if not out.is_dir():
        return {(str(out), out.stat().st_size)} if out.exists() else set()
    return {(str(path.relative_to(out)), path.stat().st_size if path.is_file() else 0) for path in out.rglob("*")}
