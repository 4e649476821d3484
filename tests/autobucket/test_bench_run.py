"""The whole bench on a target whose true cost is known, and in miniature on the real example service."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from autobucket.bench.bench_config import TestbenchConfig
from autobucket.bench.findings.analysis import service_costs, why_not
from autobucket.bench.measuring.records import read_journal
from autobucket.costs.cost_config import FitCostsConfig
from autobucket.fit_costs import fit_costs
from autobucket.testbench import main
from autobucket.testbench import testbench as run_bench
from marca_common.config import load_config
from marca_common.errors import UserError
from tests.autobucket.bench_fakes import FakeTarget, true_cost_ms, virtual_time, work

TINY = [
    "traffic.requests=800",
    "buckets.most=16",
    "buckets.values=[[low,mid,high]]",
    "load.rates=[1000,400]",
    "load.second_rate_buckets=2",
    "load.window_s=0.02",
    "load.warmup_s=0",
    "load.idle_s=0.01",
    "load.noop_s=0.01",
    "load.pause_s=0",
    "load.min_rounds=2",
    "load.max_rounds=3",
    "load.replay_s=0.2",
    "load.degradations=[0,1]",
    "load.degradation_buckets=2",
    "accounting.pin=false",
    "accounting.idcs=[bench]",
]


def tiny(*more: Any) -> Any:
    return load_config(TestbenchConfig, "configs/autobucket/testbench.yaml", [*TINY, *more])


@pytest.fixture(scope="module")
def known(tmp_path_factory: pytest.TempPathFactory) -> Any:
    out = tmp_path_factory.mktemp("bench") / "run"
    with virtual_time():
        return run_bench(tiny(), out, make_target=FakeTarget)


@pytest.fixture
def on_virtual_time() -> Iterator[Any]:
    with virtual_time():
        yield


@pytest.fixture
def no_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Figures are drawn once, for the known target."""
    monkeypatch.setattr("autobucket.testbench.draw_bench", lambda *_: {})
    monkeypatch.setattr("autobucket.fit_costs.draw_cost_maps", lambda *_: None)


def test_known_costs_are_found(known: Any) -> None:
    summary = known.summary
    assert set(summary) >= {
        "cv_median",
        "fit_error_pct",
        "replay_error_pct",
        "machine_vs_process_pct",
        "rate_sensitivity_pct",
        "buckets_valid",
        "wall_s",
    }
    assert summary["lost"] == 0
    assert summary["buckets_valid"] == summary["buckets"] == 16 + 2 + 2
    assert summary["noop_ms"] == pytest.approx(0.02, rel=1e-6)
    assert summary["fit_error_pct"] < 2
    assert summary["replay_error_realised_pct"] < 4
    assert summary["replay_error_pct"] < 7
    table = known.buckets
    row = table[table["degradation"] == 0].iloc[0]
    request = {"channels": row["channels"], "model": row["model"]}
    true = true_cost_ms(request, row["retrieved"], row["preranked"])  # linear, so the mean request costs the mean
    assert row["cost_ms"] == pytest.approx(sum(true.values()), rel=1e-6)
    assert row["cost_retrieval_ms"] == pytest.approx(true["retrieval"], rel=1e-6)
    assert row["voluntary_switches"] == pytest.approx(2)
    assert (table["served_qps"] <= table["asked_qps"] + 1e-6).all()
    assert table["lateness_p99_ms"].max() < 1e-6  # nothing is late on a virtual clock
    assert row["machine_cost_ms"] == pytest.approx(
        500 * (os.cpu_count() or 1) / row["asked_qps"], rel=1e-6
    )  # half busy


