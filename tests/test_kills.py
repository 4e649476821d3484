"""A run killed at a random moment and started again ends as if nothing had happened (all programs: benchmarks/kills.py)."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest
import torch

from benchmarks.kills import differences, kill_all


def write(folder: Path, loss: float, seconds: float, weight: float) -> Path:
    (folder / "inner").mkdir(parents=True)
    (folder / "summary.json").write_text(json.dumps({"loss": loss, "train_s": seconds, "stage_s": {"one": seconds}}))
    pd.DataFrame({"loss": [loss], "rows_per_s": [seconds]}).to_csv(folder / "metrics.csv", index=False)
    torch.save({"weights": torch.tensor([weight]), "seconds": seconds}, folder / "inner" / "best.pt")
    return folder


def test_a_difference_in_any_number_but_a_time_is_seen(tmp_path: Path) -> None:
    one = write(tmp_path / "one", 0.5, 1.0, 3.0)
    assert not [*differences(one, write(tmp_path / "later", 0.5, 2.0, 3.0))]
    assert [*differences(one, write(tmp_path / "loss", 0.5000001, 1.0, 3.0))] == [
        "metrics.csv differs",
        "summary.json differs",
    ]
    assert [*differences(one, write(tmp_path / "weight", 0.5, 1.0, 3.0000002))] == ["inner/best.pt differs"]
    (one / "left.txt").touch()
    assert [*differences(one, tmp_path / "later")] == [f"left.txt is missing in {tmp_path / 'later'}"]


@pytest.mark.slow
def test_killed_runs_end_like_undisturbed_ones(tmp_path: Path) -> None:
    table = kill_all(["awrq_mixer.train", "autobucket.train", "mpc_balancer.run"], kills=6, seed=1, folder=tmp_path)
    assert table["kills"].tolist() == [2, 2, 2]
    assert table["equal"].tolist() == [2, 2, 2]
