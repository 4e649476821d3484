"""A disk that takes no more: one line, exit code 2, and a folder as it was. A limit on the size of files stands in for it."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[1]
PROGRAMS = {
    "cascade_world.generate": "--config=configs/cascade_world/small.yaml",
    "cascade_world.describe": "--config=configs/cascade_world/small.yaml --set=truth.reference_states=50",
    "awrq_mixer.train": "--config=configs/awrq_mixer/smoke.yaml --set=requests={logs}/requests.parquet",
    "autobucket.train": "--config=configs/autobucket/smoke.yaml --set=data.requests={logs}/requests.parquet",
    "autobucket.fit_costs": "--config=configs/autobucket/costs.yaml --set=loadtest={logs}/loadtest.csv --set=bootstrap=5",
    "revenue_sim.train": "--config=configs/revenue_sim/train.yaml --set=requests=[{logs}/requests.parquet]"
    " --set=sample_states=100 --set=trees.trees=10 --set=nets.epochs=1",
    "mpc_balancer.train": "--config=configs/mpc_balancer/train.yaml --set=table={logs}/system.parquet --set=epochs=2",
    "mpc_balancer.run": "--config=configs/mpc_balancer/run.yaml --set=train.epochs=2 --set=scenario.days=0.05",
    "marca_loop.orchestrate": "--config=configs/smoke.yaml",
}


def run(program: str, logs: Path, out: Path, most_bytes: int) -> subprocess.CompletedProcess[str]:
    words = PROGRAMS[program].format(logs=logs).split()
    limit = partial(resource.setrlimit, resource.RLIMIT_FSIZE, (most_bytes, most_bytes))
    environment = os.environ | {"MPLCONFIGDIR": str(out.parent / "fonts")}
    return subprocess.run(
        [sys.executable, "-m", program, *words, f"--out={out}"],
        cwd=REPOSITORY, env=environment, capture_output=True, text=True, check=False, preexec_fn=limit,
    )  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize(("program", "most_bytes"), [*zip(PROGRAMS, 5 * [3_000, 10_000]), ("awrq_mixer.train", 100)])
def test_a_full_disk_is_one_line(small_world: Path, tmp_path: Path, program: str, most_bytes: int) -> None:
    done = run(program, small_world / "logs", tmp_path / "run", most_bytes)
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    assert [line[:6] for line in done.stderr.splitlines() if "rror" in line] == ["error:"]
    assert not (tmp_path / "run/summary.json").exists()
    assert most_bytes > 100 or not (tmp_path / "run").exists()  # refused on entry: not even the folder


@pytest.mark.slow
def test_an_output_that_takes_no_more_is_one_line(tmp_path: Path) -> None:
    words = [sys.executable, "-m", "mpc_balancer.run", *PROGRAMS["mpc_balancer.run"].split(), f"--out={tmp_path}/run"]
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(words, cwd=REPOSITORY, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1] == "error: standard output: No space left on device"
    assert (tmp_path / "run/summary.json").exists()
