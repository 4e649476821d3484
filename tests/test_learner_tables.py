"""The learner tables' settings, references and tuning: which rows there are, what they score, which setting is chosen."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from awrq_mixer.config import TrainConfig
from benchmarks import _references
from benchmarks._learners import ALWAYS, BOOTSTRAPPING, CONFIGS, LEARNERS, TABLES, VARIANT_OF, Job, config_of
from benchmarks._references import REFERENCES, profile_of
from benchmarks.paper_tables import COLUMNS
from benchmarks.tune_learners import SETTINGS, choose
from marca_common.config import load_config
from marca_common.requests import RequestSpec


def test_every_row_has_a_config_that_loads_and_references_stand_in_every_table() -> None:
    for rows in TABLES.values():
        assert set(rows) <= set(LEARNERS)
        assert set(ALWAYS) <= set(rows)
    for name, (file, overrides) in LEARNERS.items():
        tau = load_config(TrainConfig, Path(__file__).parents[1] / CONFIGS / file, overrides).td.target_update
        if name.endswith("_tau_100") or name in BOOTSTRAPPING:
            assert tau == (100 if name.endswith("_tau_100") else 1)
    assert set(VARIANT_OF.values()) <= set(LEARNERS) - set(VARIANT_OF)


def test_every_setting_to_choose_from_loads() -> None:
    for name, settings in SETTINGS.items():
        file, overrides = LEARNERS[name]
        for setting in settings:
            load_config(TrainConfig, Path(__file__).parents[1] / CONFIGS / file, [*setting.split(), *overrides])


@pytest.mark.parametrize(("world", "columns"), [("manifold", ["user", "placement"]), ("base", None)])
def test_rows_of_one_state_are_told_by_the_columns_of_its_world(world: str, columns: list[str] | None) -> None:
    state = {name: "category" for name in ("user_value", "placement", "segment", "idc", "user")}
    spec = RequestSpec.model_validate({"state": state})

    def config(learner: str) -> TrainConfig:
        job = Job(learner, f"configs/cascade_world/{world}.yaml", 0, 1000, None, Path("nowhere"))
        return config_of(job, Path("log.parquet"), spec)[0]

    own = ["user_value", "placement", "segment"]
    assert config("awrq_plus").stack.history == (columns or own)
    for learner in ("latent_classes", "low_rank", "neural_process", "lightgbm_history", "told_classes"):
        assert config(learner).plus.history == (columns or own)
    assert config("awrq_mixer").plus.history is None


def test_tables_hold_capture_at_every_budget() -> None:
    expected = {f"capture_{i}": f"capture_{share}" for i, share in enumerate((0.04, 0.08, 0.12, 0.2, 0.3), start=1)}
    assert expected.items() <= COLUMNS.items()


def _record(setting: str, seed: int, gain: float, learner: str = "dqn") -> dict[str, Any]:
    return {"learner": learner, "setting": setting, "seed": seed, "validation_shape_gain": gain, "chosen": 0}


def test_the_best_mean_over_the_seeds_that_all_settings_have_is_chosen() -> None:
    records = [_record("a", 0, 0.3), _record("b", 0, 0.2), _record("b", 1, 0.2), _record("a", 1, 0.0)]
    records += [_record("a", 2, 9.0), _record("x", 0, 0.1, "ddqn"), _record("y", 1, 0.2, "ddqn")]
    table = choose(records, ["ddqn", "dqn"])
    assert table["learner"].tolist() == ["ddqn"] * 2 + ["dqn"] * 5
    assert set(table[table["chosen"] == 1]["setting"]) == {"b"}  # (.2 + .2)/2 beats (.3 + 0)/2; seed 2 lacks b
    assert table["chosen"].sum() == 2


@pytest.mark.parametrize(("lead", "chosen"), [(0.0, ""), (0.01, ""), (0.1, "a")])
def test_the_configs_own_setting_stays_unless_seeds_can_tell_a_better_one(lead: float, chosen: str) -> None:
    gains = {0: 0.3, 1: 0.1, 2: 0.2}
    records = [_record("", seed, gain) for seed, gain in gains.items()]
    records += [_record("a", seed, gain + lead + luck) for (seed, gain), luck in zip(gains.items(), (0.06, -0.06, 0.0))]
    table = choose(records, ["dqn"])  # the lead's standard error is .06/√3 = .035
    assert set(table[table["chosen"] == 1]["setting"]) == {chosen}


class _Model:
    config = None

    def values(self, states: pd.DataFrame) -> np.ndarray:
        return np.array([[1.0, 3.0], [4.0, 12.0]])


def test_references_know_a_state_by_its_level_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    states, value = pd.DataFrame({"s": [0, 1]}), np.array([[1.0, 3.0], [6.0, 2.0]])
    model: Any = _Model()
    true = REFERENCES["profile_true"](model, states, value, np.array([3, 1]))
    # shapes .5, 1.5 and 1.5, .5, weighted 3 to 1: .75, 1.25, at the states' means 2 and 4
    assert true.tolist() == [[1.5, 2.5], [3.0, 5.0]]
    monkeypatch.setattr(_references, "profile_of", lambda config: np.array([1.0, 4.0]))
    estimated = REFERENCES["profile_estimated"](model, states, value, np.array([3, 1]))
    assert estimated == pytest.approx(np.array([[0.8, 3.2], [3.2, 12.8]]))


def test_the_estimated_profile_reads_training_rows_only(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    frame = pd.DataFrame({"timestamp": pd.date_range("2026-01-01", periods=400, freq="s"), "place": "x"})
    frame["b"] = rng.integers(0, 2, 400)
    late = np.arange(400) >= 320
    frame["money"] = np.where(late, 100.0 * (1 - frame["b"]), 1.0 + frame["b"])
    frame["predicted_value"] = frame["money"]
    frame.to_parquet(tmp_path / "log.parquet", index=False)
    spec = {"state": {"place": "category"}, "agents": {"one": ["b"]}, "sizes": {"b": 2}, "results": []}
    spec |= {"reward": "money", "propensity": None}
    config = TrainConfig.model_validate({"requests": str(tmp_path / "log.parquet"), "spec": spec})
    profile = profile_of(config)
    assert profile[1] / profile[0] == pytest.approx(2, rel=0.05)