def test_the_map_is_close_to_the_truth_between_buckets(known: Any) -> None:
    frame = pd.DataFrame(
        [
            {"channels": c, "model": m, "retrieved": r, "preranked": min(r, p)}
            for c in ("similar+popular", "similar+popular+behaviour+graph")
            for m in ("light", "heavy")
            for r in (20.0, 60.0)
            for p in (5.0, 30.0)
        ]
    )
    true = [sum(true_cost_ms(row, row["retrieved"], row["preranked"]).values()) for row in frame.to_dict("records")]
    np.testing.assert_allclose(service_costs(known.maps, frame).sum(axis=1), true, rtol=0.12)


def test_degradation_is_priced(known: Any) -> None:
    level_one = known.maps.degradation_cost("bench", 1.0)
    assert level_one[known.maps.services.index("ranking")] == pytest.approx(-0.01, abs=0.001)
    assert level_one[known.maps.services.index("retrieval")] == pytest.approx(0, abs=0.001)


def test_loadtest_rows_give_back_the_cost(known: Any) -> None:
    rows = known.loadtest
    idle, loaded = rows[rows["qps"] == 0], rows[rows["qps"] > 0]
    assert (idle["cpu_percent"] == 0).all()
    assert (idle["channels"] == "none").all()
    cost = 10 * loaded["cpu_percent"] * loaded["machines"] * loaded["cores"] / loaded["qps"]  # Eq. 26
    total = cost.groupby([loaded["bucket"], loaded["degradation"], loaded["round"]]).sum()
    table = known.buckets.query("degradation == 0").groupby("bucket")["cost_ms"].first()
    for name, value in table.items():
        assert total[name, 0.0].mean() / value == pytest.approx(
            known.buckets.query("bucket == @name and degradation == 0").shape[0], rel=1e-6
        )


def test_the_rows_can_be_fitted_again(known: Any, tmp_path: Path) -> None:
    config = FitCostsConfig(loadtest=known.out / "loadtest.csv", actions=tiny().actions, bootstrap=5)
    again = fit_costs(config, tmp_path / "fit")
    assert again.summary["median_error_pct"] < 2


def test_the_report_is_whole(known: Any) -> None:
    page = (known.out / "report.html").read_text()
    for text in (
        "Cost of a longer queue",
        "Mixed-action replay",
        "Edges of the buckets",
        "Eq. 26",
        "kernel",
        known.buckets["bucket"][0],
    ):
        assert text in page
    assert page.count("data:image/png;base64,") == 4
    content = json.loads((known.out / "report.json").read_text())
    assert len(content["buckets"]) == known.summary["buckets"]
    assert content["machine"]["target_threads"] == 1
    for name in (
        "buckets.png",
        "trust.png",
        "curves.png",
        "replay.png",
        "buckets.csv",
        "loadtest.csv",
        "costs/cost_maps.json",
    ):
        assert (known.out / name).stat().st_size > 0


def test_a_finished_bench_is_returned_as_it_is(known: Any) -> None:
    again = run_bench(tiny(), known.out, make_target=lambda: pytest.fail("measured again"))
    assert again.summary["fit_error_pct"] == known.summary["fit_error_pct"]
    assert len(again.loadtest) == len(known.loadtest)


def test_an_interrupted_bench_goes_on(tmp_path: Path, no_figures: Any, on_virtual_time: Any) -> None:
    config = tiny("load.second_rate_buckets=0", "load.degradations=[0]", "load.replay_s=0.05")
    with pytest.raises(KeyboardInterrupt):
        run_bench(config, tmp_path / "run", make_target=lambda: FakeTarget(interrupt_after=500))  # while scouting
    assert not (tmp_path / "run").exists()  # nothing yet to go on from
    targets = iter([FakeTarget(), FakeTarget(interrupt_after=100)])  # scouting again, then in the middle of round 0
    with pytest.raises(KeyboardInterrupt):
        run_bench(config, tmp_path / "run", make_target=lambda: next(targets))
    journal = next((tmp_path / "run").glob("unfinished-*")) / "windows.jsonl"
    early = read_journal(journal)
    assert any(one.kind == "cell" for one in early)
    with journal.open("a") as file:
        file.write('{"round": 0, "kind": "ce')  # cut off in the middle of a line
    result = run_bench(config, tmp_path / "run", make_target=FakeTarget)
    records = read_journal(tmp_path / "run" / "windows.jsonl")
    assert records[: len(early)] == early
    cells = [(one.round, one.cell) for one in records if one.kind == "cell"]
    assert len(cells) == len(set(cells)) == 2 * 16
    assert result.summary["buckets_valid"] == 16
    assert not list((tmp_path / "run").glob(".lock"))


