"""All malformed inputs there are: the table of mutations over every reader and program, and drawn ones."""

from __future__ import annotations

import io
import itertools
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd

from marca_common.cost_maps import CostMaps
from marca_common.scores import read_scores
from tests.malformed import bad_configs, bad_files, inputs
from tests.malformed.bad_tables import cell_faults, column_faults, file_faults, parquet_faults, rows_of, time_faults
from tests.malformed.cases import Case, Expected, Program
from tests.malformed.drawn import drawn_tables

Make = bytes | Callable[[Path], None]


class Files:
    """Writes spoilt files, each into a folder of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder, self._number = folder, itertools.count()

    def put(self, name: str, content: Make) -> Path:
        """The path of the file; ``content`` may be a function that makes it."""
        path = self.folder / str(next(self._number)) / name
        path.parent.mkdir(parents=True)
        path.write_bytes(content) if isinstance(content, bytes) else content(path)
        return path


def all_cases(folder: Path) -> Iterator[Case]:
    """Every case; ``folder`` is empty."""
    (folder / "sound").mkdir(parents=True)
    files = Files(folder / "spoilt")
    programs = inputs.prepare(folder / "sound")
    tables = {one.name: one for one in inputs.tables(folder / "sound")}
    for table in tables.values():
        yield from table_cases(table, files)
    yield from drawn_tables(tables["requests"], files.put)
    yield from drawn_tables(tables["system"], files.put)
    yield from file_cases(folder / "sound", files)
    for number, program in enumerate(programs.values()):
        yield from bad_configs.value_faults(program)
        yield from bad_configs.yaml_faults(program, folder / f"yaml{number}")
        yield from bad_configs.flag_faults(program, folder / f"flags{number}")
        yield from program_cases(program, tables, folder, files)


def table_cases(table: inputs.Table, files: Files) -> Iterator[Case]:
    """A reader of tables and every way to spoil its file."""
    rows = rows_of(table.data)
    base = table.read(files.put(f"{table.name}.csv", table.data))

    def case(kind: str, content: Make, name: str, expected: Expected) -> Case:
        path = files.put(name, content)
        return Case("tables", table.name, kind, expected, partial(table.read, path), (str(path),), base)

    named = f"{table.name}.csv"
    for kind, content, expected in itertools.chain(
        cell_faults(rows, table.columns), column_faults(rows, table.columns)
    ):
        yield case(kind, content, named, expected)
    if table.time:
        for kind, content, expected in time_faults(rows, table.time, table.ordered):
            yield case(kind, content, named, expected)
    for kind, made, name, expected in file_faults(table.data, table.name):
        yield case(kind, made, name, expected)
    frame = pd.read_csv(io.BytesIO(table.data), parse_dates=[table.time] if table.time else None)
    for kind, content, expected in parquet_faults(frame, table.columns):
        yield case(kind, content, f"{table.name}.parquet", expected)


def file_cases(sound: Path, files: Files) -> Iterator[Case]:
    """Checkpoints, cost maps, policies and score files."""
    for name, (path, load) in inputs.checkpoints(sound).items():
        faults = bad_files.checkpoint_faults(path.read_bytes())
        yield from _cases("checkpoints", name, path.name, faults, load, files)
    faults = bad_files.json_faults(inputs.cost_maps(sound), inputs.free_part)
    yield from _cases("cost maps", "cost maps", "cost_maps.json", faults, CostMaps.load, files)
    faults = bad_files.npz_faults((sound / "policy.npz").read_bytes())
    yield from _cases("policies", "policy", "policy.npz", faults, inputs.load_policy, files)
    faults = bad_files.score_faults(inputs.score_table(), ["value"])
    read = partial(read_scores, spec=inputs.SPEC)
    yield from _cases("score files", "wide scores", "scores.parquet", faults, read, files)


def _cases(
    area: str,
    place: str,
    name: str,
    faults: Iterable[tuple[str, bytes, Expected]],
    read: Callable[[Path], Any],
    files: Files,
) -> Iterator[Case]:
    for kind, content, expected in faults:
        path = files.put(name, content)
        yield Case(area, place, kind, expected, partial(read, path), (str(path), str(path.parent)))


def program_cases(program: Program, tables: dict[str, inputs.Table], folder: Path, files: Files) -> Iterator[Case]:
    """A program given spoilt files; its --out holds an earlier result that must stay."""
    out = folder / f"out_{program.name}"
    out.mkdir()
    (out / "earlier.txt").write_text("an earlier result")
    for key, reader in program.inputs:
        for kind, content, name in _spoilt(program, reader, tables):
            path = files.put(name, content)
            given = f"--set={key}={path}" if key != "requests.0" else f"--set=requests=[{path}]"
            attempt = partial(program.start, out, given)
            yield Case(program.area, f"{program.name} {key}", kind, "refused", attempt, (str(path),))


def _spoilt(program: Program, reader: str, tables: dict[str, inputs.Table]) -> Iterator[tuple[str, Make, str]]:
    if reader in tables:
        table = tables[reader]
        for kind, made, name, expected in file_faults(table.data, table.name):
            if expected == "refused" and kind != "two headers":  # categories alone take the second one for a row
                yield kind, made, name
        return
    suffix = {"cost maps": ".json", "scores": ".parquet"}.get(reader, ".pt")
    for kind, content, _ in bad_files.byte_faults(bytes(range(256)) * 40):
        yield kind, content, f"file{suffix}"
    yield "a folder", lambda path: path.mkdir(), f"file{suffix}"
    yield "no such file", lambda path: None, f"file{suffix}"
