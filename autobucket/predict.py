"""Write C(s, a) of every distinct state of a log: `python -m autobucket.predict --config configs/autobucket/predict.yaml`."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from autobucket.config import PredictConfig
from autobucket.costs.cost_model import CostModel
from autobucket.results.estimator import Estimator
from marca_common.cli import run_cli
from marca_common.compute import set_threads
from marca_common.cost_maps import CostMaps
from marca_common.errors import UserError
from marca_common.progress import progress
from marca_common.run_folder import RunFolder
from marca_common.scores import ScoreMatrix, write_scores

_CHUNK = 200  # states between two steps of the progress bar


@dataclass
class PredictResult:
    """Scores of all joint actions."""

    scores: ScoreMatrix
    summary: dict[str, Any]


def predict(config: PredictConfig, out: str | Path) -> PredictResult:
    """Predicted results and costs of all joint actions of a log's distinct states, as a wide score file.

    Writes ``costs.parquet`` with one column ``c_<service>`` per service, core-ms per request. Where asked for, or without a
    cost map, it has one column per predicted result.
    """
    set_threads(config.threads)
    estimator = Estimator.load(config.checkpoint, config.device)
    if config.cost_maps is None and not estimator.names:
        raise UserError("nothing to predict")
    model = CostModel(estimator, CostMaps.load(config.cost_maps)) if config.cost_maps is not None else None
    with RunFolder(out, config) as run:
        frame = estimator.spec.read(config.requests, actions=False, reward=False)
        for note in estimator.encoder.clipped(frame):
            run.warn(note)
        states, _, counts = estimator.spec.distinct_states(frame)
        if config.max_states is not None:
            states = states.iloc[np.argsort(-counts, kind="stable")[: config.max_states]].reset_index(drop=True)
        names = estimator.names if model is None or config.results else model.tasks
        started = time.perf_counter()
        scores = _score(estimator, model, states, names, config.results or model is None)
        seconds = time.perf_counter() - started
        matrix = ScoreMatrix(states, scores)
        write_scores(matrix, run.path / "costs.parquet")
        pairs = len(states) * estimator.spec.n_joint
        summary = {"states": len(states), "pairs": pairs, "pairs_per_s": pairs / seconds}
        summary |= {f"mean.{name}": float(values.mean()) for name, values in scores.items()}
        run.write_summary(summary)
        return PredictResult(matrix, summary)


def _score(
    estimator: Estimator, model: CostModel | None, states: pd.DataFrame, names: list[str], keep: bool
) -> dict[str, np.ndarray]:
    size, n_joint = len(states), estimator.spec.n_joint
    kept = [*(names if keep else []), *(f"c_{name}" for name in (model.services if model else ()))]
    scores = {name: np.empty((size, n_joint), dtype=np.float32) for name in kept}
    for start in progress(range(0, size, _CHUNK), what="autobucket.predict", unit="chunk"):
        part = states.iloc[start : start + _CHUNK]
        results = estimator.results(part, names)
        rows = slice(start, start + len(part))
        if keep:
            for name, values in results.items():
                scores[name][rows] = values
        if model is not None:
            costs = model.from_results(results, model.idc_codes(part))
            for j, service in enumerate(model.services):
                scores[f"c_{service}"][rows] = costs[..., j]
    return scores


if __name__ == "__main__":
    run_cli(
        predict,
        PredictConfig,
        default_config="configs/autobucket/predict.yaml",
        default_out="runs/autobucket-predictions",
    )
