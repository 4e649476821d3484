"""The paper's 48-column minute table, as it stands, through the program that learns from it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from marca_common.config import load_config
from marca_common.errors import UserError
from mpc_balancer.config import SystemModelConfig
from mpc_balancer.system_model.features import Features
from mpc_balancer.system_model.minute_table import SystemData, read_system
from mpc_balancer.train import TrainedSystemModel, train
from tests.jd_sample.files import module3, write
from tests.reference.table_edits import with_cell, with_columns

CONFIG = "configs/jd_sample/mpc_balancer.yaml"
QUICK = ["hidden=[6]", "epochs=1", "rollout_steps=2", "forecast_horizon=2", "tune_pi=false"]


def _read(frame: pd.DataFrame, folder: Path, *settings: str, **written: Any) -> SystemData:
    config = load_config(
        SystemModelConfig, CONFIG, [f"table={write(frame, folder / 'minutes.csv', **written)}", *settings]
    )
    assert config.table is not None
    return read_system(config.table, config.columns, config.services)


def _train(frame: pd.DataFrame, folder: Path, *settings: str, **written: Any) -> TrainedSystemModel:
    table = write(frame, folder / "minutes.csv", **written)
    return train(load_config(SystemModelConfig, CONFIG, [f"table={table}", *QUICK, *settings]), folder / "run")


def test_the_minute_table_trains_a_system_model(tmp_path: Path) -> None:
    frame = module3(400)
    assert frame.shape == (800, 48)
    summary = _train(frame, tmp_path).summary
    assert (summary["rows"], summary["groups"]) == (800, ["IDC_0/main", "IDC_1/main"])


def test_a_headerless_minute_table_needs_its_column_names(tmp_path: Path) -> None:
    frame = module3(40)
    data = _read(frame, tmp_path, f"columns.header=[{', '.join(frame.columns)}]", header=False)
    np.testing.assert_allclose(data.cpu, frame[["cpu1", "cpu2"]])
    np.testing.assert_allclose(data.next_qps, frame["nsum_"] / 60)


def test_minutes_of_an_unknown_date_count_on_over_midnight(tmp_path: Path) -> None:
    data = _read(module3(4, first=1438), tmp_path)
    expected = ["1970-01-01T23:58", "1970-01-01T23:59", "1970-01-02T00:00", "1970-01-02T00:01"]
    assert data.timestamps.astype("datetime64[m]").astype(str).tolist() == expected * 2  # both data centres
    assert data.follows.tolist() == [True, True, True, False] * 2


@pytest.mark.parametrize(("zone", "expected"), [("UTC", "1970-01-01T11:34"), ("Asia/Shanghai", "1970-01-01T03:34")])
def test_minute_694_is_11_34_in_the_declared_zone(zone: str, expected: str, tmp_path: Path) -> None:
    data = _read(module3(2), tmp_path, f"columns.timezone={zone}")
    assert str(data.timestamps[0].astype("datetime64[m]")) == expected


def test_a_known_date_beside_the_minute_of_the_day(tmp_path: Path) -> None:
    frame = module3(3).assign(dt=["2026-01-31"] * 6)
    data = _read(frame, tmp_path, "columns.timestamp_format='%Y-%m-%d minute_of_day'")
    assert str(data.timestamps[0]) == "2026-01-31T11:34:00"


def test_without_a_date_the_day_of_the_week_is_no_input(tmp_path: Path) -> None:
    frame = module3(45).assign(tm=[0, 1, 1439] * 30)  # three minutes a day
    unknown = _read(frame, tmp_path)
    dates = [f"2026-01-{1 + k // 3:02d}" for k in range(45)] * 2
    known = _read(frame.assign(dt=dates), tmp_path, "columns.timestamp_format='%Y-%m-%d minute_of_day'")
    np.testing.assert_array_equal(np.diff(unknown.timestamps), np.diff(known.timestamps))
    assert [Features.fit(data, 0).use_week for data in (unknown, known)] == [False, True]
    assert Features.fit(unknown, 0).use_day


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (
            with_columns(dt="2026-01-31"),
            r"row 1, columns \['dt', 'tm'\]: got '2026-01-31 11:34'; expected a time as yyyy",
        ),
        (with_cell("tm", 1440), "row 6, column 'tm': got 1440.*expected a whole number from 0 to 1439"),
        (with_cell("tm", 690), "row 6: .*comes after a later one; expected ascending order"),
        (with_cell("nsum", -3), r"row 6, column 'nsum': got -3(\.0)?; expected a number of at least 0"),
        (lambda f: f.drop(columns="cpu2_"), "column 'cpu2_' is missing; found 'cpu2'"),
    ],
)
def test_a_minute_table_that_is_not_as_declared_is_refused(edit: Any, message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=rf"minutes\.csv: {message}"):
        _read(edit(module3(40)), tmp_path)


@pytest.mark.parametrize(("how", "rows", "count"), [("clip", 80, 0.0), ("drop", 79, None)])
def test_negative_counts_are_clipped_or_dropped_where_declared(
    how: str, rows: int, count: float | None, tmp_path: Path
) -> None:
    data = _read(with_cell("nsum", -3)(module3(40)), tmp_path, f"columns.negative={{nsum: {how}}}")
    assert len(data) == rows
    assert count is None or data.qps[5] == count
    assert data.follows[4] == (how == "clip")  # what was dropped is a missing minute


@pytest.mark.parametrize(
    ("frame", "settings", "message"),
    [
        (module3(5), [], "10 rows are too few for a system model; expected at least 30"),
        (
            module3(40, moving=False),
            [],
            "column 'lambda_value1' is 0 in all rows: what λ takes off CPU cannot be learned",
        ),
        (
            module3(40, moving=False),
            ["price_high=[1, 1]"],
            "what 'lambda_value1' takes off 'cpu1' .*: it is 0 in all rows",
        ),
    ],
)
def test_what_a_system_model_cannot_be_learned_from_is_said(
    frame: pd.DataFrame, settings: list[str], message: str, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=f"system table: {message}"):
        _train(frame, tmp_path, *settings)
    assert not (tmp_path / "run").exists()


def test_lambda_of_zero_trains_where_that_is_allowed(tmp_path: Path) -> None:
    allowed = ["price_high=[1, 1]", "allow_unidentified=true"]
    assert _train(module3(200, moving=False), tmp_path, *allowed).summary["price_move_skill"] == 0


@pytest.mark.parametrize("form", ["minute_of_day yyyy-mm-dd", "minute_of_day", "%Y %m minute_of_day"])
def test_a_time_format_without_a_word_for_each_column_is_refused(form: str) -> None:
    with pytest.raises(
        UserError, match=r"timestamp_format: .*expected a word for each of them, minute_of_day the last"
    ):
        load_config(SystemModelConfig, CONFIG, [f"columns.timestamp_format='{form}'"])


def test_minutes_alone_need_no_date_column(tmp_path: Path) -> None:
    alone = ["columns.timestamp=[tm]", "columns.timestamp_format=minute_of_day"]
    assert str(_read(module3(3), tmp_path, *alone).timestamps[2]) == "1970-01-01T11:36:00"
