"""The whole loop on a platform's own tables, in place of the open world."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from awrq_mixer.serving.policy import HullPolicy
from marca_common.files import read_json

REPOSITORY = Path(__file__).parents[2]
TABLES = {"requests": "logs/requests.parquet", "loadtest": "logs/loadtest.csv", "system": "logs/system.parquet"}


@pytest.mark.slow
def test_own_logs_give_values_costs_a_policy_and_a_system_model(small_world: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    command = [sys.executable, "orchestrate.py", "--config", "configs/smoke.yaml", "--out", str(out)]
    overrides = ["world=null", "logs.policy_states=500"]
    overrides += [f"logs.{name}={small_world / path}" for name, path in TABLES.items()]
    command += [part for override in overrides for part in ("--set", override)]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    policy = HullPolicy.load(out / "policy/policy.npz")
    free, dear = (policy.decide(np.arange(50), np.full(2, price)) for price in (0.0, 1e6))
    assert policy.expected(np.arange(50), dear)[1].sum() < policy.expected(np.arange(50), free)[1].sum()
    assert (out / "balancer/awrq_mixer/system_model.pt").is_file()
    assert (out / "costs/maps/cost_maps.json").is_file()
    assert "strategies" not in read_json(out / "summary.json")
    words = re.sub(r"<[^>]*>", " ", (out / "report.html").read_text(encoding="utf-8"))  # pictures left out
    assert not re.search(r"\btru(e|th)|world|commission", words, flags=re.IGNORECASE)
