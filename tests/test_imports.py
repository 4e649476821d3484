"""The import graph is a plain stack: no circle of files, none of folders. `lint-imports` holds the order of the packages."""

from __future__ import annotations

import graphlib
import tomllib
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

import grimp
import pytest

PROJECT = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text(encoding="utf-8"))
PACKAGES: list[str] = PROJECT["tool"]["importlinter"]["root_packages"]


@pytest.fixture(scope="module")
def arrows() -> list[tuple[str, str]]:
    """(importing module, imported module) of all packages."""
    graph = grimp.build_graph(*PACKAGES, cache_dir=None)
    return [(one, other) for one in graph.modules for other in graph.find_modules_directly_imported_by(one)]


def circle(arrows: Iterable[tuple[str, str]]) -> list[str]:
    """Some circle of the graph; empty where there is none."""
    graph: dict[str, set[str]] = defaultdict(set)
    for one, other in arrows:
        graph[one].add(other)
    try:
        graphlib.TopologicalSorter(graph).prepare()
    except graphlib.CycleError as error:
        found: list[str] = error.args[1]
        return found
    return []


def siblings(one: str, other: str, folders: set[str]) -> tuple[str, str] | None:
    """The two folders, side by side in the same folder, in which two modules lie."""
    a, b = one.split("."), other.split(".")
    at = next((i for i, (x, y) in enumerate(zip(a, b)) if x != y), None)
    if at is None:
        return None
    pair = ".".join(a[: at + 1]), ".".join(b[: at + 1])
    return pair if folders.issuperset(pair) else None


def test_files_form_no_circle(arrows: list[tuple[str, str]]) -> None:
    assert circle(arrows) == []


def test_folders_side_by_side_form_no_circle(arrows: list[tuple[str, str]]) -> None:
    """Files that lie in a package's top folder are its settings and programs: below or above its folders, in none of them."""
    modules = {module for arrow in arrows for module in arrow}
    folders = {module.rsplit(".", 1)[0] for module in modules if "." in module}
    pairs = {siblings(one, other, folders) for one, other in arrows} - {None}
    assert len(pairs) > 10
    assert circle(pair for pair in pairs if pair) == []


def test_a_circle_is_found() -> None:
    assert circle([("a", "b"), ("b", "c")]) == []
    assert set(circle([("a", "b"), ("b", "c"), ("c", "a")])) == {"a", "b", "c"}
    assert siblings("p.x.one", "p.y.z.two", {"p", "p.x", "p.y", "p.y.z"}) == ("p.x", "p.y")
    assert siblings("p.x.one", "p.settings", {"p", "p.x"}) is None
