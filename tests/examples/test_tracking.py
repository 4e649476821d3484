"""TensorBoard shows the training curves that were written, and Optuna's search finds, resumes and says what is wrong."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml

from awrq_mixer.config import TrainConfig
from awrq_mixer.train import train
from marca_common.config import load_config
from marca_common.errors import UserError

pytest.importorskip("optuna", reason="the extra `tracking` is not installed")
pytest.importorskip("tensorboard", reason="the extra `tracking` is not installed")

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from examples.tracking.optuna_search import MEASURE, OptunaSearch, search, with_settings
from examples.tracking.tensorboard_events import TensorBoardConfig, write_events


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Revenue depends on both sub-actions and the tier."""
    generator, rows = np.random.default_rng(0), 1500
    table = pd.DataFrame({"tier": generator.integers(0, 3, rows)})
    table["cut"], table["model"] = generator.integers(0, 2, rows), generator.integers(0, 3, rows)
    table["revenue"] = generator.gamma(2.0, 1 + table["cut"] * table["tier"] + 0.5 * table["model"])
    path = tmp_path_factory.mktemp("log") / "requests.csv"
    table.to_csv(path, index=False)
    return path


def config_of(log: Path, tmp_path: Path, **changes: Any) -> OptunaSearch:
    spec = {"state": {"tier": "category"}, "sizes": {"cut": 2, "model": 3}, "results": [], "timestamp": None}
    learner: dict[str, Any] = {
        "extends": str(Path("configs/awrq_mixer/demo.yaml").resolve()),
        "learner": "regression",
        "requests": str(log),
    }
    learner |= {
        "spec": spec | {"propensity": None, "agents": {"ranking": ["cut", "model"]}},
        "epochs": 1,
        "batch_size": 128,
    }
    space = {"optimiser.lr": {"low": 0.001, "high": 0.1, "log": True}, "network.hidden": {"choices": [8, 16]}}
    path = tmp_path / "search.yaml"
    path.write_text(yaml.safe_dump({"learner": learner, "space": space, "trials": 2} | changes))
    return load_config(OptunaSearch, path)


def test_the_best_of_a_search_is_kept_and_tensorboard_shows_its_trials(log: Path, tmp_path: Path) -> None:
    found = search(config_of(log, tmp_path, trials=3), tmp_path / "out").trials
    assert found["trial"].tolist() == [0, 1, 2]
    assert found["optimiser.lr"].between(0.001, 0.1).all()
    assert found["optimiser.lr"].nunique() == 3
    assert found["network.hidden"].isin([8, 16]).all()
    best = found.loc[found[MEASURE].idxmax()]
    kept = load_config(TrainConfig, tmp_path / "out/best.yaml")
    assert (kept.optimiser.lr, kept.network.hidden) == (best["optimiser.lr"], best["network.hidden"])
    assert json.loads((tmp_path / "out/summary.json").read_text())[MEASURE] == pytest.approx(best[MEASURE])
    written = write_events(TensorBoardConfig(runs=str(tmp_path / "out/trials")), tmp_path / "board")
    assert set(written.scalars) == {"0", "1", "2"}
    shown = EventAccumulator(str(tmp_path / "board/events/0")).Reload()
    curve = pd.read_csv(tmp_path / "out/trials/0/metrics.csv")
    assert [one.step for one in shown.Scalars("loss")] == curve["step"].tolist()
    assert [one.value for one in shown.Scalars("loss")] == pytest.approx(curve["loss"].tolist(), rel=1e-6)


def test_a_stopped_search_ends_like_an_undisturbed_one(
    log: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, trained = config_of(log, tmp_path, trials=3), []

    def stopped(learner: TrainConfig, out: Path) -> Any:
        trained.append(out.name)
        if trained == ["0", "1"]:
            raise KeyboardInterrupt
        return train(learner, out)

    undisturbed = search(config, tmp_path / "whole")
    monkeypatch.setattr("examples.tracking.optuna_search.train", stopped)
    with pytest.raises(KeyboardInterrupt):
        search(config, tmp_path / "out")
    found = search(config, tmp_path / "out")
    assert trained == ["0", "1", "1", "2"]
    pd.testing.assert_frame_equal(found.trials, undisturbed.trials)


def test_nothing_to_search_by_is_refused(log: Path, tmp_path: Path) -> None:
    config = config_of(log, tmp_path)
    blind = with_settings(config.learner, {"split.validation": 0.0, "split.train": 0.9})
    with pytest.raises(UserError, match="learner: got no validation_shape_gain"):
        search(config.model_copy(update={"learner": blind}), tmp_path / "out")


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("optimiser.speed", 1.0, "space: got 'optimiser.speed'; expected keys of awrq_mixer.train"),
        ("learner.lr", 1.0, "space: got 'learner.lr'; expected keys of awrq_mixer.train"),
        ("optimiser.lr", -1.0, "space: optimiser.lr"),
    ],
)
def test_a_key_that_does_not_fit_is_named(log: Path, tmp_path: Path, name: str, value: float, said: str) -> None:
    with pytest.raises(UserError, match=said):
        with_settings(config_of(log, tmp_path).learner, {name: value})


@pytest.mark.parametrize(
    ("bad", "said"),
    [
        ({"low": 1.0}, "give either low and high, or choices"),
        ({"low": 2.0, "high": 1.0}, "expected low below high"),
        ({"low": 0.0, "high": 1.0, "log": True}, "expected more than 0 with log"),
    ],
)
def test_a_range_that_is_none_is_refused(log: Path, tmp_path: Path, bad: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=said):
        config_of(log, tmp_path, space={"optimiser.lr": bad})


def test_a_folder_without_runs_is_refused(tmp_path: Path) -> None:
    (tmp_path / "metrics.csv").write_text("fold,rows\n0,10\n")
    with pytest.raises(UserError, match=r"got no metrics\.csv with a column step or epoch"):
        write_events(TensorBoardConfig(runs=str(tmp_path)), tmp_path / "out")
    assert not (tmp_path / "out").exists()
