"""Score every joint action of a table's states: ``python -m awrq_mixer.predict --config configs/awrq_mixer/predict.yaml``."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from awrq_mixer.config import PredictConfig
from awrq_mixer.serving.predictor import Predictor
from marca_common.cli import run_cli
from marca_common.compute import set_threads
from marca_common.memory import require_memory
from marca_common.run_folder import RunFolder
from marca_common.scores import ScoreMatrix, write_scores


@dataclass
class PredictResult:
    """Scores of all joint actions of the distinct states."""

    scores: ScoreMatrix
    summary: dict[str, Any]


def predict(config: PredictConfig, out: str | Path) -> PredictResult:
    """Write ``scores.parquet`` (wide): the distinct states of a table and Q of every joint action, money per request."""
    set_threads(config.threads)
    model = Predictor.load(config.checkpoint, config.device)
    with RunFolder(out, config) as run:
        spec = model.spec.model_copy(update={"timestamp": None})
        frame = spec.read(config.states, actions=False, reward=False)
        states, _, _ = spec.distinct_states(frame)
        states = states.iloc[: config.max_states]
        for note in model.encoder.clipped(frame):
            run.warn(note)
        require_memory(len(states), spec.n_joint, copies=3)
        started = time.perf_counter()
        matrix = ScoreMatrix(states, {config.name: model.values(states)})
        seconds = time.perf_counter() - started
        write_scores(matrix, run.path / "scores.parquet")
        summary = {"states": len(states), "joint_actions": spec.n_joint, "states_per_s": round(len(states) / seconds)}
        run.write_summary(summary)
    return PredictResult(matrix, summary)


if __name__ == "__main__":
    run_cli(predict, PredictConfig, default_config="configs/awrq_mixer/predict.yaml", default_out="runs/awrq_scores")
