"""Training: every learner learns, resumes bit for bit, and fails in one line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.stats import rankdata

from awrq_mixer.config import EvaluateConfig, PredictConfig, TrainConfig
from awrq_mixer.learners import LEARNERS
from awrq_mixer.serving import Predictor
from awrq_mixer.train import TrainResult, train
from awrq_mixer.training.training_state import TrainingState
from marca_common.checkpoint import load_checkpoint, save_checkpoint
from marca_common.compute import multiplies_bf16
from marca_common.config import Config, load_config
from marca_common.errors import UserError
from marca_common.requests import RequestSpec
from marca_common.run_folder import RunFolder


def _config(small_config: Any, **changes: Any) -> TrainConfig:
    return TrainConfig.model_validate({**small_config, **changes})


def _within(q: np.ndarray, truth: np.ndarray) -> float:
    a, b = rankdata(q, axis=1), rankdata(truth, axis=1)
    a, b = a - a.mean(1, keepdims=True), b - b.mean(1, keepdims=True)
    return float(np.mean((a * b).sum(1) / np.sqrt((a * a).sum(1) * (b * b).sum(1) + 1e-9)))


@pytest.mark.parametrize("learner", ["awrq_mixer", "qmix", "dqn_reward_everywhere", "regression", "lightgbm"])
def test_learners_find_the_order_within_states(
    small_world: Any, small_config: Any, tmp_path: Path, learner: Any
) -> None:
    config = _config(small_config, learner=learner, epochs=10, boost={"min_rows": 20})
    result = train(config, tmp_path)
    states, _, _ = result.model.spec.distinct_states(small_world.frame)
    assert _within(result.model.values(states), small_world.truth(states)) > 0.5
    again = Predictor.load(tmp_path / "best.pt")
    assert np.array_equal(again.values(states), result.model.values(states))


@pytest.mark.parametrize("learner", ["latent_classes", "regression", "lightgbm", "low_rank"])
def test_a_denser_column_teaches_what_revenue_hides(
    small_world: Any, small_config: Any, tmp_path: Path, learner: Any
) -> None:
    frame, spec = small_world.frame, small_world.spec
    joint = np.ravel_multi_index([frame[name] for name in spec["sizes"]], tuple(spec["sizes"].values()))
    hint = small_world.truth(frame)[np.arange(len(frame)), joint] * 7.0  # on a scale of its own
    frame.assign(hint=hint).to_parquet(tmp_path / "log.parquet", index=False)
    states, _, _ = RequestSpec.model_validate(spec).distinct_states(frame)
    found = {}
    for surrogate in ("hint", None):
        config = _config(
            small_config,
            learner=learner,
            requests=str(tmp_path / "log.parquet"),
            plus={"surrogate": surrogate},
            boost={"min_rows": 20},
            max_rows=1500,
            epochs=20,
        )
        values = train(config, tmp_path / str(surrogate)).model.values(states)
        found[surrogate] = _within(values, small_world.truth(states))
        again = Predictor.load(tmp_path / str(surrogate) / "best.pt")
        assert np.array_equal(again.values(states), values)
        assert values.mean() == pytest.approx(small_world.truth(states).mean(), rel=0.35)  # revenue keeps its own level
    assert found["hint"] > found[None] + 0.05


def test_a_learner_that_cannot_use_a_surrogate_refuses_it(small_config: Any) -> None:
    with pytest.raises(ValueError, match=r"plus\.surrogate: learner 'qmix' cannot learn from it"):
        _config(small_config, learner="qmix", plus={"surrogate": "hint"})


@pytest.mark.parametrize(
    "file, cls", [("default", TrainConfig), ("predict", PredictConfig), ("evaluate", EvaluateConfig)]
)
def test_defaults_are_the_shipped_config_s(file: str, cls: type[Config]) -> None:
    path = Path(__file__).parents[2] / f"configs/awrq_mixer/{file}.yaml"
    assert load_config(cls, path) == cls()


def test_shuffled_rewards_teach_no_order(shuffled_world: Any, small_config: Any, tmp_path: Path) -> None:
    config = _config(small_config, requests=str(shuffled_world.path), epochs=6)
    result = train(config, tmp_path)
    states, _, _ = result.model.spec.distinct_states(shuffled_world.frame)
    assert abs(_within(result.model.values(states), shuffled_world.truth(states))) < 0.25
    assert result.summary["validation_shape_gain"] < 0.02


@pytest.mark.parametrize("learner", sorted(LEARNERS))
def test_every_learner_trains_and_scores_finitely(small_config: Any, tmp_path: Path, learner: Any) -> None:
    result = train(_config(small_config, learner=learner, epochs=0.5), tmp_path)
    states = pd.DataFrame({"place": ["0", "1"], "segment": ["3", "new"]})  # "new": a category never seen
    values = result.model.values(states)
    assert values.shape == (2, 24)
    assert np.isfinite(values).all()
    assert result.summary["steps"] > 0


@pytest.mark.parametrize("learner", ["awrq_mixer", "awrq_no_aw", "rem", "averaged_dqn", "low_rank", "neural_process"])
def test_a_killed_run_goes_on_to_the_same_weights(
    small_config: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, learner: Any
) -> None:
    network = {**small_config["network"], "head_layers": [8], "dropout": 0.2}
    config = _config(small_config, learner=learner, network=network)
    whole = train(config, tmp_path / "whole")
    count, calls = TrainingState.count, []

    def killed(self: Any, *logged: Any) -> None:
        calls.append(1)
        if len(calls) == 20:
            raise KeyboardInterrupt  # in the middle of an update, after the weights have changed
        count(self, *logged)

    monkeypatch.setattr(TrainingState, "count", killed)
    with pytest.raises(KeyboardInterrupt):
        train(config, tmp_path / "cut")
    monkeypatch.setattr(TrainingState, "count", count)
    resumed = train(config, tmp_path / "cut")
    for name, weight in weights_of(whole).items():
        assert torch.equal(weight, weights_of(resumed)[name]), name
    lines = [(tmp_path / run / "metrics.csv").read_text() for run in ("whole", "cut")]
    assert lines[0] == lines[1]


def weights_of(result: TrainResult) -> dict[str, torch.Tensor]:
    assert isinstance(result.model.scorer, torch.nn.Module)
    return result.model.scorer.state_dict()


@pytest.mark.parametrize(("able", "same_as"), [(True, "bf16"), (False, "fp32")])
def test_auto_is_bf16_where_the_processor_multiplies_it(
    small_config: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, able: bool, same_as: str
) -> None:
    monkeypatch.setattr("awrq_mixer.train.multiplies_bf16", lambda device: able)
    runs = {
        precision: train(_config(small_config, precision=precision, epochs=0.5), tmp_path / precision)
        for precision in ("auto", "bf16", "fp32")
    }
    weights = {precision: torch.cat([w.flatten() for w in weights_of(run).values()]) for precision, run in runs.items()}
    assert torch.equal(weights["auto"], weights[same_as])
    assert not torch.equal(weights["bf16"], weights["fp32"])


def test_what_a_processor_says_about_bf16(monkeypatch: pytest.MonkeyPatch) -> None:
    for found, expected in (({"avx512_bf16": True}, True), ({"amx_bf16": True}, True), ({"avx512_bf16": False}, False)):
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda found=found: found)
        assert multiplies_bf16(torch.device("cpu")) == expected


def test_a_finished_run_is_read_back(small_config: Any, tmp_path: Path) -> None:
    config = _config(small_config)
    first = train(config, tmp_path)
    again = train(config, tmp_path)
    assert again.summary["steps"] == first.summary["steps"]
    weights = zip(weights_of(first).values(), weights_of(again).values())
    assert all(torch.equal(a, b) for a, b in weights)


def test_a_loss_that_is_not_a_number_stops_with_its_step(small_config: Any, tmp_path: Path) -> None:
    config = _config(small_config, loss={"kind": "mse"}, optimiser={"name": "sgd", "lr": 1e20, "clip": None})
    with pytest.raises(UserError, match=r"loss .* at step \d+; expected finite numbers"):
        train(config, tmp_path)


def test_an_action_that_never_varies_is_refused(small_world: Any, small_config: Any, tmp_path: Path) -> None:
    frame = small_world.frame.assign(b2=1)
    frame.to_parquet(tmp_path / "flat.parquet", index=False)
    with pytest.raises(UserError, match=r"column 'b2': the only value .* is 1"):
        train(_config(small_config, requests=str(tmp_path / "flat.parquet")), tmp_path / "run")


def test_a_missing_state_column_is_named(small_config: Any, tmp_path: Path) -> None:
    model = train(_config(small_config, epochs=0.5), tmp_path).model
    with pytest.raises(UserError, match="'segment' is missing"):
        model.values(pd.DataFrame({"place": ["0"]}))


def test_a_checkpoint_of_another_version_is_refused_in_one_line(small_config: Any, tmp_path: Path) -> None:
    train(_config(small_config, learner="dqn", epochs=0.5), tmp_path)
    payload = load_checkpoint(tmp_path / "best.pt", "awrq_mixer")
    payload["config"]["td"]["lambda"] = 1.0
    save_checkpoint(tmp_path / "old.pt", "awrq_mixer", [], payload)
    with pytest.raises(UserError, match=r"old\.pt: its config is of another version .* \(td\.lambda\); train again"):
        Predictor.load(tmp_path / "old.pt")


def test_two_processes_cannot_write_one_run(small_config: Any, tmp_path: Path) -> None:
    config = _config(small_config)
    with RunFolder(tmp_path, config), pytest.raises(UserError, match="another process is writing"):
        train(config, tmp_path)


def test_more_joint_actions_than_memory_allows(
    small_config: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = train(_config(small_config, epochs=0.5), tmp_path).model
    monkeypatch.setattr("psutil.virtual_memory", lambda: type("Free", (), {"available": 10_000})())
    with pytest.raises(UserError, match="joint actions need"):
        model.values(pd.DataFrame({"place": ["0"] * 500, "segment": ["1"] * 500}))


def test_the_paper_s_sample_format_is_read_by_configuration_alone(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    rows = [
        [f"u{rng.integers(3)}", f"w{rng.integers(2)}", f"g{rng.integers(2)}", f"i{rng.integers(2)}"]
        + [str(rng.integers(n)) for n in (4, 5, 5, 2, 5)]
        + [f"{rng.gamma(1):.4f}"]
        for _ in range(400)
    ]
    (tmp_path / "sample.csv").write_text("\n".join(",".join(row) for row in rows) + "\n")
    spec = {
        "state": dict.fromkeys(("uv", "w", "g", "i"), "category"),
        "agents": {"retrieval": ["a1", "a2", "a3", "a4"], "preranking": ["a5"]},
        "sizes": {"a1": 4, "a2": 5, "a3": 5, "a4": 2, "a5": 5},
        "results": [],
        "reward": "reward",
        "timestamp": None,
        "propensity": None,
        "header": ["uv", "w", "g", "i", "a1", "a2", "a3", "a4", "a5", "reward"],
    }
    config = TrainConfig.model_validate(
        {
            "requests": str(tmp_path / "sample.csv"),
            "spec": spec,
            "network": {"embedding": 4, "hidden": 8, "heads": 2},
            "batch_size": 64,
            "epochs": 1,
            "eval_every": 5,
            "validation_rows": 40,
        }
    )
    result = train(config, tmp_path / "run")
    assert result.model.values(pd.DataFrame({"uv": ["u0"], "w": ["w1"], "g": ["g0"], "i": ["i9"]})).shape == (1, 1000)
