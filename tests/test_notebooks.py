"""Notebooks run from top to bottom, and are committed with the outputs of such a run."""

from __future__ import annotations

from pathlib import Path

import nbformat
import pytest

from notebooks.regenerate import executed

NOTEBOOKS = Path(__file__).parents[1] / "notebooks"
PATHS = pytest.mark.parametrize("path", sorted(NOTEBOOKS.glob("*.ipynb")), ids=lambda path: path.stem)


def kinds(notebook: nbformat.NotebookNode) -> list[list[str]]:
    """What each code cell shows: text, tables, pictures."""
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    return [sorted(kind for output in cell.outputs for kind in output.get("data", {"text": ""})) for cell in cells]


@PATHS
def test_a_notebook_is_committed_with_outputs_and_a_figure(path: Path) -> None:
    notebook = nbformat.read(path, as_version=4)
    assert any("image/png" in shown for shown in kinds(notebook))
    text = path.read_text(encoding="utf-8")
    assert "Traceback" not in text
    assert "iopub" not in text  # times of execution
    assert "/tmp" not in text


@pytest.mark.slow
@PATHS
def test_a_notebook_runs_and_shows_what_is_committed(path: Path) -> None:
    assert kinds(executed(path)) == kinds(nbformat.read(path, as_version=4))
