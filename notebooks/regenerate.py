"""Run the notebooks and keep their outputs and figures: `make notebooks`."""

from __future__ import annotations

import os
from pathlib import Path
from tempfile import TemporaryDirectory

import nbformat
from nbclient import NotebookClient

FOLDER = Path(__file__).parent


def executed(path: Path) -> nbformat.NotebookNode:
    """The notebook after a run from top to bottom, without progress bars and times, so that it changes only with its results."""
    notebook: nbformat.NotebookNode = nbformat.read(path, as_version=4)
    client = NotebookClient(notebook, timeout=300, record_timing=False, resources={"metadata": {"path": str(FOLDER)}})
    # A kernel that has started worker processes is killed at its end, and leaves its temporary files.
    with TemporaryDirectory(ignore_cleanup_errors=True) as scratch:
        client.execute(env={**os.environ, "PYTHONPATH": str(FOLDER.parent), "TMPDIR": scratch})
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs = [output for output in cell.outputs if output.get("name") != "stderr"]
            cell.metadata = {}
    notebook.metadata = {"kernelspec": notebook.metadata["kernelspec"], "language_info": {"name": "python"}}
    return notebook


if __name__ == "__main__":
    for path in sorted(FOLDER.glob("*.ipynb")):
        nbformat.write(executed(path), path)
        print(f"written: {path}")
