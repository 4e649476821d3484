"""The whole loop on the small world: what it leaves behind, what it reuses, and how it is interrupted."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from marca_common.config import load_config
from marca_common.errors import UserError
from marca_common.files import read_json
from marca_loop.settings import Orchestration
from tests.marca_loop.failing_strategies import __name__ as FAILING
from tests.marca_loop.whole_run import REPOSITORY, SMOKE, command, run


def test_a_policy_that_is_not_trained_is_refused() -> None:
    with pytest.raises(UserError, match="expected one of"):
        load_config(Orchestration, SMOKE, ["day.policy=qmix"])


def test_evaluation_and_commissioning_never_share_a_seed() -> None:
    with pytest.raises(UserError, match="commission_seed is among the evaluation seeds"):
        load_config(Orchestration, SMOKE, ["day.seeds=[50]"])


@pytest.mark.slow
def test_it_leaves_a_report_a_summary_and_its_figures(finished: Any) -> None:
    summary = read_json(finished / "summary.json")
    assert {"wall_s", "peak_rss_mb", "seed", "spearman", "return_pct", "strategies", "artifacts"} <= set(summary)
    assert set(summary["spearman"]) == set(summary["return_pct"]) == {"awrq_mixer", "dqn"}
    assert list(summary["strategies"]) == list(load_config(Orchestration, SMOKE).day.strategies)
    assert summary["failed"] == {}
    for numbers in summary["strategies"].values():
        assert {"revenue", "uplift_pct", "mu", "nu"} <= set(numbers)
        assert 0 < numbers["mu"] <= 1
        assert 0 <= numbers["nu"] < 1
        assert None not in [numbers[f"uplift_over_{rival}_pct"] for rival in ("hourly", "blind")]
    assert summary["strategies"]["static"]["uplift_pct"] == 0
    assert all((finished / name).stat().st_size > 1000 for name in summary["artifacts"])
    page = (finished / "report.html").read_text(encoding="utf-8")
    captions = re.findall(r"<figcaption>(.*?)</figcaption>", page)
    assert len(captions) == page.count("data:image/png") >= 8
    assert all(caption.endswith(".") for caption in captions)


@pytest.mark.slow
def test_every_strategy_meets_the_same_requests(finished: Any) -> None:
    minutes = pd.read_parquet(finished / "day/minutes.parquet")
    seen = minutes.pivot_table(index=["seed", "group", "minute"], columns="strategy", values=["qps", "requests"])
    for name in ("qps", "requests"):
        assert (seen[name].nunique(axis=1) == 1).all()
    assert np.isfinite(minutes.select_dtypes("number").to_numpy()).all()
    breakdown = pd.read_csv(finished / "day/who_gets_what.csv")
    totals = breakdown.groupby(["strategy", "dimension"])["requests"].sum().unstack()
    np.testing.assert_allclose(totals, totals.iloc[0, 0])
    choices = breakdown[[f"a1={choice}" for choice in range(4)]].sum(axis=1)
    np.testing.assert_allclose(choices, breakdown["requests"])


@pytest.mark.slow
def test_finished_stages_are_reused_and_only_what_depends_on_a_change_runs_again(finished: Any) -> None:
    before = read_json(finished / "summary.json")
    again = run(finished, "world.truth.cache=null")
    assert again.returncode == 0
    assert again.stderr.count("reused") == len(before["stage_s"])
    reused = read_json(finished / "summary.json")
    assert [reused[key] for key in ("strategies", "stage_s")] == [before[key] for key in ("strategies", "stage_s")]
    assert reused["peak_rss_mb"] == pytest.approx(before["peak_rss_mb"], rel=0.1)
    shorter = run(finished, "world.truth.cache=null", "day.strategies.static.patience=3")
    assert shorter.returncode == 0
    assert shorter.stderr.count("reused") == len(before["stage_s"]) - 1


@pytest.mark.slow
def test_a_failed_strategy_stands_in_the_summary_and_a_failed_baseline_is_one_line(finished: Any) -> None:
    before = read_json(finished / "summary.json")
    sets = ["world.truth.cache=null", f"day.strategies.raises={{kind: '{FAILING}:Raises'}}"]
    done = run(finished, *sets, "day.attribution.broken=raises", "day.oracle=raises")
    assert done.returncode == 0, done.stderr[-3000:]
    summary = read_json(finished / "summary.json")
    reason = "strategy raises, data centre south, seed 100: RuntimeError: out of ideas: none is left"
    assert summary["failed"] == {"raises": reason}
    assert done.stderr.count(reason) == 1
    assert list(summary["strategies"]) == list(before["strategies"])
    assert {one["oracle_share_pct"] for one in summary["strategies"].values()} == {None}
    assert "broken" not in (finished / "day/attribution.csv").read_text()
    assert reason in (finished / "report.html").read_text(encoding="utf-8")
    refused = run(finished, *sets, "day.baseline=raises")
    assert refused.returncode == 2
    assert refused.stderr.strip().splitlines()[-1].endswith(reason)
    assert "Traceback" not in refused.stderr
    assert read_json(finished / "summary.json") == summary  # what stood there still does
    assert (finished / "day/minutes.parquet").exists()


@pytest.mark.slow
def test_an_interrupted_run_goes_on_and_ends_the_same(finished: Any, tmp_path: Path) -> None:
    out, overrides = tmp_path / "run", ("world.truth.cache=null", "day.seeds=[100]", "day.days=0.01")
    shutil.copytree(finished / "logs", out / "logs")
    process = subprocess.Popen(
        command(out, *overrides),
        cwd=REPOSITORY,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    deadline = time.monotonic() + 300
    while not (out / "values").exists() and time.monotonic() < deadline:
        time.sleep(0.2)
    time.sleep(1.0)
    os.killpg(process.pid, signal.SIGINT)  # what Ctrl-C does: the whole foreground group
    errors = process.communicate(timeout=120)[1]
    assert process.returncode == 130
    assert "the same command goes on" in errors
    assert not (out / "summary.json").exists()
    assert run(out, *overrides).returncode == 0
    one, other = read_json(out / "summary.json"), read_json(finished / "summary.json")
    assert one["spearman"] == other["spearman"]
    assert one["return_pct"] == other["return_pct"]


@pytest.mark.slow
def test_an_output_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    blocker = tmp_path / "file"
    blocker.write_text("")
    refused = run(blocker / "run")
    assert refused.returncode == 2
    assert "cannot write" in refused.stderr
    assert "Traceback" not in refused.stderr


def test_a_run_needs_the_world_or_own_logs() -> None:
    with pytest.raises(UserError, match="give either world or logs"):
        load_config(Orchestration, SMOKE, ["world=null"])
