"""The verbs from config to run folder: shipped configs, exit codes, what is written, resuming."""

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from mpc_fixtures import trained_model

from marca_common.config import load_config
from marca_common.files import read_json
from mpc_balancer.config import CommissionConfig, SystemErrorsConfig, SystemModelConfig
from mpc_balancer.evaluate import evaluate
from mpc_balancer.forecasting.traffic_forecast import fit_forecast
from mpc_balancer.price_scale import PriceScale
from mpc_balancer.run import ClosedLoopConfig, run
from mpc_balancer.testbed.scenarios import Scenario, load_scenarios, start_scenario
from mpc_balancer.train import train

CONFIGS = Path(__file__).parents[2] / "configs" / "mpc_balancer"


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("train", SystemModelConfig),
        ("../jd_sample/mpc_balancer", SystemModelConfig),
        ("commission", CommissionConfig),
        ("evaluate", SystemErrorsConfig),
        ("run", ClosedLoopConfig),
    ],
)
def test_shipped_configs_load_and_every_key_is_explained(name: Any, kind: Any) -> None:
    load_config(kind, CONFIGS / f"{name}.yaml")
    for line in (CONFIGS / f"{name}.yaml").read_text().splitlines():
        assert not re.match(r"\s*\w+:", line) or "# " in line or line.startswith("extends"), line


def test_the_scenario_suite_loads_and_covers_the_list() -> None:
    scenarios = load_scenarios(CONFIGS / "scenarios.yaml")
    assert {
        "nominal",
        "hard",
        "flash_announced",
        "failover",
        "delay_3",
        "frozen_10",
        "unreachable_night",
        "broken_model",
    } <= set(scenarios)
    for name, scenario in scenarios.items():
        drawn = start_scenario(scenario.model_copy(update={"days": 0.02}), 0)
        cpu = drawn.plant().step(np.array([1e-4, 1e-4]), drawn.arrivals[0]).cpu
        assert cpu.shape == (2,), name


def test_announced_sales_are_in_the_calendar_and_others_not() -> None:
    scenarios = load_scenarios(CONFIGS / "scenarios.yaml")
    when = np.datetime64("2026-03-09T12:00:00")
    factor = {
        n: float(start_scenario(scenarios[n], 0).calendar.factor(when))
        for n in ("flash_announced", "flash_unannounced", "flash_wrong_size")
    }
    assert factor["flash_unannounced"] == 1.0
    assert factor["flash_announced"] == pytest.approx(2.0, abs=0.02)
    assert factor["flash_wrong_size"] == pytest.approx(1.7, abs=0.02)


def test_train_evaluate_run_leave_complete_folders(tmp_path: Path) -> None:
    settings = SystemModelConfig(
        hidden=[12],
        epochs=4,
        commission_days=2.2,
        rollout_steps=2,
        forecast_horizon=3,
        tune_candidates=2,
        tune_days=0.05,
        max_minutes=60,
    )
    result = train(settings, tmp_path / "train")
    for name in (
        "config.yaml",
        "versions.json",
        "metrics.csv",
        "summary.json",
        "system_model.pt",
        "training.png",
        "errors.csv",
    ):
        assert (tmp_path / "train" / name).stat().st_size > 0
    assert len(pd.read_csv(tmp_path / "train" / "metrics.csv")) == 4
    assert set(result.model.tuned.pi_gains) == {"pi", "pi_feedforward", "pi_forecast"}
    again = train(settings, tmp_path / "again")
    np.testing.assert_array_equal(result.model.weights[0], again.model.weights[0])  # same seed, same model
    path = str(tmp_path / "train" / "system_model.pt")
    errors = evaluate(SystemErrorsConfig(model=path, commission_days=0.3, steps=3), tmp_path / "evaluate").errors
    assert set(errors["step"]) == {1, 2, 3}
    assert {"all", "steady"} <= set(errors["regime"])
    assert read_json(tmp_path / "evaluate/summary.json")["price_move_skill"] < 1.0
    for plant in ("reference", "model"):
        config = load_config(
            ClosedLoopConfig,
            None,
            [
                f"model={path}",
                f"plant={plant}",
                "scenario.days=0.03",
                "scenario.surges=[{minute: 20, factor: 1.5}]",
                "controller.mpc.solver.deadline_ms=null",
            ],
        )
        done = run(config, tmp_path / plant)
        summary = read_json(tmp_path / plant / "summary.json")
        assert {"mu", "nu", "recovery_minutes_max", "solve_ms_p50", "solve_ms_p99", "rungs"} <= set(summary)
        assert sum(summary["rungs"].values()) == len(done.frame) == 43
        assert (tmp_path / plant / "run.png").exists()
        assert (tmp_path / plant / "zoom_20.png").exists()


