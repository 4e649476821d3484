"""The walks of docs/extending.md, executed as they are written: files laid down, commands run."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from marca_common.config import load_config
from marca_common.files import read_json
from marca_loop.settings import Orchestration

REPOSITORY = Path(__file__).parents[1]
PAGE = (REPOSITORY / "docs/extending.md").read_text(encoding="utf-8")
WALKS = {title: text for title, text in re.findall(r"^## (.+?)\n(.*?)(?=^## |\Z)", PAGE, re.M | re.S)}


def walk(title: str, folder: Path) -> None:
    """Lay down every block that begins with a file name, then run every command."""
    for name, block in re.findall(r"^```(?:python|yaml)\n# (\S+)\n(.*?)^```", WALKS[title], re.M | re.S):
        path = folder / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(block, encoding="utf-8")
    environment = {**os.environ, "PYTHONPATH": f"{folder}{os.pathsep}{REPOSITORY}"}
    for commands in re.findall(r"^```sh\n(.*?)^```", WALKS[title], re.M | re.S):
        for command in commands.splitlines():
            done = subprocess.run(
                [sys.executable, *shlex.split(command)[1:]], cwd=folder, env=environment, capture_output=True, text=True
            )
            assert done.returncode == 0, f"{command}\n{done.stderr[-3000:]}"


def test_there_are_ten_walks() -> None:
    assert len(WALKS) == 10


@pytest.mark.slow
def test_a_learner(tmp_path: Path) -> None:
    walk("A learner", tmp_path)
    assert read_json(tmp_path / "runs/judged/summary.json")["learner"] == "mylab.profile:OneProfile"


@pytest.mark.slow
def test_a_strategy(tmp_path: Path) -> None:
    walk("A strategy", tmp_path)
    summary = read_json(tmp_path / "runs/my_day/summary.json")
    strategies = summary["strategies"]
    ours = load_config(Orchestration, REPOSITORY / "configs/smoke.yaml").day.strategies
    assert list(strategies) == [*ours, "timetable", "thrifty", "dqn_feedback"]
    revenues = [round(one["revenue"]) for one in strategies.values()]
    # each new one earns its own; in this short run MPC leaves the price to PI, since so little was learnt of it
    assert all(
        revenues.count(round(strategies[name]["revenue"])) == 1 for name in ("timetable", "thrifty", "dqn_feedback")
    )
    assert summary["failed"] == {}
    page = (tmp_path / "runs/my_day/report.html").read_text(encoding="utf-8")
    assert "by the clock" in page
    assert "DQN, feedback" in page
    assert (tmp_path / "runs/my_day/balancer/dqn/system_model.pt").is_file()


@pytest.mark.slow
def test_a_solver(tmp_path: Path) -> None:
    walk("A solver", tmp_path)
    summary = read_json(tmp_path / "runs/constants/summary.json")
    assert summary["rungs"].get("solver", 0) > 0.5 * summary["minutes"]


def test_files_that_the_walks_name_are_there() -> None:
    for name in re.findall(r"`((?:[a-z_]+/)+[\w.]+\.(?:py|yaml))`", PAGE):
        assert (REPOSITORY / name).is_file() or (REPOSITORY / "mpc_balancer" / name).is_file(), name
