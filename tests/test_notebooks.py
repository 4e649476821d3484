"""Notebooks run from top to bottom, and are committed with the outputs of such a run."""

from __future__ import annotations

import re
from itertools import pairwise
from pathlib import Path

import nbformat
import pytest

from notebooks.regenerate import executed

REPOSITORY = Path(__file__).parents[1]
NOTEBOOKS = REPOSITORY / "notebooks"
PATHS = pytest.mark.parametrize("path", sorted(NOTEBOOKS.glob("*.ipynb")), ids=lambda path: path.stem)


def listing() -> set[Path]:
    """What lies in the folder that notebooks run in."""
    return {path for path in NOTEBOOKS.rglob("*") if "__pycache__" not in path.parts}


def kinds(notebook: nbformat.NotebookNode) -> list[list[str]]:
    """What each code cell shows: tables, pictures, and whether it prints; how many pieces a text comes in is chance."""
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    shown = [[kind for output in cell.outputs for kind in output.get("data", {"text": ""})] for cell in cells]
    return [sorted({"text"} & set(one)) + sorted(kind for kind in one if kind != "text") for one in shown]


@PATHS
def test_a_notebook_is_committed_with_outputs_and_a_figure(path: Path) -> None:
    notebook = nbformat.read(path, as_version=4)
    assert any("image/png" in shown for shown in kinds(notebook))
    text = path.read_text(encoding="utf-8")
    assert "Traceback" not in text
    assert "iopub" not in text  # times of execution
    assert "/tmp" not in text


@PATHS
def test_a_notebook_stays_small_and_says_before_it_shows(path: Path) -> None:
    cells = nbformat.read(path, as_version=4).cells
    assert path.stat().st_size < 400_000
    assert len(cells) <= 14
    before = [first.cell_type for first, second in pairwise(cells) if second.cell_type == "code"]
    assert before == ["markdown"] * len(before)
    assert cells[0].source.startswith("# ")


def test_the_readme_lists_every_notebook() -> None:
    linked = re.findall(r"\(notebooks/(\w+)\.ipynb\)", (REPOSITORY / "README.md").read_text(encoding="utf-8"))
    assert linked == sorted(path.stem for path in NOTEBOOKS.glob("*.ipynb"))


@pytest.mark.slow
@PATHS
def test_a_notebook_runs_shows_what_is_committed_and_leaves_nothing_behind(path: Path) -> None:
    before = listing()
    assert kinds(executed(path)) == kinds(nbformat.read(path, as_version=4))
    assert listing() == before
