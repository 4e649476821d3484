"""Tables and figures that benchmarks left, in the user's own folder or else in the stored one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from marca_common.errors import UserError
from marca_common.html_page import Figure, Section


@dataclass(frozen=True)
class Found:
    """A table, and where it stood."""

    path: Path
    frame: pd.DataFrame

    def section(self, title: str, text: str, caption: str, table: pd.DataFrame, what: str) -> Section:
        """What the table says, with the figure of the benchmark beside it: another folder's would be another run's."""
        told = "".join(f", {key} {self.frame[key].iloc[0]}" for key in ("seed", "machine") if key in self.frame)
        picture = self.path.with_name(self.path.name.replace("_summary", "")).with_suffix(".png")
        figures = [Figure(picture, caption)] if picture.is_file() else []
        return Section(title, f"{text} Shown: {self.path}{told}.", figures, {what: table})


class BenchmarkFiles:
    """Of each table the one in the first of ``folders`` that has it."""

    def __init__(self, folders: Sequence[Path]) -> None:
        self.folders = folders
        self.shown: list[Path] = []

    def table(self, name: str, columns: Sequence[str]) -> Found | None:
        """The table, or None where no folder has it; a UserError where a column or all rows are missing."""
        path = next((folder / name for folder in self.folders if (folder / name).is_file()), None)
        if path is None:
            return None
        frame = pd.read_csv(path)
        missing = next((column for column in columns if column not in frame), None)
        if missing is not None or frame.empty:
            what = "has no rows" if missing is None else f"has no column {missing!r}"
            raise UserError(f"{path}: {what}; expected a table as its benchmark writes it")
        self.shown.append(path)
        return Found(path, frame)


def not_measured(title: str, command: str) -> Section:
    """In place of a section whose table is nowhere."""
    return Section(title, f"Not measured yet: {command}.")
