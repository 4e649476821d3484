"""The logs: readable by the shared schemas, honest propensities, the same bytes again, an interrupted run goes on."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from cascade_world.config import WorldConfig
from cascade_world.generate import generate
from cascade_world.portrait.properties import sample_states
from cascade_world.records.load_tests import degraded_lengths
from cascade_world.records.logging_policies import LoggingPolicy
from cascade_world.records.request_log import request_log, serve
from cascade_world.request_luck import hash_columns
from cascade_world.sample import sample
from cascade_world.world import World, load_truth
from marca_common.config import dump_yaml, load_config
from marca_common.errors import UserError
from marca_common.load_test_table import load_test_schema
from marca_common.requests import RequestSpec
from marca_common.scores import read_scores
from marca_common.system import system_schema
from marca_common.tables import read_table

LOADTEST = load_test_schema(["channels", "model"], ["retrieved", "preranked"])


@pytest.fixture(scope="module")
def generated(make_config: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    config = make_config("logs.requests=6000", "logs.system_days=0.2", "truth.reference_states=40")
    return generate(config, tmp_path_factory.mktemp("world"))


def test_files_have_the_documented_columns(generated: Any) -> None:
    folder, world = generated.folder, generated.world
    log = world.spec.read(folder / "logs/requests.parquet", results=True)
    assert len(log) == 6000
    assert log["timestamp"].is_monotonic_increasing
    raw = pd.read_parquet(folder / "logs/requests.parquet")
    assert list(raw.columns) == [
        "timestamp", "user_value", "placement", "segment", "idc", "a1", "a2", "a3", "a4", "a5", "retrieved", "preranked",
        "impressions", "clicks", "gmv", "spend", "predicted_value", "revenue", "propensity",
    ]  # fmt: skip
    assert (raw["preranked"] <= raw["retrieved"]).all()
    assert (raw["revenue"] == (raw["spend"] + 0.1 * raw["gmv"])).mean() > 0.7
    assert raw.loc[raw["clicks"] == 0, "revenue"].max() == 0
    system = read_table(folder / "logs/system.parquet", system_schema(world.services, 6))
    assert len(system) == 2 * (288 - 1)
    assert system["lambda_ranking"].nunique() > 20
    rows = read_table(folder / "logs/loadtest.csv", LOADTEST)
    assert (rows.loc[rows["qps"] == 0, "channels"] == "none").all()
    assert set(rows["degradation"]) == {0, 1, 2, 3, 4}


def test_truth_lies_apart_and_is_found_again(generated: Any) -> None:
    truth = load_truth(generated.folder)
    references = read_scores(generated.folder / "truth/references.parquet", truth.request_spec())
    assert references.scores["truth"] == pytest.approx(truth.values(references.states))
    states = pd.read_parquet(generated.folder / "truth/states.parquet")
    assert states["count"].sum() == 6000
    with pytest.raises(UserError, match="not a generated world"):
        load_truth(generated.folder / "logs")
    (generated.folder / "config.yaml").write_text(dump_yaml(generated.world.config).replace("seed: 0", "seed: 5", 1))
    with pytest.raises(UserError, match="truth of another config"):
        load_truth(generated.folder)
    (generated.folder / "config.yaml").write_text(dump_yaml(generated.world.config))


def test_generating_again_gives_the_same_bytes(generated: Any, tmp_path: Path) -> None:
    config = generated.world.config.model_copy(update={"workers": 1})
    generate(config, tmp_path)
    for name in ("logs/requests.parquet", "logs/system.parquet", "logs/loadtest.csv", "truth/references.parquet"):
        assert (tmp_path / name).read_bytes() == (generated.folder / name).read_bytes(), name


def test_finished_parts_are_kept_and_another_config_starts_anew(
    generated: Any, make_config: Any, tmp_path: Path
) -> None:
    config = make_config("logs.requests=500", "logs.system_days=0.02")
    generate(config, tmp_path)
    (tmp_path / "logs/loadtest.csv").unlink()
    before = (tmp_path / "logs/requests.parquet").stat().st_mtime_ns
    generate(config, tmp_path)
    assert (tmp_path / "logs/loadtest.csv").is_file()
    assert (tmp_path / "logs/requests.parquet").stat().st_mtime_ns == before
    generate(config.model_copy(update={"seed": 4}), tmp_path)
    assert (tmp_path / "logs/requests.parquet").stat().st_mtime_ns != before


def test_more_rows_leave_the_luck_of_a_request_alone(world: Any) -> None:
    """A request's candidates and clicks depend on its number, not on who else is in the log."""
    codes = sample_states(world, 60)
    joint = np.arange(60) * 11
    whole = serve(world, 3, 0, codes, joint)
    part = serve(world, 3, 20, codes[20:40], joint[20:40])
    pd.testing.assert_frame_equal(whole.iloc[20:40].reset_index(drop=True), part)


