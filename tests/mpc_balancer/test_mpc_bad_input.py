"""Bad tables, calendars and configs: one line that names the place; and the paper's table by configuration alone."""

import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from mpc_fixtures import random_model

from marca_common.config import load_config
from marca_common.errors import UserError
from mpc_balancer.config import ColumnsConfig, ControllerConfig, SystemErrorsConfig, SystemModelConfig
from mpc_balancer.controllers import make_controller
from mpc_balancer.evaluate import evaluate
from mpc_balancer.forecasting.event_calendar import Calendar
from mpc_balancer.system_model.minute_table import from_frame, read_system
from mpc_balancer.testbed.scenarios import load_scenarios
from mpc_balancer.train import fit_model

SERVICES = ["retrieval", "ranking"]


def table(rows: int = 6, group: Any = "a") -> Any:
    frame = pd.DataFrame(
        {"timestamp": pd.date_range("2026-03-02", periods=rows, freq="min"), "idc": group, "qps": 100.0}
    )
    for name in SERVICES:
        frame[f"cpu_{name}"] = 50.0 + np.arange(rows)
        frame[f"lambda_{name}"] = 1e-4
        frame[f"next_cpu_{name}"] = 51.0 + np.arange(rows)
        frame[f"c_{name}_sum"] = frame[f"c_{name}_mean"] = 1.0
    return frame.assign(degradation=0.0, q_sum=1.0, q_mean=1.0, next_qps=100.0)


def drop(frame: Any) -> Any:
    return frame.drop(columns="cpu_ranking")


def missing(frame: Any) -> Any:
    return frame.drop(index=3)


def duplicated(frame: Any) -> Any:
    return frame.assign(timestamp=frame["timestamp"].where(frame.index != 3, frame["timestamp"][2]))


def unordered(frame: Any) -> Any:
    return frame.iloc[[0, 1, 3, 2, 4, 5]]


def too_busy(frame: Any) -> Any:
    return frame.assign(cpu_ranking=[50, 50, 101, 50, 50, 50])


def no_number(frame: Any) -> Any:
    return frame.assign(qps=["1", "2", "x", "4", "5", "6"])


@pytest.mark.parametrize(
    ("spoil", "expected"),
    [
        (drop, "'cpu_ranking' is missing"),
        (missing, "row 4: minutes are missing in group 'a'"),
        (duplicated, "row 4: .* duplicated"),
        (unordered, "row 4: .* ascending"),
        (too_busy, "row 3, column 'cpu_ranking': got 101"),
        (no_number, "row 3, column 'qps': got 'x'"),
    ],
)
def test_bad_tables(spoil: Any, expected: Any, tmp_path: Path) -> None:
    path = tmp_path / "system.csv"
    spoil(table()).to_csv(path, index=False)
    with pytest.raises(UserError, match=expected) as error:
        read_system(path, ColumnsConfig(), SERVICES)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)


def test_gaps_can_be_learned_around() -> None:
    data = from_frame(table().drop(index=3), ColumnsConfig(gaps="split"), SERVICES)
    assert data.follows.tolist() == [True, True, False, True, False]


def test_two_groups_interleaved_are_fine() -> None:
    frame = pd.concat([table(), table(group="b")]).sort_values("timestamp", kind="stable", ignore_index=True)
    data = from_frame(frame, ColumnsConfig(), SERVICES)
    assert data.groups == ("a", "b")
    assert data.follows.sum() == 10
    assert np.array_equal(data.cpu[:6], data.cpu[6:])


