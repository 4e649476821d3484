"""The README's commands run as they stand there, in order, in an empty folder."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

REPOSITORY = Path(__file__).parents[1]
README = (REPOSITORY / "README.md").read_text(encoding="utf-8")
TOUR = README[README.index("## A tour by hand") : README.index("## Your own logs")]
COMMANDS = re.findall(r"^python .+$", TOUR, flags=re.MULTILINE)
PROGRAMS = sorted(
    {
        (folder, program if program.startswith(folder) else f"{folder}.{program.lstrip('.')}")
        for folder, row in re.findall(r"^\| \[`(\w+)`\].*\|(.+)\|$", README, flags=re.MULTILINE)
        for program in re.findall(r"`([\w.]+)`", row)
    }
)


def run(arguments: list[str], folder: Path) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    return subprocess.run(
        [sys.executable, *arguments], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )


def test_the_table_lists_every_entry_point() -> None:
    """Every module with a ``__main__`` guard is in the table of programs, and the other way round."""
    listed = {program for _, program in PROGRAMS}
    rooms = (
        "cascade_world",
        "recommender",
        "awrq_mixer",
        "autobucket",
        "mpc_balancer",
        "revenue_sim",
        "marca_loop",
        "marca_report",
        "own_system",
    )
    found = {
        ".".join(path.relative_to(REPOSITORY).with_suffix("").parts)
        for pattern in (*(f"{room}/*.py" for room in rooms), "examples/*/*.py")
        for path in REPOSITORY.glob(pattern)
        if 'if __name__ == "__main__"' in path.read_text(encoding="utf-8")
    }
    assert listed == found


@pytest.mark.slow
@pytest.mark.parametrize("program", [program for _, program in PROGRAMS])
def test_every_program_starts_and_refuses_an_unknown_key(program: Any, tmp_path: Path) -> None:
    refused = run(["-m", program, "--set", "no_such_key=1", "--out", str(tmp_path / "run")], REPOSITORY)
    assert refused.returncode == 2, refused.stderr
    assert "no_such_key: unknown key" in refused.stderr
    assert "Traceback" not in refused.stderr
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_the_tour_runs_as_written(tmp_path: Path) -> None:
    (tmp_path / "configs").symlink_to(REPOSITORY / "configs")
    assert len(COMMANDS) >= 9
    for command in COMMANDS:
        done = run(shlex.split(command)[1:], tmp_path)
        assert done.returncode == 0, f"{command}\n{done.stderr[-2000:]}"


def test_the_first_screen_shows_a_picture_and_two_commands() -> None:
    top = README[: README.index("## What is inside")]
    picture = re.search(r"!\[.+\]\((.+)\)", top)
    assert picture is not None
    assert (REPOSITORY / picture.group(1)).is_file()
    assert "make demo" in top
    assert "make test" in top


def test_links_of_the_readme_lead_somewhere() -> None:
    for target in re.findall(r"\]\((?!http)([^)#]+)\)", README):
        assert (REPOSITORY / target).exists(), target


def test_links_of_the_docs_lead_somewhere() -> None:
    for page in sorted((REPOSITORY / "docs").glob("*.md")):
        for target in re.findall(r"\]\((?!http)([\w./-]+\.\w+)", page.read_text(encoding="utf-8")):
            assert (page.parent / target).exists(), f"{page.name}: {target}"