def test_propensities_are_those_of_the_policy(world: Any) -> None:
    policy = LoggingPolicy(world)
    codes = sample_states(world, 30)
    full = policy.probabilities(codes)
    assert full.sum(axis=1) == pytest.approx(np.ones(30))
    assert full.min() == pytest.approx(0.4**5 / 1000)
    joint, propensity = policy.act(codes, hash_columns(5, np.arange(30)))
    assert propensity == pytest.approx(full[np.arange(30), joint])
    many = np.repeat(codes[:1], 40_000, axis=0)
    drawn, _ = policy.act(many, hash_columns(6, np.arange(40_000)))
    share = np.bincount(drawn, minlength=world.space.n_joint) / 40_000
    top = np.argsort(full[0])[-5:]
    assert share[top] == pytest.approx(full[0, top], abs=0.01)


def test_late_segments_appear_late(make_config: Any) -> None:
    world = World(make_config("states.late_segments=0.3", "states.segments=30"))
    log = request_log(world, rows=4000)
    late = {world.population.values["segment"][i] for i in np.flatnonzero(world.population.birth)}
    half = log["timestamp"] < log["timestamp"].iloc[0] + pd.Timedelta(days=10)
    assert not late & set(log.loc[half, "segment"])
    assert late & set(log.loc[~half, "segment"])


def test_load_test_rows_give_the_cost_back(generated: Any) -> None:
    """Eq. 26 on the rows, less idle, is the cost of the bucket up to the declared noise; f(D) is negative."""
    rows = read_table(generated.folder / "logs/loadtest.csv", LOADTEST)
    world = generated.world
    part = rows[(rows["idc"] == "south") & (rows["service"] == "ranking") & (rows["qps"] > 0)]
    part = part[(part["degradation"] == 0) & (part["retrieved"] == 120) & (part["preranked"] == 50)]
    measured = (part["cpu_percent"] - 2.0) / 100 * part["machines"] * part["cores"] * 1000 / part["qps"]
    truth = world.costs.cost(1, 0, 0, [0, 1, 2, 3], 120, 50)[1]
    assert measured.median() == pytest.approx(truth, rel=0.04)
    shorter = degraded_lengths(world, 120, 50, 1)
    assert shorter[0] < 120
    assert shorter[1] < 50


def test_command_line_reports_bad_input_in_one_line(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "cascade_world.generate", "--config", "configs/cascade_world/small.yaml"]
    bad = subprocess.run(
        [*command, "--out", str(tmp_path / "x"), "--set", "traffic.peak_qps=-1"], capture_output=True, text=True
    )
    assert bad.returncode == 2
    assert bad.stderr.count("\n") == 1
    assert "traffic.peak_qps: got -1" in bad.stderr
    assert not (tmp_path / "x").exists()


def test_tracked_sample_regenerates_bit_for_bit(tmp_path: Path) -> None:
    config = load_config(WorldConfig, "configs/cascade_world/sample.yaml")
    sample(config, tmp_path)
    tracked = sorted(path.name for path in Path("data/sample").glob("*.csv"))
    assert tracked == sorted(path.name for path in tmp_path.iterdir())
    for name in tracked:
        assert (tmp_path / name).read_bytes() == (Path("data/sample") / name).read_bytes(), name


def test_sample_in_the_papers_form_is_readable_by_configuration_alone() -> None:
    """Module 1: header-less ``uv,w,g,i,a1..a5,reward``."""
    names = ["uv", "w", "g", "i", "a1", "a2", "a3", "a4", "a5", "reward"]
    spec = RequestSpec(
        state=dict.fromkeys(names[:4], "category"), reward="reward", timestamp=None, propensity=None, header=names
    )
    log = spec.read("data/sample/paper_module1.csv")
    assert len(log) == 400
    assert log["reward"].max() > 0
