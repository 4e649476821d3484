"""A finding: what is wrong where, what that means, and what to do."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from typing import Any

from own_system.catalogue import CATALOGUE, Level


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong with a platform's tables; its kind is explained in ``own_system.catalogue``."""

    kind: str
    level: Level
    file: str
    column: str | None
    row: int | None  # from 1, the header not counted; the first of several
    value: str  # what was found, with numbers
    meaning: str
    advice: str

    @property
    def place(self) -> str:
        """``file: row 17, column 'income'``."""
        parts = [f"row {self.row}"] if self.row is not None else []
        parts += [f"column {self.column!r}"] if self.column is not None else []
        return f"{self.file}: {', '.join(parts)}" if parts else self.file

    def __str__(self) -> str:
        return f"{self.level}: {self.kind}: {self.place}: {self.value}\n    {self.meaning}\n    → {self.advice}"


@dataclass
class Findings:
    """Findings so far, errors first when read."""

    found: list[Finding] = field(default_factory=list)

    def add(self, kind: str, file: str, value: str, *, column: str | None = None, row: int | None = None) -> None:
        """Note a finding of a kind of the catalogue; ``row`` counts from 0."""
        known = CATALOGUE[kind]
        at = None if row is None else row + 1
        self.found.append(Finding(kind, known.level, file, column, at, value, known.meaning, known.advice))

    def __iter__(self) -> Iterator[Finding]:
        return iter(sorted(self.found, key=lambda one: one.level != "error"))

    def __len__(self) -> int:
        return len(self.found)

    @property
    def errors(self) -> list[Finding]:
        """Those that have to be mended first."""
        return [one for one in self if one.level == "error"]

    @property
    def count(self) -> str:
        """``1 error`` or ``3 errors``."""
        return f"{len(self.errors)} error{'s' if len(self.errors) != 1 else ''}"

    def plain(self) -> list[dict[str, Any]]:
        """Plain values for JSON."""
        return [asdict(one) for one in self]
