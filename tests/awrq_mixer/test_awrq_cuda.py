"""Training on a GPU: every learner runs there, and what it learned says the same on both devices. Skipped without a GPU."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from awrq_mixer.config import TrainConfig
from awrq_mixer.learners import BOOSTED, LEARNERS, STACK
from awrq_mixer.serving.predictor import Predictor
from awrq_mixer.train import train
from tests.awrq_mixer.conftest import tiny_config, write_priced_log

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


@pytest.fixture(scope="module")
def log(draw_world: Any, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    """A log with a numeric column and a side column, and states of it."""
    folder = tmp_path_factory.mktemp("log")
    frame = write_priced_log(draw_world(folder, rows=2000), folder / "log.parquet")
    return folder / "log.parquet", frame.head(100)


@pytest.mark.parametrize("learner", [*LEARNERS, *BOOSTED, STACK])
def test_a_learner_trains_on_the_gpu_and_serves_on_both(learner: str, log: tuple[Path, Any], tmp_path: Path) -> None:
    path, states = log
    values = tiny_config(path, learner) | {"device": "cuda"}
    if learner == STACK:
        values["stack"] = {
            "members": {"classes": {"learner": "latent_classes"}, "vectors": {"learner": "low_rank"}},
            "side_columns": ["clicks"],
        }
    result = train(TrainConfig.model_validate(values), tmp_path / "run")
    trained = result.model.values(states)
    assert np.isfinite(trained).all()
    for device in ("cuda", "cpu"):
        served = Predictor.load(tmp_path / "run/best.pt", device).values(states)
        np.testing.assert_allclose(served, trained, rtol=1e-3)