def test_noise_between_rounds_makes_more_rounds_and_marks_what_did_not_converge(
    tmp_path: Path, no_figures: Any, on_virtual_time: Any
) -> None:
    config = tiny("load.second_rate_buckets=0", "load.degradations=[0]", "load.replay_s=0", "load.max_rounds=3")
    FakeTarget.rounds = 0
    result = run_bench(config, tmp_path / "run", make_target=lambda: FakeTarget(noise=0.2))
    assert (result.buckets["rounds"] == 3).all()
    assert result.summary["buckets_valid"] == 0
    assert result.buckets["why_not"].str.contains("not converged: standard error").all()
    assert result.summary["replay_error_pct"] != result.summary["replay_error_pct"]  # NaN: not measured
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["replay_error_pct"] is None


class LosesAfterScouting(FakeTarget):
    """Every third request under load fails."""

    def send(self, request: Any) -> Any:
        future = super().send(request)
        if self.sent % 3 == 0 and FakeTarget.rounds > 1:
            from dataclasses import replace

            future = type(future)(loop=future.get_loop())
            future.set_result(replace(super().send(request).result(), status="lost", results={}, detail="no answer"))
        return future


def test_losses_make_a_bucket_invalid_and_leave_no_rows(tmp_path: Path, no_figures: Any, on_virtual_time: Any) -> None:
    FakeTarget.rounds = 0
    config = tiny("load.second_rate_buckets=0", "load.degradations=[0]", "load.replay_s=0")
    result = run_bench(config, tmp_path / "run", make_target=LosesAfterScouting)
    assert result.summary["buckets_valid"] == 0
    assert result.summary["lost"] > 0
    assert result.buckets["why_not"].str.contains("requests lost or failed").all()
    assert (result.loadtest["qps"] == 0).all()
    assert result.maps is None
    assert "got only 0" in (tmp_path / "run" / "report.html").read_text()


def test_time_and_requests_are_bounded(tmp_path: Path, on_virtual_time: Any) -> None:
    with pytest.raises(UserError, match="max_requests"):
        run_bench(tiny("max_requests=100"), tmp_path / "a", make_target=FakeTarget)
    with pytest.raises(UserError, match="max_seconds"):
        run_bench(tiny("max_seconds=0.2"), tmp_path / "b", make_target=FakeTarget)
    assert not (tmp_path / "b" / "summary.json").exists()


def test_a_rate_beyond_the_cores_is_refused_before_the_rounds(tmp_path: Path, on_virtual_time: Any) -> None:
    with pytest.raises(
        UserError,
        match=r"load.rates: got 1e\+07 requests/s; at 0\.\d+ core-ms .* cores or more, .*; expected at most \d+",
    ) as refused:
        run_bench(tiny("load.rates=[1000,10000000]"), tmp_path / "run", make_target=FakeTarget)
    assert not (tmp_path / "run").exists()
    fits = float(str(refused.value).rpartition(" ")[2])
    with pytest.raises(UserError, match="max_requests"):  # it is not the rate any more
        run_bench(tiny(f"load.rates=[1000,{fits}]", "max_requests=801"), tmp_path / "run", make_target=FakeTarget)


def test_the_command_line_says_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["--quick", "--out", str(tmp_path / "x"), "--set", "target.command=[no-such-program-here]"]
    with pytest.raises(SystemExit) as ended:
        main(command)
    assert ended.value.code == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if line.strip()]
    assert lines[-1].startswith("error: target.command: cannot start 'no-such-program-here'")


