"""docs/metrics.md against a run: every number has a row, no name has two values."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
import pytest

from marca_common.config import load_config
from marca_common.files import read_json
from marca_loop.orchestrate import orchestrate
from marca_loop.settings import Orchestration

REPOSITORY = Path(__file__).parents[1]
PAGE = (REPOSITORY / "docs/metrics.md").read_text(encoding="utf-8")


class Place(NamedTuple):
    """Where a number stands: a pattern of a summary's key, or of a table's cell."""

    number: str
    folder: re.Pattern[str]
    table: str | None  # file name; None: summary.json
    select: dict[str, str]  # column → value, or <subject>
    key: re.Pattern[str]
    last: str  # the last part of the key that is not a subject
    bookkeeping: bool


def pattern(text: str, part: str) -> re.Pattern[str]:
    """``a.<x>`` with a named group for each subject; a name that stands twice must agree."""
    seen: set[str] = set()

    def group(match: re.Match[str]) -> str:
        name = match.group(1)
        again = f"(?P={name})" if name in seen else f"(?P<{name}>{part})"
        seen.add(name)
        return again

    escaped = re.escape(text).replace(r"\<", "<").replace(r"\>", ">")
    return re.compile(re.sub(r"<(\w+)>", group, escaped) + r"\Z")


def places() -> Iterator[Place]:
    """All places of the page."""
    for line in PAGE.splitlines():
        if line.startswith("## "):
            bookkeeping = line == "## Bookkeeping"
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if not line.startswith("| ") or len(cells) != 3 or cells[0] == "Number":
            continue
        for place in re.findall(r"`([^`]+)`", cells[2]):
            where, key = place.split(": ")
            path, _, chosen = where.rstrip("]").partition("[")
            table = path.rpartition("/")[2] if path.endswith(".csv") else None
            folder = path.rpartition("/")[0] if table else path
            select = dict(one.split("=") for one in chosen.split(", ")) if chosen else {}
            last = [part for part in key.split(".") if not part.startswith("<")][-1]
            folders = pattern(folder, ".+" if folder == "<any>" else "[^/]+")
            yield Place(cells[0], folders, table, select, pattern(key, "[^.]+(?:[.][0-9]+)?"), last, bookkeeping)


PLACES = list(places())
Found = tuple[str, tuple[tuple[str, str], ...]]  # the last part of a key and its subject


def leaves(values: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(values, dict):
        for key, value in values.items():
            yield from leaves(value, f"{prefix}.{key}" if prefix else str(key))
    else:
        yield prefix, values


def summaries(run: Path) -> Iterator[tuple[str, str, Any]]:
    """(folder, key, value) of every leaf of every summary.json."""
    for path in sorted(run.rglob("summary.json")):
        for key, value in leaves(read_json(path)):
            yield str(path.parent.relative_to(run)), key, value


def cells(run: Path, place: Place) -> Iterator[tuple[dict[str, str], float]]:
    """(subject, value) of a place in a table."""
    for path in sorted(run.rglob(place.table or "")):
        folder = place.folder.match(str(path.parent.relative_to(run)))
        if folder is None:
            continue
        for row in pd.read_csv(path).to_dict("records"):
            subject = dict(folder.groupdict())
            for column, wanted in place.select.items():
                if wanted.startswith("<"):
                    subject[wanted.strip("<>")] = str(row[column])
                elif str(row[column]) != wanted:
                    break
            else:
                yield subject, row[place.key.pattern.removesuffix(r"\Z").replace("\\", "")]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("metrics") / "run"
    sets = ["world.truth.cache=null", "day.seeds=[100]", "day.days=0.01", "workers=1", "day.workers=1"]
    orchestrate(load_config(Orchestration, REPOSITORY / "configs/smoke.yaml", sets), out)
    return out


def matches(folder: str, key: str) -> list[tuple[Place, dict[str, str]]]:
    found = []
    for place in PLACES:
        at, name = place.folder.match(folder), place.key.match(key)
        if place.table is None and at and name:
            found.append((place, {**at.groupdict(), **name.groupdict()}))
    return found


@pytest.mark.slow
def test_every_number_of_a_run_has_one_row(run: Path) -> None:
    for folder, key, _ in summaries(run):
        rows = {place.number for place, _ in matches(folder, key)}
        assert len(rows) == 1, f"{folder}/summary.json: {key} stands in the rows {rows or 'of no table'}"


@pytest.mark.slow
def test_no_name_has_two_values(run: Path) -> None:
    values: dict[Found, dict[str, Any]] = defaultdict(dict)
    for folder, key, value in summaries(run):
        for place, subject in matches(folder, key):
            if not place.bookkeeping:
                values[place.last, tuple(sorted(subject.items()))][f"{folder}: {key}"] = value
    for place in PLACES:
        if place.table:
            for subject, value in cells(run, place):
                values[place.last, tuple(sorted(subject.items()))][f"{place.table}: {place.last}"] = value
    assert (
        sum(len(places) > 1 for places in values.values()) > 10
    )  # the walk meets numbers that stand in several places
    for (name, whose), found in values.items():
        numbers = [value for value in found.values() if isinstance(value, float)]
        same = all(value == pytest.approx(numbers[0], rel=1e-12, nan_ok=True) for value in numbers)
        assert same, f"{name} of {dict(whose)} has several values: {found}"


@pytest.mark.slow
def test_a_table_with_a_known_name_in_an_unknown_column_is_refused(run: Path) -> None:
    names = {place.last for place in PLACES if not place.bookkeeping and place.table is None}
    declared = {(place.table, place.last) for place in PLACES if place.table}
    neutral = {
        "budget",
        "value",
        "lambda",
        "revenue",
        "degradation",
        "requests",
        "states",
    }  # inputs and axes of tables, not metrics
    for path in sorted(run.rglob("*.csv")):
        for column in set(pd.read_csv(path, nrows=1).columns) & names - neutral:
            assert (path.name, column) in declared, f"{path.relative_to(run)}: {column} is no place of docs/metrics.md"


def test_numbers_have_names_of_their_own() -> None:
    rows = [line.split("|")[1].strip() for line in PAGE.splitlines() if line.startswith("| ")]
    rows = [row for row in rows if row != "Number"]
    assert len(rows) == len(set(rows)) > 30
