"""Translated tables are those that the example was made from; the declaration refuses what does not fit together."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from marca_common.config import load_config
from marca_common.errors import UserError
from marca_loop.settings import Orchestration
from mpc_balancer.system_model.minute_table import read_system
from own_system.check import find_all
from own_system.declaration import OwnSystem
from own_system.translate import translate
from tests.own_system.foreign import declared

RENAMED = {"user_value": "tier", "placement": "page", "segment": "audience", "idc": "site", "a1": "sources", "a2": "depth_a",
           "a3": "depth_b", "a4": "scorer", "a5": "cut", "predicted_value": "guess"}  # fmt: skip


def test_the_tables_come_back_in_our_units(example: Path, small_world: Path, tmp_path: Path) -> None:
    translate(declared(example), tmp_path)
    log, original = (
        pd.read_parquet(tmp_path / "requests.parquet"),
        pd.read_parquet(small_world / "logs/requests.parquet"),
    )
    original = original.rename(columns=RENAMED)
    for name in ("sources", "depth_a", "depth_b", "scorer", "cut", "retrieved", "preranked"):
        assert (log[name].to_numpy() == original[name].to_numpy()).all(), name
    for name in ("page", "audience", "site"):
        assert (log[name] == original[name].astype(str)).all(), name
    assert (log["tier"].astype(int) == original["tier"].astype(str).str[1:].astype(int)).all()
    assert np.abs(log["revenue"] - original["revenue"]).max() <= 1e-4
    assert (log["timestamp"].to_numpy("datetime64[s]") == original["timestamp"].to_numpy("datetime64[s]")).all()
    minutes, system = (
        pd.read_parquet(tmp_path / "minutes.parquet"),
        pd.read_parquet(small_world / "logs/system.parquet"),
    )
    system = system.sort_values(["idc", "timestamp"]).reset_index(drop=True)
    for name in ("qps", "cpu_retrieval", "cpu_ranking", "lambda_retrieval", "lambda_ranking", "degradation"):
        assert np.allclose(minutes[name], system[name], rtol=1e-4, atol=1e-3), name
    known = minutes["next_cpu_ranking"].notna()
    assert (~known).sum() == 2  # the last minute of each data centre
    assert np.allclose(minutes["next_cpu_ranking"][known], system["next_cpu_ranking"][known], atol=1e-3)
    tests = pd.read_parquet(tmp_path / "load_tests.parquet")
    assert set(tests["service"]) == {"retrieval", "ranking"}


def test_the_settings_of_the_loop_fit_the_declaration(example: Path, tmp_path: Path) -> None:
    loop = load_config(Orchestration, translate(declared(example), tmp_path).loop)
    assert loop.world is None
    assert loop.logs is not None
    assert loop.logs.spec.agents["preranking"] == ["cut"]
    assert loop.costs.actions.idc == "site"
    assert loop.costs.actions.switches["scorer"].values == ["small", "large"]
    assert loop.learners["awrq_plus"].stack.side_columns == ["guess"]
    assert loop.learners["awrq_plus"].stack.history == ["tier", "page", "audience"]
    system = read_system(loop.logs.system, loop.balancer.columns, loop.logs.services)
    assert len(system) == len(pd.read_csv(example / "minutes.csv"))


def test_numeric_state_columns_are_no_history(example: Path, tmp_path: Path) -> None:
    state = "state={tier: numeric, page: category, audience: category, site: category}"
    loop = load_config(Orchestration, translate(declared(example, [state, "history=null"]), tmp_path).loop)
    assert loop.learners["awrq_plus"].stack.history == ["page", "audience", "site"]
    assert pd.read_parquet(tmp_path / "requests.parquet")["tier"].dtype == np.float64


def test_one_price_for_all_services_and_one_data_centre(example: Path, tmp_path: Path) -> None:
    for role, column in (("minutes", "dc"), ("load_tests", "dc"), ("requests", "site")):
        frame = pd.read_csv(example / f"{role}.csv", keep_default_na=False)
        frame[frame[column] == "north"].drop(columns=column).to_csv(tmp_path / f"{role}.csv", index=False)
    cpu = {"retrieval": "util_recall", "ranking": "util_rank"}
    services = ", ".join(f"{one}: {{cpu: {cpu[one]}, price: price_rank, load_test: {load}}}" for one, load in
                         (("retrieval", "recall-svc"), ("ranking", "rank-svc")))  # fmt: skip
    own = declared(
        tmp_path,
        ["data_centre=null", f"services={{{services}}}", "state={tier: category, page: category, audience: category}"],
    )
    loop = load_config(Orchestration, translate(own, tmp_path / "out").loop)
    assert loop.logs is not None
    assert loop.costs.actions.idc is None
    system = read_system(loop.logs.system, loop.balancer.columns, loop.logs.services)
    assert system.layout.price == ("lambda_retrieval",)
    assert system.groups == ("all",)


def test_parquet_unix_times_and_no_times_are_read(example: Path, tmp_path: Path) -> None:
    log = pd.read_csv(example / "requests.csv")
    when = pd.to_datetime(log["when"]).dt.tz_localize("Europe/Berlin").dt.tz_convert("UTC")
    log["when"] = when.astype("datetime64[s, UTC]").astype(np.int64)
    log.to_parquet(tmp_path / "requests.parquet")
    file = f"requests.file={tmp_path}/requests.parquet"
    translate(declared(example, [file, "requests.time_format=unix_s"]), tmp_path / "unix")
    translate(declared(example), tmp_path / "iso")
    translate(declared(example, [file, "requests.columns.timestamp=null"]), tmp_path / "none")
    unix, iso, none = (pd.read_parquet(tmp_path / name / "requests.parquet") for name in ("unix", "iso", "none"))
    assert (unix["timestamp"].to_numpy("datetime64[s]") == iso["timestamp"].to_numpy("datetime64[s]")).all()
    pd.testing.assert_frame_equal(unix.drop(columns="timestamp"), iso.drop(columns="timestamp"), check_dtype=False)
    pd.testing.assert_frame_equal(none, unix.drop(columns="timestamp"), check_dtype=False)


def test_nothing_is_written_for_tables_with_an_error(example: Path, tmp_path: Path) -> None:
    with pytest.raises(
        UserError, match=r"requests.csv: .*column 'cut': got '150'.*\(1 error; python -m own_system.check"
    ):
        translate(declared(example, ["agents.preranking={cut: [4, 10, 30, 70]}"]), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_noise_below_zero_is_clipped_or_dropped_as_declared(example: Path, tmp_path: Path) -> None:
    log = pd.read_csv(example / "requests.csv")
    log.loc[[3, 5], "income_cents"] = -7.0
    log.to_csv(tmp_path / "requests.csv", index=False)
    file = f"requests.file={tmp_path}/requests.csv"
    for how, rows in (("clip", len(log)), ("drop", len(log) - 2)):
        translate(declared(example, [file, f"requests.negative={{revenue: {how}}}"]), tmp_path / how)
        kept = pd.read_parquet(tmp_path / how / "requests.parquet")
        assert len(kept) == rows
        assert kept["revenue"].min() == 0.0


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("history=[tier, when]", r"history: got 'when'; expected one of"),
        ("data_centre.requests=where", r"data_centre.requests: got 'where'"),
        ("load_tests.channels.action=cut_", r"load_tests.channels.action: got 'cut_'"),
        ("load_tests.lengths={seen: {column: seen}}", r"load_tests.lengths: got 'seen'"),
        ("load_tests.switches={}", r"load_tests: switch: got 'scorer'"),
        ("agents.preranking={cut: [4, 10, 4.0]}", r"agents: cut: a value stands twice: '4'"),
        ("side_columns=[income_cents]", r"requests: a column has two roles: 'income_cents'"),
        ("state={revenue: category}", r"a column has the name of another role: 'revenue'"),
        ("timezone=Berlin", r"did you mean 'Europe/Berlin'"),
        ("mony=1", r"mony: unknown key; did you mean 'money'"),
        ('requests.time_format="%Q"', r"time_format: got '%Q'; expected a strptime format, unix_s or unix_ms"),
    ],
)  # fmt: skip
def test_a_declaration_that_does_not_fit_together_is_refused(override: Any, expected: Any) -> None:
    with pytest.raises(UserError, match=expected):
        load_config(OwnSystem, "configs/own_system.yaml", [override])


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        (
            "requests.negative={income_cents: clip}",
            r"requests.negative: got 'income_cents'; expected some of .*revenue",
        ),
        ("requests.negative={propensity: clip}", r"requests.negative: got 'propensity'"),
        ("load_tests.negative={machines: drop}", r"load_tests.negative: got 'machines'"),
        ("minutes.extras=[qps]", r"minutes: 'qps' is the name of another column here"),
        ("minutes.extras=[idc]", r"minutes: 'idc' is the name of another column here"),
    ],
)
def test_names_that_would_be_passed_over_or_overwritten_are_refused(
    override: Any, expected: Any, example: Path
) -> None:
    with pytest.raises(UserError, match=expected):
        find_all(declared(example, [override]))


def test_a_log_that_is_dropped_whole_is_a_finding(example: Path, tmp_path: Path) -> None:
    log = pd.read_csv(example / "requests.csv").assign(income_cents=-1.0)
    log.to_csv(tmp_path / "requests.csv", index=False)
    own = declared(example, [f"requests.file={tmp_path}/requests.csv", "requests.negative={revenue: drop}"])
    with pytest.raises(UserError, match=r"requests.csv: revenue: no row is left when those below 0 are dropped"):
        translate(own, tmp_path / "out")


def test_files_without_header_tabs_and_other_times_are_read(example: Path, tmp_path: Path) -> None:
    log = pd.read_csv(example / "requests.csv")
    log["when"] = pd.to_datetime(log["when"]).dt.strftime("%d/%m/%Y %H.%M.%S")
    log.to_csv(tmp_path / "requests.csv", index=False, header=False, sep="\t")
    layout = [f"requests.{key}" for key in (f"file={tmp_path}/requests.csv", 'separator="\\t"', f"header={list(log)}")]
    own = declared(example, [*layout, 'requests.time_format="%d/%m/%Y %H.%M.%S"'])
    translate(own, tmp_path / "other")
    translate(declared(example), tmp_path / "iso")
    other, iso = (pd.read_parquet(tmp_path / name / "requests.parquet") for name in ("other", "iso"))
    pd.testing.assert_frame_equal(other, iso, check_dtype=False)