def test_the_papers_48_columns_by_configuration_alone(tmp_path: Path) -> None:
    """idc, group, dt, tm, nsum, …, cpu1, cpu2, …, lambda_value1, lambda_value2, cpu1_, cpu2_: λ acts in the next minute."""
    generator = np.random.default_rng(0)
    count = 700
    price = generator.uniform(0, 20, (count, 2))
    load = 3000 + 800 * np.sin(np.arange(count) / 80) + 30 * generator.standard_normal(count)
    cpu = np.empty((count + 1, 2))
    cpu[0] = 50
    cpu[1:] = 10 + load[:, None] / 3000 * 60 / (1 + price / 8)
    days = pd.date_range("2025-05-01", periods=count, freq="min")
    frame = pd.DataFrame(
        {
            "idc": "lf",
            "group": "g1",
            "dt": days.strftime("%Y%m%d"),
            "tm": days.strftime("%H%M"),
            "nsum": load,
            "downgrade_tp90": 0.0,
            "downgrade_avg": 0.0,
            "cpu1": cpu[:-1, 0],
            "cpu2": cpu[:-1, 1],
        }
    )
    for i in range(33):
        frame[f"unused{i}"] = 1.0
    for j in range(2):
        frame[f"lambda_value{j + 1}"] = price[:, j]
    for j in range(2):
        frame[f"cpu{j + 1}_"] = cpu[1:, j]
    frame = frame.assign(nsum_=np.append(load[1:], load[-1]), downgrade_avg_=0.0)
    assert frame.shape[1] == 48
    frame.to_csv(tmp_path / "minutes.csv", index=False, header=False)
    (tmp_path / "train.yaml").write_text(f"""
services: [cpu1, cpu2]
hidden: [16]
epochs: 40
max_minutes: 60
tune_pi: false
forecast_horizon: 3
rollout_steps: 2
columns:
  header: [{", ".join(frame.columns)}]
  timestamp: [dt, tm]
  timestamp_format: "%Y%m%d %H%M"
  group: [idc, group]
  qps: nsum
  qps_divisor: 60
  cpu: [cpu1, cpu2]
  price: [lambda_value1, lambda_value2]
  price_in_force: next_minute
  next_cpu: [cpu1_, cpu2_]
  next_qps: nsum_
  extras: [downgrade_tp90, downgrade_avg]
""")
    config = load_config(SystemModelConfig, tmp_path / "train.yaml")
    data = read_system(tmp_path / "minutes.csv", config.columns, config.services)
    assert data.groups == ("lf/g1",)
    model, summary = fit_model(data, config)
    assert model.prices.high == pytest.approx(price.max(axis=0))
    assert summary["rollout_rmse_points"] < 5.0  # CPU's own standard deviation is 13


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        ([("2026-01-02", 2, 30), ("2026-01-01", 2, 30)], "row 2, column 'start': .* not after"),
        ([("2026-01-01 10:00:00", 2, 30), ("2026-01-01 10:10:00", 2, 30)], "row 2, column 'start': .* overlaps"),
        ([("2026-01-01", 0, 30)], "expected both above 0"),
        ([("soon", 2, 30)], "row 1, column 'start': got 'soon'"),
    ],
)
def test_bad_calendars(rows: Any, expected: Any, tmp_path: Path) -> None:
    pd.DataFrame(rows, columns=["start", "factor", "decay_minutes"]).to_csv(tmp_path / "c.csv", index=False)
    with pytest.raises(UserError, match=expected):
        Calendar.read(tmp_path / "c.csv")


def test_calendar_factor_by_hand(tmp_path: Path) -> None:
    (tmp_path / "c.csv").write_text("start,factor,decay_minutes\n2026-01-01 10:00:00,3,20\n")
    calendar = Calendar.read(tmp_path / "c.csv")
    at = calendar.factor(
        np.array(["2026-01-01T09:59:00", "2026-01-01T10:00:00", "2026-01-01T10:20:00"], "datetime64[s]")
    )
    minute = 20 * (1 - np.exp(-1 / 20))  # mean of exp(-t/20) over a minute
    assert at == pytest.approx([1.0, 1 + 2 * minute, 1 + 2 * minute * np.exp(-1)])


