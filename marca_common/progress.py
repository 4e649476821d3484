"""What long work shows while it runs, and what it leaves behind."""

from __future__ import annotations

import csv
import sys
import time
from collections.abc import Callable, Iterable
from multiprocessing.context import BaseContext
from pathlib import Path
from typing import Any, TextIO, TypeVar

from tqdm.auto import tqdm

from marca_common.errors import UserError
from marca_common.files import write_text

T = TypeVar("T")
_LINES_S = 30.0
_IN_NOTEBOOK = any("notebook" in base.__module__ for base in tqdm.__mro__)
_line = 0  # terminal line of this process' bars, when several processes share a terminal


def progress(
    iterable: Iterable[T] | None = None, *, what: str, total: int | None = None, unit: str = "it", **options: Any
) -> tqdm[T]:
    """A tqdm bar with rate and ETA on stderr (a widget in notebooks); silent until half a second has passed.

    Where stderr is no terminal, such as a file, it is a plain line every half minute and one at the end.
    """
    bar = {"file": sys.stderr, "mininterval": 0.5, "dynamic_ncols": True, "position": _line or None}
    if not (sys.stderr.isatty() or _IN_NOTEBOOK):
        bar = {"file": _PlainLines(sys.stderr), "mininterval": _LINES_S, "ncols": 100, "ascii": True}
    kept = {"leave": _line == 0, "delay": 0.5}
    return tqdm(iterable, desc=what, total=total, unit=unit, **{**bar, **kept, **options})


class _PlainLines:
    """A stream for a bar that draws itself anew with a carriage return: each drawing becomes a line."""

    def __init__(self, stream: TextIO) -> None:
        self.stream, self.last, self.text = stream, time.monotonic(), ""

    def write(self, text: str) -> None:
        """Write what is left without control characters as a line of its own, at most every half minute and at the end."""
        shown, now = text.strip(), time.monotonic()
        ended = "100%|" in shown and "100%|" not in self.text
        if shown and (ended or now - self.last >= _LINES_S):
            self.stream.write(f"{shown}\n")
            self.last, self.text = now, shown

    def flush(self) -> None:
        """As the stream."""
        self.stream.flush()


def share_terminal(context: BaseContext, workers: int) -> tuple[Callable[..., None], tuple[Any, ...]]:
    """Initialiser and its arguments for a process pool whose workers show bars on lines of their own."""
    lines = context.Queue()
    for line in range(1, workers + 1):
        lines.put(line)
    return _take_line, (lines, context.RLock())


def _take_line(lines: Any, lock: Any) -> None:
    global _line
    _line = lines.get()
    tqdm.set_lock(lock)


class MetricsLog:
    """``metrics.csv`` of a run: one row per report, flushed at once; a resumed run drops rows after its step.

    UserError where a row that a resumed run finds begins with no number.
    """

    def __init__(self, path: str | Path, columns: list[str], resume_step: int | None = None) -> None:
        self.path = Path(path)
        self.columns = columns
        kept = self._rows_until(resume_step) if resume_step is not None and self.path.exists() else []
        write_text(self.path, "\n".join([",".join(columns), *kept]) + "\n")

    def write(self, **values: Any) -> None:
        """Append one row; columns without a value stay empty, unknown columns are a programming error."""
        unknown = set(values) - set(self.columns)
        if unknown:
            raise KeyError(f"not columns of {self.path.name}: {sorted(unknown)}")
        with self.path.open("a", newline="", encoding="utf-8") as file:
            csv.writer(file, lineterminator="\n").writerow([_short(values.get(name, "")) for name in self.columns])

    def _rows_until(self, step: int) -> list[str]:
        lines = self.path.read_text(encoding="utf-8").splitlines()
        if not lines or lines[0] != ",".join(self.columns):
            return []
        return [line for number, line in enumerate(lines[1:], start=2) if line and self._step(number, line) <= step]

    def _step(self, number: int, line: str) -> float:
        first = line.split(",")[0]
        try:
            return float(first)
        except ValueError:
            expected = f"expected a number ({self.columns[0]})"
            raise UserError(f"{self.path}: line {number}: got {first!r:.120}; {expected}") from None


def _short(value: Any) -> Any:
    return f"{value:.8g}" if isinstance(value, float) else value
