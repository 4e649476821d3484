"""Checkpoints of learners, and of their training, whose content is broken."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from awrq_mixer.config import PredictConfig, TrainConfig
from awrq_mixer.predict import predict
from awrq_mixer.serving.predictor import Predictor
from awrq_mixer.train import train
from marca_common.config import to_dict
from marca_common.errors import UserError
from tests.awrq_mixer.conftest import tiny_config, write_priced_log
from tests.reference.broken_checkpoints import (
    broken_envelopes,
    broken_files,
    broken_leaves,
    refusal,
    refused,
    save_as_is,
)

LEARNERS = ["awrq_mixer", "latent_classes", "low_rank", "neural_process", "lightgbm", "lightgbm_history"]


def _serve(path: Path) -> None:
    """Load and score; what gets through must give numbers."""
    model = Predictor.load(path)
    kinds = model.spec.state.items()
    states = pd.DataFrame({name: ["0", "7"] if kind == "category" else [1.0, 2.0] for name, kind in kinds})
    assert np.isfinite(model.values(states)).all()


@pytest.fixture(scope="module")
def configs(draw_world: Any, tmp_path_factory: pytest.TempPathFactory) -> dict[str, TrainConfig]:
    """A quick config of each learner, with a numeric column and a surrogate."""
    folder = tmp_path_factory.mktemp("odd")
    write_priced_log(draw_world(folder, rows=400), folder / "log.parquet")
    return {name: TrainConfig.model_validate(tiny_config(folder / "log.parquet", name)) for name in LEARNERS}


@pytest.fixture(scope="module")
def runs(configs: dict[str, TrainConfig], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A finished run of each learner."""
    folder = tmp_path_factory.mktemp("runs")
    for name, config in configs.items():
        train(config, folder / name)
    return {name: folder / name for name in configs}


@pytest.mark.parametrize("learner", LEARNERS)
def test_no_broken_part_of_a_learner_gets_through(learner: str, runs: dict[str, Path], tmp_path: Path) -> None:
    good, bad = runs[learner] / "best.pt", tmp_path / "bad.pt"
    content = torch.load(good, weights_only=True)
    _serve(good)
    accepted = [name for name, path in broken_files(good, tmp_path) if not refused(_serve, path)]
    for name, one in [*broken_envelopes(content), *broken_leaves(content, most=4)]:
        if not refused(_serve, save_as_is(one, bad)):
            accepted.append(name)
    # another value of a setting is a valid checkpoint of another config, as long as the weights fit it
    rightly = ("config.", "scale = ", "encoder.scales.price = ", "encoder.ranges removed")
    assert [name for name in accepted if not name.startswith(rightly)] == []


@pytest.mark.parametrize("learner", ["awrq_mixer", "latent_classes", "low_rank", "neural_process"])
def test_a_resumed_training_refuses_what_it_cannot_go_on_from(
    learner: str, configs: dict[str, TrainConfig], runs: dict[str, Path], tmp_path: Path
) -> None:
    run = tmp_path / "run"
    shutil.copytree(runs[learner], run)
    content = torch.load(run / "last.pt", weights_only=True)
    payload = content["payload"]
    nan = {
        name: torch.full_like(one, torch.nan) if one.is_floating_point() else one
        for name, one in payload["weights"].items()
    }
    fewer = {name: one for name, one in list(payload["weights"].items())[1:]}
    broken = [
        *broken_envelopes(content),
        *((f"without {key}", content | {"payload": {k: v for k, v in payload.items() if k != key}}) for key in payload),
        *((f"{key}=None", content | {"payload": payload | {key: None}}) for key in payload),
        *((f"{key}=text", content | {"payload": payload | {key: "text"}}) for key in payload),
        ("NaN weights", content | {"payload": payload | {"weights": nan}}),
        ("NaN best weights", content | {"payload": payload | {"best_weights": nan}}),
        ("fewer best weights", content | {"payload": payload | {"best_weights": fewer}}),
    ]
    accepted = []
    for name, one in broken:
        save_as_is(one, run / "last.pt")
        text = refusal(lambda: train(configs[learner], run))
        assert text is None or "last.pt: " in text
        accepted += [name] if text is None else []
    assert accepted == ["fingerprint=None", "fingerprint=text"]  # of another log: training starts anew


def test_a_refused_checkpoint_leaves_nothing_behind(
    configs: dict[str, TrainConfig], runs: dict[str, Path], tmp_path: Path
) -> None:
    content = torch.load(runs["awrq_mixer"] / "best.pt", weights_only=True)
    name = next(key for key, one in content["payload"]["weights"].items() if one.is_floating_point())
    content["payload"]["weights"][name].fill_(torch.nan)
    save_as_is(content, tmp_path / "nan.pt")
    config = PredictConfig(checkpoint=str(tmp_path / "nan.pt"), states=configs["awrq_mixer"].requests)
    with pytest.raises(UserError, match=rf"nan\.pt: weights\.{name} holds nan"):
        predict(config, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_checkpoint_from_before_ranges_were_kept_still_loads(runs: dict[str, Path], tmp_path: Path) -> None:
    content = torch.load(runs["awrq_mixer"] / "best.pt", weights_only=True)
    del content["payload"]["encoder"]["ranges"]
    old = Predictor.load(save_as_is(content, tmp_path / "old.pt"))
    new = Predictor.load(runs["awrq_mixer"] / "best.pt")
    states = pd.DataFrame({"place": ["0", "1"], "segment": ["1", "2"], "price": [2.0, 3.0]})
    assert np.array_equal(old.values(states), new.values(states))
    assert to_dict(old.config) == to_dict(new.config)


def test_the_program_says_one_line_and_leaves_with_2(runs: dict[str, Path], tmp_path: Path) -> None:
    content = torch.load(runs["awrq_mixer"] / "best.pt", weights_only=True)
    content["payload"]["encoder"]["scales"]["price"] = float("nan")
    save_as_is(content, tmp_path / "nan.pt")
    command = [sys.executable, "-m", "awrq_mixer.predict", "--set", f"checkpoint={tmp_path / 'nan.pt'}"]
    ended = subprocess.run([*command, "--out", str(tmp_path / "out")], capture_output=True, text=True, check=False)
    assert ended.returncode == 2
    expected = f"error: {tmp_path / 'nan.pt'}: encoder.scales.price is nan, expected a finite number; train again\n"
    assert ended.stderr == expected
    assert not (tmp_path / "out").exists()