def test_bad_controllers() -> None:
    model = random_model()
    with pytest.raises(UserError, match="idle load"):
        make_controller(ControllerConfig(name="pi", budget=1.5), "a", model)
    with pytest.raises(UserError, match="not among those of the system model"):
        make_controller(ControllerConfig(name="mpc"), "b", model)
    with pytest.raises(UserError, match="expected 1 or 2"):
        make_controller(ControllerConfig(name="pi", budget=[60.0, 60.0, 60.0]), "a", model)
    with pytest.raises(UserError, match="needs a system model"):
        make_controller(ControllerConfig(name="mpc", price_high=[1.0, 1.0]), "a", services=SERVICES)
    with pytest.raises(UserError, match="λ's box is unknown"):
        make_controller(ControllerConfig(name="pi"), "a", services=SERVICES)
    with pytest.raises(UserError, match="budget"):
        load_config(ControllerConfig, None, ["budget=120"])


@pytest.mark.parametrize(
    ("setting", "expected"),
    [
        ("offset=-100", "offset: got -100; .*greater than -100"),
        ("offset=-150", "offset: got -150; .*greater than -100"),
        ("price_high=[1,0]", "price_high.1: got 0; .*greater than 0"),
        ("price_high=[-1]", "price_high.0: got -1; .*greater than 0"),
    ],
)
def test_a_target_or_a_box_of_nothing_is_refused_when_the_config_is_read(setting: str, expected: str) -> None:
    with pytest.raises(UserError, match=expected):
        load_config(ControllerConfig, None, [setting])
    assert load_config(ControllerConfig, None, ["offset=-99.9", "price_high=[1e-9]"]).offset == -99.9


class Silent:
    """No ``step``."""


class Priceless:
    """Steps, but never says what it set."""

    def __init__(self, *_: Any) -> None:
        pass

    def step(self, measurement: Any) -> Any:
        return measurement.lambda_


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("mcp", "controller.name: got 'mcp'; expected one of mpc, .* did you mean 'mpc'"),
        ("nowhere:Rule", "controller.name: got 'nowhere:Rule'; .*No module named 'nowhere'"),
        ("here:Nobody", "controller.name: .* no attribute 'Nobody'"),
        ("here:Silent", "got 'here:Silent'; expected a class with step"),
        ("here:Priceless", "'here:Priceless' has no lambda_; expected the prices"),
        ("os:getcwd", "got 'os:getcwd'; expected a class with step"),
    ],
)
def test_bad_names_of_controllers(name: Any, expected: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    here = types.ModuleType("here")
    vars(here).update(Silent=Silent, Priceless=Priceless)
    monkeypatch.setitem(sys.modules, "here", here)
    with pytest.raises(UserError, match=expected) as error:
        make_controller(ControllerConfig(name=name), "a", random_model())
    assert "\n" not in str(error.value)


def test_a_bad_solver_is_told_when_the_controller_is_made_not_hidden_by_the_ladder() -> None:
    config = load_config(ControllerConfig, None, ["mpc.solver.name=grit"])
    with pytest.raises(UserError, match="did you mean 'grid'"):
        make_controller(config, "a", random_model())


def test_a_group_seen_only_at_prediction(tmp_path: Path) -> None:
    model = random_model()
    model.save(tmp_path / "m.pt")
    frame = table(40, "new").rename(columns=lambda n: n.replace("retrieval", "x").replace("ranking", "y"))
    frame.to_csv(tmp_path / "s.csv", index=False)
    config = SystemErrorsConfig(
        model=str(tmp_path / "m.pt"), table=str(tmp_path / "s.csv"), columns=ColumnsConfig(extras=[]), steps=2
    )
    with pytest.raises(UserError, match="group 'new': not among"):
        evaluate(config, tmp_path / "out")
    assert not (tmp_path / "out" / "summary.json").exists()


def test_unknown_scenario_key(tmp_path: Path) -> None:
    (tmp_path / "s.yaml").write_text("nominal:\n  sugres: []\n")
    with pytest.raises(UserError, match="did you mean 'surges'"):
        load_scenarios(tmp_path / "s.yaml")


def test_a_table_too_short_to_back_test() -> None:
    config = SystemModelConfig(services=SERVICES, epochs=1, tune_pi=False, allow_unidentified=True)
    data = from_frame(table(40), config.columns, SERVICES, "short.csv")
    with pytest.raises(UserError, match="got 8 validation rows; expected more than 20"):
        fit_model(data, config)
