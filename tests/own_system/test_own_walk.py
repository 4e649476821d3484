"""docs/own_system.md as a first-time user follows it: its commands run as they stand, in order, in an empty folder."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from marca_common.files import read_json
from own_system.catalogue import CATALOGUE
from tests.own_system.foreign import REPOSITORY

PAGE = (REPOSITORY / "docs/own_system.md").read_text(encoding="utf-8")
COMMANDS = [line for block in re.findall(r"```sh\n(.*?)```", PAGE, flags=re.DOTALL) for line in block.splitlines()]


@pytest.mark.slow
def test_the_walk_works_at_the_first_try(tmp_path: Path) -> None:
    (tmp_path / "configs").symlink_to(REPOSITORY / "configs")
    (tmp_path / "orchestrate.py").symlink_to(REPOSITORY / "orchestrate.py")
    environment = {
        **os.environ,
        "PYTHONPATH": str(REPOSITORY),
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
    }
    assert len(COMMANDS) == 6
    for command in COMMANDS:
        done = subprocess.run(
            command, shell=True, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
        )
        expected = 2 if command.endswith("# ends with 2") else 0
        assert done.returncode == expected, f"{command}\n{done.stderr[-2000:]}"
        assert "Traceback" not in done.stderr, command
    assert read_json(tmp_path / "runs/own_check/findings.json")["findings"] == []
    (broken,) = read_json(tmp_path / "runs/own_check_broken/findings.json")["findings"]
    assert broken["kind"] == "undeclared_action"
    for name in (
        "report.html",
        "policy/policy.npz",
        "costs/maps/cost_maps.json",
        "balancer/awrq_mixer/system_model.pt",
    ):
        assert (tmp_path / "runs/own_run" / name).is_file(), name


def test_the_page_lists_every_kind_of_finding() -> None:
    rows = [line for line in PAGE.splitlines() if line.startswith("| `")]
    assert rows == [f"| `{kind}` | {one.level} | {one.meaning} | {one.advice} |" for kind, one in CATALOGUE.items()]