@pytest.mark.slow
def test_the_real_bench_in_miniature(tmp_path: Path) -> None:
    overrides = [
        "traffic.requests=150",
        "buckets.most=6",
        "buckets.min_count=2",
        "load.window_s=0.6",
        "load.rates=[25]",
        "load.min_rounds=2",
        "load.max_rounds=2",
        "load.replay_s=1.5",
        "load.warmup_s=0.5",
        "max_seconds=1800",
        "target.request_timeout_s=60",
        "target.start_timeout_s=600",
        "validity.slow_pct=100",
    ]
    config = load_config(TestbenchConfig, "configs/autobucket/testbench_quick.yaml", overrides)
    result = run_bench(config, tmp_path / "run")
    assert result.summary["lost"] == 0
    assert result.summary["buckets"] == 6
    assert (result.buckets["cost_ms"] > 0).all()
    assert set(result.loadtest["service"]) == {"retrieval", "ranking"}
    assert set(result.loadtest["idc"]) == {"north", "south"}
    assert result.summary["noop_ms"] < result.summary["cost_median_ms"]


def test_a_function_of_ones_own_is_measured(tmp_path: Path, no_figures: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """On the real clock, but with a CPU clock that counts work and without a limit that a loaded machine could break."""
    monkeypatch.setattr("time.thread_time", lambda: getattr(work, "done", 0) / 40_000)
    config = TestbenchConfig(
        target={
            "kind": "callable",
            "callable": "tests.autobucket.bench_fakes:burn",
            "service": "mine",
            "request_timeout_s": 60,
        },
        traffic={"requests": 60, "fields": {"size": [40, 80, 200, 400]}},
        buckets={"strata": [], "lengths": {"length": 4}, "values": [["low", "mid", "high"]], "min_count": 2},
        load={
            "rates": [60],
            "window_s": 0.2,
            "warmup_s": 0,
            "idle_s": 0.05,
            "pause_s": 0,
            "min_rounds": 3,
            "max_rounds": 3,
            "replay_s": 0.3,
        },
        validity={"slow_pct": 100, "lateness_ms": 1e6},
    )
    result = run_bench(config, tmp_path / "run")
    assert result.summary["lost"] == 0
    assert result.summary["buckets"] == result.summary["buckets_valid"] == 4
    cost = result.buckets.sort_values("length")["cost_ms"].to_numpy()
    np.testing.assert_allclose(cost, [1, 2, 5, 10])  # a fortieth of a core-ms for each unit of size
    assert result.maps is not None
    fitted = result.maps.cost("bench", "mine", {"length": np.array([40.0, 400.0])})
    assert fitted[1] > 5 * fitted[0]
    assert result.summary["replay_error_realised_pct"] < 10
    assert np.isnan(result.summary["noop_ms"])
    assert result.maps.actions.channels is None


def test_why_not_names_every_reason() -> None:
    config = tiny("validity.slow_pct=5", "validity.lateness_ms=25")
    good = {
        "lost": 0,
        "errors": 0,
        "requests": 100,
        "served_qps": 49.0,
        "asked_qps": 50.0,
        "lateness_p99_ms": 3.0,
        "rounds": 3,
        "se_pct": 2.0,
    }
    assert why_not(config, good) == ""
    assert why_not(config, good | {"served_qps": 30.0}) == "served 30 of 50 requests/s asked"
    assert why_not(config, good | {"lost": 2, "errors": 1}) == "3 % of requests lost or failed"
    assert why_not(config, good | {"lateness_p99_ms": 40.0}) == "generator 40 ms late (p99)"
    assert why_not(config, good | {"rounds": 1}) == "1 of 2 rounds"
    both = why_not(config, good | {"se_pct": 4.0, "served_qps": 10.0})
    assert both == "served 10 of 50 requests/s asked; not converged: standard error 4 %"