def test_a_bad_call_exits_with_2_and_writes_nothing(tmp_path: Path) -> None:
    for arguments in (
        ["mpc_balancer.run", "--set", "modle=x"],
        ["mpc_balancer.run", "--set", "model=nowhere.pt"],
        ["mpc_balancer.run", "--set", "controller.name=mcp"],
        ["mpc_balancer.run", "--set", "controller.mpc.solver.name=nowhere:solver"],
        ["mpc_balancer.train", "--set", "table=nowhere.csv"],
    ):
        done = subprocess.run(
            [sys.executable, "-m", *arguments, "--out", str(tmp_path / "o")],
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 2
        assert done.stderr.startswith("error: ")
        assert len(done.stderr.strip().splitlines()) == 1
        assert not (tmp_path / "o" / "summary.json").exists()


def test_a_controller_of_somebody_elses_runs_from_config_to_figures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "climbing.py").write_text(FOREIGN)
    monkeypatch.syspath_prepend(tmp_path)
    trained_model().save(tmp_path / "m.pt")
    settings = ["controller.name=climbing:Climber", f"model={tmp_path / 'm.pt'}", "scenario.days=0.02"]
    done = run(load_config(ClosedLoopConfig, None, settings), tmp_path / "out")
    assert type(done.controller).__name__ == done.summary["controller"].split(":")[1] == "Climber"
    assert done.summary["rungs"] == {}
    assert (done.frame["lambda_ranking"].diff().dropna() >= 0).all()
    assert done.frame["forecast_qps"].isna().all()
    assert (tmp_path / "out" / "run.png").exists()


@pytest.mark.slow
def test_the_readmes_lines_run_as_they_stand(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = (CONFIGS.parents[1] / "mpc_balancer" / "README.md").read_text(encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    (code,) = re.findall(r"```python\n(.+?)```", text, re.DOTALL)[:1]
    exec(code, names)
    assert len(names["loop"].prices) == 120
    assert names["loop"].rungs["solver"] > 0


FOREIGN = """
class Climber:
    def __init__(self, config, group, services, scale, model, calendar):
        self.scale, self.lambda_ = scale, scale.low

    def step(self, measurement):
        self.lambda_ = self.scale.clip(self.lambda_ + self.scale.high / 50)
        return self.lambda_
"""


def test_price_scale_goes_both_ways_and_fits_any_unit() -> None:
    for unit in (1e-7, 1.0, 1e5):
        prices = unit * np.random.default_rng(0).lognormal(0, 1, (500, 2))
        scale = PriceScale.from_data(prices)
        np.testing.assert_allclose(scale.from_unit(scale.to_unit(prices)), prices, rtol=1e-9)
        assert scale.to_unit(prices).max() == pytest.approx(1.0)
        assert np.median(scale.to_unit(prices)) > 0.1  # the box is not wasted on values never used
        assert (scale.clip(np.array([np.nan, -1.0])) == [scale.high[0], 0.0]).all()


def test_forecasts_are_used_only_where_they_beat_persistence() -> None:
    generator = np.random.default_rng(0)
    times = np.datetime64("2026-01-01", "s") + 60 * np.arange(4000)
    walk = 300 * np.exp(np.cumsum(0.01 * generator.standard_normal(4000)))
    assert set(fit_forecast(walk, times, None, 5).chosen) == {"persistence"}
    pulses = 300 * np.exp(0.1 * generator.standard_normal(4000))  # mean-reverting at once: persistence is poor
    fitted = fit_forecast(pulses, times, None, 5)
    assert "persistence" not in fitted.chosen
    assert fitted.rmse["ar"][0] < 0.8 * fitted.rmse["persistence"][0]
    shape = 300 * np.exp(0.8 * np.sin(2 * np.pi * np.arange(8640) / 1440))  # known days: the season wins far ahead
    seasonal = fit_forecast(shape, np.datetime64("2026-01-01", "s") + 60 * np.arange(8640), None, 10)
    assert seasonal.chosen[-1] != "persistence"


def test_the_early_signal_helps_where_traffic_moves_within_the_minute() -> None:
    generator = np.random.default_rng(1)
    path = 300 * np.exp(np.cumsum(0.02 * generator.standard_normal(6 * 4000)))
    arrivals = path.reshape(-1, 6)
    fitted = fit_forecast(arrivals.mean(axis=1), np.datetime64("2026-01-01", "s") + 60 * np.arange(4000), arrivals, 2)
    assert fitted.chosen[0] == "early"
    assert fitted.rmse["early"][0] < 0.85 * fitted.rmse["persistence"][0]


def test_degradation_that_recovers_slowly_keeps_the_cost_low_for_longer() -> None:
    def degradation(recovery: float) -> np.ndarray:
        scenario = Scenario.model_validate({"days": 0.03, "degrade_recovery": recovery, "degrade_relief": 0.3})
        drawn = start_scenario(scenario, 3)
        plant = drawn.plant()
        assert plant.config.degrade_relief == 0.3
        load = np.where(np.arange(len(drawn.arrivals)) < 10, 9.0, 0.1)  # ten minutes of far too much traffic
        return np.array([plant.step(np.zeros(2), k * one).degradation for k, one in zip(load, drawn.arrivals)])

    fast, slow = degradation(0.05), degradation(0.005)
    np.testing.assert_allclose(slow[:10], fast[:10], atol=0.01)
    assert fast[9] > 0.9
    # minutes of six sub-intervals without load: what is left is a power of what does not end
    assert slow[22] / slow[12] == pytest.approx(0.995**60, rel=0.001)
    assert fast[22] / fast[12] == pytest.approx(0.95**60, rel=0.001)
