"""The plan for throwing λ about: its formula, its schedule, and whether it keeps its promise on the reference plant."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from price_tables import HIGH, PLANT, SCALE, arrivals, as_data, constant, dithered, ruled

from marca_common.config import load_config
from marca_common.errors import UserError
from marca_common.files import read_json
from marca_common.system import system_table
from mpc_balancer.commission import commission
from mpc_balancer.config import CommissionConfig, SystemModelConfig
from mpc_balancer.price_scale import PriceScale
from mpc_balancer.system_model.price_effects import price_effects
from mpc_balancer.testbed.commission_plan import Knowledge, expected_over_use, held_share, plan_trial
from mpc_balancer.testbed.commissioning import dither_offsets, excite
from mpc_balancer.testbed.reference_plant import ReferencePlant
from mpc_balancer.testbed.run_metrics import over_utilisation
from mpc_balancer.train import fit_model


def test_the_plan_by_hand() -> None:
    assert held_share(1) == 1.0
    assert held_share(4) == pytest.approx(np.sqrt(7) / 4)
    offsets = dither_offsets(400_000, 1, 4, seed=0)[:, 0]
    last, coming = offsets[:-1], offsets[1:]
    left = coming - last * (last @ coming) / (last @ last)
    assert left.std() == pytest.approx(held_share(4), rel=0.01)
    config = CommissionConfig(precision=0.1, hold=1, effect=2.0, noise=0.03, answer=0.0, target=60, budget=65)
    trial = plan_trial(Knowledge.declared(config, 2), config, days=1.0)
    assert trial.dither == pytest.approx(0.03 / (2.0 * 0.1 * np.sqrt(1440)))  # noise / (effect · precision · √rows)
    assert trial.relief_se == pytest.approx(0.1)
    assert trial.swing == pytest.approx(trial.dither * 2.0 * 60)
    answering = plan_trial(Knowledge.declared(config.model_copy(update={"answer": 0.02}), 2), config, days=1.0)
    assert answering.dither == pytest.approx(0.06)  # 3 times the answer: it hides at most 1 / (1 + 9)
    assert answering.confounded == pytest.approx(0.1)


def test_the_expected_over_use_is_that_of_a_log_normal_cpu() -> None:
    config, deviation = CommissionConfig(target=60, budget=65), np.array([0.02, 0.1, 0.3])
    draws = 60 * np.exp(deviation * np.random.default_rng(0).standard_normal((1_000_000, 1)))
    assert expected_over_use(deviation, config) == pytest.approx(over_utilisation(draws, 65.0), rel=0.05, abs=1e-6)


def test_who_replays_the_schedule_gets_the_planned_run(tmp_path: Path) -> None:
    config = load_config(CommissionConfig, None, ["days=0.1", f"price_high={HIGH.tolist()}", "precision=0.2", "seed=5"])
    plan = commission(config, tmp_path / "plan")
    text = (tmp_path / "plan/plan.md").read_text(encoding="utf-8")
    ref = np.array([float(line.split("|")[2]) for line in text.splitlines() if line.startswith("| lambda_")])
    schedule = pd.read_csv(tmp_path / "plan/schedule.csv")
    assert schedule["minute"].tolist() == list(range(144))
    own = SCALE.from_unit(np.full(2, 0.4))
    applied = (own + ref) * schedule[["lambda_retrieval", "lambda_ranking"]].to_numpy() - ref
    offsets = plan.trial.dither * dither_offsets(144, 2, 4, seed=5)
    assert applied == pytest.approx(SCALE.from_unit(0.4 + offsets), rel=1e-4)
    assert set(pd.read_csv(tmp_path / "plan/plan.csv")["days"]) <= {0.5, 1.0, 2.0, 5.0, 10.0}
    assert read_json(tmp_path / "plan/summary.json")["dither"]["ranking"] == plan.trial.dither[1]


def test_a_plan_from_a_table_uses_what_the_table_tells() -> None:
    config = CommissionConfig()
    for frame, effect in ((dithered(), None), (ruled(constant), 1.0)):
        data = as_data(frame)
        effects = price_effects(data, PriceScale.from_data(data.price, HIGH.tolist()))
        known = Knowledge.of_table(config, effects, 60)
        assert known.effect == pytest.approx(effects.slope.diagonal() if effect is None else [effect, effect])
        assert known.noise == pytest.approx(effects.noise)
        assert known.answer == pytest.approx(0.02)  # without movement of its own, λ's present value says nothing of it
    fed_back = as_data(dithered(0.0))
    effects = price_effects(fed_back, PriceScale.from_data(fed_back.price))
    known = Knowledge.of_table(config.model_copy(update={"answer": 0.0}), effects, 60)
    assert np.all((known.answer > 0.01) & (known.answer < 0.05))


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        (["days=0.0005"], r"days: got 0.0005; λ of retrieval would have to move by 0\.36 of its box"),
        (["price_high=[1.0]"], "price_high: got 1 values; expected one per price, 2"),
        (["table=nowhere.csv"], "nowhere.csv"),
    ],
)
def test_bad_plans(settings: list[str], expected: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=expected):
        commission(load_config(CommissionConfig, None, settings), tmp_path / "plan")
    assert not (tmp_path / "plan").exists()


def test_the_programs_own_flag_writes_the_plan(tmp_path: Path) -> None:
    words = [
        sys.executable,
        "-m",
        "mpc_balancer.commission",
        "--plan",
        "--set",
        "days=1",
        "--out",
        str(tmp_path / "plan"),
    ]
    done = subprocess.run(words, capture_output=True, text=True, check=False, cwd=Path(__file__).parents[2])
    assert done.returncode == 0, done.stderr
    assert {path.name for path in (tmp_path / "plan").iterdir()} > {
        "plan.md",
        "plan.csv",
        "schedule.csv",
        "summary.json",
    }


@pytest.mark.slow
def test_a_plan_keeps_its_promise() -> None:
    """Noise where it matters: the effect's spread over days and its reported standard error are about the plan's."""
    config = CommissionConfig(effect=1.35, noise=0.1, precision=0.1, answer=0.0, target=62)
    trial = plan_trial(Knowledge.declared(config, 2), config, days=0.5)
    runs = [price_effects(as_data(dithered(trial.dither[0], seed, 720, noise=6.0)), SCALE) for seed in range(20, 32)]
    slope, error = np.array([one.slope.diagonal() for one in runs]), np.array([one.error.diagonal() for one in runs])
    assert slope.std(axis=0, ddof=1) / slope.mean() == pytest.approx(trial.relief_se, rel=0.6)
    assert error.mean(axis=0) / slope.mean() == pytest.approx(trial.relief_se, rel=0.4)
    assert np.all(np.abs(slope.mean(axis=0) / 1.35 - 1) < 0.1)


@pytest.mark.slow
def test_a_model_learned_as_planned_knows_what_the_price_does() -> None:
    trial = plan_trial(Knowledge.declared(CommissionConfig(), 2), CommissionConfig(), days=2.0)
    minutes, seed = 2880, 7
    plant = ReferencePlant(PLANT, seed, minutes)
    run = excite(plant, arrivals(seed, minutes), SCALE, seed, target=60.0, dither=trial.dither[0])
    config = SystemModelConfig(tune_pi=False, epochs=30)
    summary = fit_model(as_data(system_table(run, PLANT.services)), config)[1]
    for service in PLANT.services:
        assert summary["relief_se"][service] < 0.1 * summary["relief"][service]
    over_use = over_utilisation(np.array(plant.truth), 65.0)
    assert np.all((0.5 * trial.over_use < over_use) & (over_use < 4 * trial.over_use))
