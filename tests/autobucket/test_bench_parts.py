"""The bench's parts by themselves: schedules, buckets, clocks, HTTP parsing, settings."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autobucket.bench.bench_config import BenchTrafficConfig, BucketsConfig, TestbenchConfig
from autobucket.bench.findings.analysis import bucket_table
from autobucket.bench.findings.result_predictor import ResultPredictor
from autobucket.bench.measuring.bench_requests import make_requests, payloads
from autobucket.bench.measuring.buckets import (
    RequestBucket,
    choose_buckets,
    make_buckets,
    quantile_edges,
    replay_sample,
    target_aware_edges,
)
from autobucket.bench.measuring.campaign import Measured
from autobucket.bench.measuring.load import LoadWindow, schedule
from autobucket.bench.measuring.records import Cell, Record, standard_error_pct
from autobucket.bench.target.clocks import (
    CgroupClock,
    MachineReading,
    TreeClock,
    WorkerClock,
    machine_percent,
    process_seconds,
    read_machine,
)
from marca_common.config import load_config
from marca_common.errors import UserError
from marca_common.seeding import numpy_generator


@pytest.mark.parametrize("kind", ["poisson", "jittered", "constant"])
@given(rate=st.floats(0.5, 500), seconds=st.floats(0.1, 5), seed=st.integers(0, 99))
@settings(max_examples=30, deadline=None)
def test_schedule_keeps_the_rate_and_the_window(kind: Any, rate: Any, seconds: Any, seed: int) -> None:
    times = schedule(kind, rate, seconds, np.random.default_rng(seed))
    assert len(times) == max(round(rate * seconds), 1)
    assert (np.diff(times) >= 0).all()
    assert times[0] >= 0
    assert times[-1] < seconds


def test_constant_gaps_are_equal_and_jittered_ones_stay_near() -> None:
    even = schedule("constant", 10, 1, np.random.default_rng(0))
    np.testing.assert_allclose(even, np.arange(10) / 10 + 0.05)
    moved = schedule("jittered", 10, 1, np.random.default_rng(0), jitter=0.3)
    assert np.abs(moved - even).max() <= 0.03 + 1e-12
    assert np.abs(moved - even).max() > 0


def test_poisson_gaps_vary_like_a_poisson_process() -> None:
    gaps = np.diff(schedule("poisson", 2000, 10, np.random.default_rng(0)))
    assert gaps.std() / gaps.mean() == pytest.approx(1, abs=0.05)


def test_quantile_edges_by_hand() -> None:
    assert quantile_edges(np.arange(1, 9), 4).tolist() == [2, 4, 6]
    assert quantile_edges(np.array([5, 5, 5, 5]), 3).tolist() == []
    assert quantile_edges(np.array([1, 1, 1, 1, 1, 9]), 2).tolist() == []  # ties stay together


def test_target_aware_edges_find_the_step() -> None:
    x = np.arange(40.0)
    assert target_aware_edges(x, (x >= 13) * 5.0, 2, 3).tolist() == [13]
    assert target_aware_edges(x, (x >= 1) * 5.0, 2, 5).tolist() != [1]  # the minimum count forbids it


def brute_force_edges(x: Any, target: Any, bins: Any, min_count: Any) -> Any:
    """Least squared error over every choice of inner edges."""
    from itertools import combinations

    best = np.inf
    for k in range(bins):
        for edges in combinations(np.unique(x)[1:], k):
            cell = np.searchsorted(edges, x, side="right")
            if np.bincount(cell, minlength=k + 1).min() >= min_count:
                error = sum(((target[cell == c] - target[cell == c].mean()) ** 2).sum() for c in range(k + 1))
                best = min(best, error)
    return best


@given(seed=st.integers(0, 50), bins=st.integers(1, 4), min_count=st.integers(1, 4))
@settings(max_examples=30, deadline=None)
def test_target_aware_edges_are_optimal(seed: int, bins: Any, min_count: Any) -> None:
    generator = np.random.default_rng(seed)
    x, target = generator.integers(0, 10, 16).astype(float), generator.normal(size=16)
    edges = target_aware_edges(x, target, bins, min_count)
    cell = np.searchsorted(edges, x, side="right")
    assert np.bincount(cell).min() >= min_count
    error = sum(((target[cell == c] - target[cell == c].mean()) ** 2).sum() for c in np.unique(cell))
    assert error == pytest.approx(brute_force_edges(x, target, bins, min_count), abs=1e-9)


def scouted(n: int = 600, seed: int = 0) -> Any:
    requests = make_requests(BenchTrafficConfig(), seed, "test", count=n)
    generator = np.random.default_rng(seed)
    requests["retrieved"] = (requests["queue_a"] + requests["queue_b"]).astype(int) + generator.integers(0, 5, n)
    requests["preranked"] = np.minimum(requests["retrieved"], requests["truncation"].astype(int))
    return requests


def test_buckets_hold_each_request_once_and_never_mix_strata() -> None:
    config, frame = BucketsConfig(min_count=3), scouted()
    buckets = make_buckets(config, frame, "value")
    rows = np.concatenate([bucket.rows for bucket in buckets])
    assert len(rows) == len(set(rows.tolist()))
    assert len(rows) > 0.9 * len(frame)
    for bucket in buckets:
        part = frame.loc[bucket.rows]
        assert bucket.count >= 3
        assert part["value"].nunique() == 1
        for name, setting in bucket.strata.items():
            assert (part[name].astype(str) == setting).all()
        for name, (low, high) in bucket.bounds.items():
            assert part[name].between(low, high).all()
            assert bucket.means[name] == pytest.approx(part[name].mean())
    assert buckets[0].label().startswith("behaviour+graph · heavy · high")


def test_the_replay_sample_is_spread_over_the_bucket() -> None:
    frame = scouted(2000)
    bucket = max(make_buckets(BucketsConfig(min_count=3), frame, "value"), key=lambda one: one.count)
    sample = replay_sample(bucket, frame[["retrieved", "preranked"]], 5, seed=0)
    assert len(set(sample)) == 5
    assert set(sample) <= set(bucket.rows)
    total = frame.loc[bucket.rows, "retrieved"] + frame.loc[bucket.rows, "preranked"]
    assert total[sample].mean() == pytest.approx(total.mean(), rel=0.15)
    everything = replay_sample(bucket, frame[["retrieved", "preranked"]], 10_000, seed=0)
    assert sorted(everything) == sorted(bucket.rows)


def test_the_choice_of_buckets_covers_every_setting() -> None:
    buckets = make_buckets(BucketsConfig(min_count=2, values=[["low", "mid", "high"]]), scouted(1500), "value")
    chosen = choose_buckets(buckets, 12, ["channels", "model"])
    assert len(chosen) == 12
    counts = pd.DataFrame([bucket.strata for bucket in chosen])
    assert counts["channels"].value_counts().tolist() == [2] * 6
    assert counts["model"].value_counts().tolist() == [6, 6]
    means = [bucket.means["retrieved"] for bucket in chosen]
    everything = [bucket.means["retrieved"] for bucket in buckets]
    assert min(means) <= np.quantile(everything, 0.2)
    assert max(means) >= np.quantile(everything, 0.8)


def test_buckets_refuse_what_they_cannot_group() -> None:
    frame = scouted(60)
    with pytest.raises(UserError, match="'nothing' is no field"):
        make_buckets(BucketsConfig(strata=["nothing"]), frame, "value")
    with pytest.raises(UserError, match="no usable number 'ranked'"):
        make_buckets(BucketsConfig(lengths={"ranked": 3}), frame, "value")
    with pytest.raises(UserError, match="no group of the 60"):
        make_buckets(BucketsConfig(min_count=50), frame, "value")
    with pytest.raises(UserError, match=r"'(mid|high)' is in no group"):
        make_buckets(BucketsConfig(values=[["low"]]), frame, "value")
    with pytest.raises(UserError, match=r"group \['huge'\] has no request"):
        make_buckets(BucketsConfig(values=[["low", "mid", "high"], ["huge"]]), frame, "value")


def test_traffic_is_reproducible_and_a_user_keeps_its_value(tmp_path: Path) -> None:
    first, again = (make_requests(BenchTrafficConfig(users=20), 3, "x", count=300) for _ in range(2))
    pd.testing.assert_frame_equal(first, again)
    assert (first.groupby("user")["value"].nunique() == 1).all()
    assert payloads(first.head(1))[0]["user"] == int(first["user"][0])
    first.to_csv(tmp_path / "table.csv", index=False)
    table = make_requests(BenchTrafficConfig(table=tmp_path / "table.csv"), 3, "x", count=10)
    assert list(table.columns) == list(first.columns)
    with pytest.raises(UserError, match="column 'worth'"):
        make_requests(BenchTrafficConfig(table=tmp_path / "table.csv", value="worth"), 3)
    with pytest.raises(UserError, match="no such file"):
        make_requests(BenchTrafficConfig(table=tmp_path / "absent.csv"), 3)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"value,n\nlow,1,9\n", "row 1 has more fields than the 2 columns: value, n"),
        (b"value,n,n\nlow,1,2\n", "columns 'n' and 'n'; expected one column 'n'"),
        ("value,n\nl\u00f6w,1\n".encode("latin-1"), "not UTF-8 text"),
        (b"value;n\nlow;1\n", r"column 'value' \(request value\) is missing; found value;n"),
        (b"PAR1", "holds Parquet; expected text by its name"),
        (b"value,n\n", "the file has no rows"),
        (b"", "the file has no rows"),
    ],
)
def test_a_broken_table_of_requests_is_one_line(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "t.csv").write_bytes(content)
    with pytest.raises(UserError, match=f"t.csv: {message}"):
        make_requests(BenchTrafficConfig(table=tmp_path / "t.csv"), 3)


def test_a_table_of_requests_keeps_all_its_columns_in_every_packing(tmp_path: Path) -> None:
    frame = pd.DataFrame({"user": [7, 8], "value": ["low", "high"], "new": [True, False], "share": [0.5, np.nan]})
    (tmp_path / "parts").mkdir()
    frame.to_csv(tmp_path / "t.CSV.GZ", index=False, compression="gzip")
    frame.to_parquet(tmp_path / "t.PQ")
    for k in range(2):
        frame.iloc[[k]].to_csv(tmp_path / f"parts/part-{k}.csv", index=False)
    expected = [{"user": 7, "value": "low", "new": True, "share": 0.5}, {"user": 8, "value": "high", "new": False}]
    for name in ("t.CSV.GZ", "t.PQ", "parts"):
        found = payloads(make_requests(BenchTrafficConfig(table=tmp_path / name), 3, count=50))
        assert all(one in expected for one in found)
        assert all(one in found for one in expected)


def fake_process(pid: Any, children: Any = ()) -> Any:
    return SimpleNamespace(pid=pid, children=lambda: list(children))


def test_tree_clock_gives_each_service_its_own_tree(monkeypatch: pytest.MonkeyPatch) -> None:
    worker, ranking_worker = fake_process(3), fake_process(5)
    ranking = fake_process(4, [ranking_worker])
    front = fake_process(2, [worker, ranking])
    processes = {2: front, 4: ranking}
    monkeypatch.setattr("autobucket.bench.target.clocks.psutil.Process", lambda pid: processes[pid])
    seconds = {2: 1.0, 3: 0.5, 4: 7.0, 5: 0.25}
    clock = TreeClock({"front": 2, "ranking": 4}, lambda process: seconds[process.pid])
    assert clock.read() == {"front": 1.5, "ranking": 7.25}


def test_the_kernel_clock_of_this_process_moves_with_work() -> None:
    import os

    import psutil

    me = psutil.Process(os.getpid())
    before = process_seconds(me)
    total = 0
    while process_seconds(me) < before + 0.02:
        total += sum(range(1000))
    assert process_seconds(me) > before


def test_a_worker_clock_reads_what_its_thread_noted() -> None:
    clock = WorkerClock("worker")
    assert clock.read() == {"worker": 0.0}
    spent = []

    def work() -> None:
        while time.thread_time() < 0.02:
            sum(range(1000))
        clock.note()
        spent.append(time.thread_time())

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert 0.02 <= clock.read()["worker"] <= spent[0]  # and nothing of this thread


def test_cgroup_clock_reads_both_versions(tmp_path: Path) -> None:
    new, old = tmp_path / "v2", tmp_path / "v1"
    new.mkdir()
    old.mkdir()
    (new / "cpu.stat").write_text("usage_usec 2500000\nuser_usec 1\n")
    (old / "cpuacct.usage").write_text("2500000000\n")
    assert CgroupClock(new, "s").read() == CgroupClock(old, "s").read() == {"s": 2.5}
    with pytest.raises(UserError, match=r"neither cpu\.stat"):
        CgroupClock(tmp_path, "s")


def test_machine_percent_by_hand() -> None:
    assert machine_percent(MachineReading(10, 100), MachineReading(13, 110)) == pytest.approx(30)
    assert np.isnan(machine_percent(MachineReading(1, 5), MachineReading(1, 5)))
    whole, first = read_machine(), read_machine([0])
    assert 0 <= first.busy <= first.total
    assert whole.busy <= whole.total


def test_standard_error() -> None:
    assert standard_error_pct([1.0]) == float("inf")
    assert standard_error_pct([9.0, 11.0]) == pytest.approx(10.0)  # sd 1.414 / sqrt 2 = 1 of 10
    assert standard_error_pct([5.0, 5.0, 5.0]) == 0


def cell_window(cpu_s: float, ok: int = 100) -> LoadWindow:
    return LoadWindow(10, 10, ok, ok, 0, 0, 10, {"ranking": cpu_s}, 10, (0, 0), [0.0], [5.0])


@pytest.mark.parametrize(
    ("cpu_s", "cv", "machine"),
    [
        ((3.0, 5.0), 100 * np.sqrt(2) / 3, (100 / 20 + 100 / 40) / 2 - 1),  # 20 and 40 core-ms; the machine says 100
        ((0.5, 0.2), np.nan, np.nan),  # less CPU than without requests: no share of it means anything
        ((1.0, 1.0), np.nan, np.nan),  # as much
        ((0.5, 3.0), 100 * np.sqrt(2) * 12.5 / 7.5, 100 / 20 - 1),  # -5 and 20 core-ms
    ],
)
def test_spread_of_a_cell_is_unknown_where_its_cost_is_lost_in_idle_cpu(
    cpu_s: tuple[float, float], cv: float, machine: float
) -> None:
    records = [Record(k, "idle", cell_window(1.0)) for k in range(2)]
    records += [Record(k, "cell", cell_window(cpu_s[k]), Cell("b00", 10)) for k in range(2)]
    buckets = [RequestBucket("b00", {}, "low", {}, {}, np.arange(3))]
    table = bucket_table(TestbenchConfig(), Measured(buckets, 1, records, pd.DataFrame()), 10)
    assert table["cv_pct"][0] == pytest.approx(cv, nan_ok=True)
    assert table["machine_vs_process_pct"][0] == pytest.approx(100 * machine, nan_ok=True)
    assert not table["valid"][0]


def test_predictor_learns_products_of_fields() -> None:
    frame = scouted(800)
    fields = ["channels", "queue_a", "queue_b", "model", "truncation", "value"]
    model = ResultPredictor.fit(frame, fields, ["retrieved", "preranked"])
    fresh = scouted(400, seed=1)
    guess = model.predict(fresh)
    assert guess["retrieved"].sum() == pytest.approx(fresh["retrieved"].sum(), rel=0.03)
    assert np.corrcoef(guess["preranked"], fresh["preranked"])[0, 1] > 0.9


@pytest.mark.parametrize(
    "override,message",
    [
        ("target.address=10.1.2.3", "not loopback"),
        ("target.kind=callable", "module:function"),
        ("load.rates=[5,5]", "positive and different"),
        ("load.degradations=[1]", "must begin with 0"),
        ("load.max_rounds=2", "at least min_rounds"),
        ("load.window=3", "did you mean 'window_s'"),
        ("max_seconds=100000", "less than or equal"),
    ],
)
def test_settings_refuse(override: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        load_config(TestbenchConfig, "configs/autobucket/testbench.yaml", [override])


def test_an_address_can_be_allowed_by_name() -> None:
    overrides = ["target.address=10.1.2.3", "target.allow_addresses=[10.1.2.3]"]
    assert load_config(TestbenchConfig, None, overrides).target.address == "10.1.2.3"


def test_streams_do_not_depend_on_each_other() -> None:
    a = numpy_generator(0, "autobucket", "bench", "order", 1).random()
    assert a != numpy_generator(0, "autobucket", "bench", "order", 2).random()


def test_the_estimators_own_cost_is_measured(tmp_path: Path) -> None:
    from autobucket.bench.findings.estimator_cost import estimator_cost
    from autobucket.config import TrainConfig
    from autobucket.results.estimator import Estimator, build_model
    from autobucket.results.tasks import Task
    from marca_common.encoding import StateEncoder

    config = load_config(TrainConfig, "configs/autobucket/smoke.yaml")
    frame = pd.DataFrame(
        {name: ["x", "y"] if kind == "category" else [0.0, 1.0] for name, kind in config.data.spec.state.items()}
    )
    encoder = StateEncoder.fit(frame, config.data.spec.state)
    tasks = [
        Task.fit(name, task, np.array([0.0, 1.0]), np.array([0, 1]), config.data.spec.n_joint)
        for name, task in config.tasks.items()
    ]
    weights = build_model(config, encoder).state_dict()
    Estimator(config, encoder, tasks, [0] * len(tasks), {0: weights}).save(tmp_path / "estimator.pt")
    cost = estimator_cost(tmp_path / "estimator.pt", requests=4, seed=0)
    assert cost["joint_actions"] == len(config.data.spec.joint_table())
    assert cost["single_ms"] > 0
    assert cost["batched_ms"] > 0
