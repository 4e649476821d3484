"""A group that allocates and loses a rank by SIGKILL, at any step: started again it ends as if nothing had happened."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from benchmarks.allocation import make_problem
from marca_common.hull_shards import ShardSums, write_shard
from revenue_sim.allocation.row_hulls import row_hulls
from revenue_sim.config import ShardsConfig
from revenue_sim.shards import shards

REPOSITORY = Path(__file__).parents[2]
GROUP = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
DIES = """
import os, signal, sys
from revenue_sim.allocation import from_shards
from revenue_sim.config import ShardsConfig
from revenue_sim.shards import shards

step, rank, hulls, out = sys.argv[1:]
whole = getattr(from_shards, step)

def dies(*arguments):
    done = whole(*arguments)
    if os.environ["RANK"] == rank:
        os.kill(os.getpid(), signal.SIGKILL)
    return done

setattr(from_shards, step, dies)
shards(ShardsConfig(hulls=hulls), out)
"""
FULL = """
import os, resource, signal
from marca_common.cli import run_cli
from revenue_sim.config import ShardsConfig
from revenue_sim.shards import shards

if os.environ["RANK"] == "1":
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (300, 300))
run_cli(shards, ShardsConfig, default_config="configs/revenue_sim/shards.yaml", default_out="unused")
"""


def write_hulls(folder: Path) -> None:
    values, costs = make_problem(900, 30, seed=4)
    for number, rows in enumerate(np.array_split(np.arange(len(values)), 5)):
        hulls, count = row_hulls(values[rows], costs[rows]), np.ones(len(rows))
        sums = ShardSums.of(hulls, count, {}, "models", str(number))
        write_shard(folder / f"{number}.arrow", pd.DataFrame({"s": rows}), count, hulls, sums)


def group(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*GROUP, *words],
        cwd=REPOSITORY,
        env=os.environ | {"PYTHONPATH": "."},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.slow
def test_a_killed_group_ends_like_one_that_was_not(tmp_path: Path) -> None:
    write_hulls(tmp_path / "hulls")
    known = shards(ShardsConfig(hulls=str(tmp_path / "hulls")), tmp_path / "alone")
    assert known.allocation.split is not None
    script, out = tmp_path / "dies.py", tmp_path / "group"
    script.write_text(DIES, encoding="utf-8")
    for step, rank in (("_brought", "1"), ("_split", "0"), ("_move", "0")):
        killed = group(str(script), step, rank, str(tmp_path / "hulls"), str(out))
        assert "Signal 9" in killed.stderr
        assert not (out / "summary.json").exists()
    done = group("-m", "revenue_sim.shards", f"--set=hulls={tmp_path / 'hulls'}", f"--out={out}")
    assert done.returncode == 0, done.stderr
    for name in ("summary.json", *(f"choices/{number}.npy" for number in range(5))):
        assert (out / name).read_bytes() == (tmp_path / "alone" / name).read_bytes()


@pytest.mark.slow
def test_a_full_disk_on_one_rank_ends_all_with_one_line(tmp_path: Path) -> None:
    write_hulls(tmp_path / "hulls")
    shards(ShardsConfig(hulls=str(tmp_path / "hulls")), tmp_path / "alone")
    script = tmp_path / "full.py"
    script.write_text(FULL, encoding="utf-8")
    done = group(str(script), f"--set=hulls={tmp_path / 'hulls'}", f"--out={tmp_path / 'group'}")
    said = [line for line in done.stderr.splitlines() if line.startswith("error:")]
    assert [line.partition("choices/")[2] for line in said] == ["1.npy: cannot write: File too large"]
    assert not (tmp_path / "group").exists()
