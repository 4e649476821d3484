"""Judge the estimator on held-out rows: `python -m autobucket.evaluate --set checkpoint=runs/autobucket/estimator.pt`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy.stats import rankdata

from autobucket.config import EvaluateConfig
from autobucket.results.estimator import Estimator
from autobucket.results.log_rows import read_log, split
from autobucket.results.tasks import labels_of
from marca_common.cli import run_cli
from marca_common.compute import set_threads
from marca_common.errors import UserError
from marca_common.figures import new_figure, save_figure
from marca_common.run_folder import RunFolder
from marca_common.spread import ROUNDING, is_flat
from marca_common.tables import write_table
from marca_measures.calibration import calibration


@dataclass
class EvaluateResult:
    """Metrics per task and slice."""

    table: pd.DataFrame
    summary: dict[str, Any]


def evaluate(config: EvaluateConfig, out: str | Path) -> EvaluateResult:
    """MAE, RMSE, R², bias (numbers), AUC, log-loss, calibration error (binary) per task and slice of held-out rows.

    Writes ``evaluation.csv``, ``calibration.csv``, ``calibration.png`` and ``summary.json``.
    """
    set_threads(config.threads)
    estimator = Estimator.load(config.checkpoint, config.device)
    if config.data.spec.sizes != estimator.spec.sizes or config.data.spec.state != estimator.spec.state:
        raise UserError(
            f"{config.checkpoint}: fitted on states {list(estimator.spec.state)} and sizes {estimator.spec.sizes}; "
            f"the config declares {list(config.data.spec.state)} and {config.data.spec.sizes}"
        )
    with RunFolder(out, config) as run:
        frame = read_log(config.data, estimator.config.tasks)
        unknown = [name for name in config.slices if name not in frame]
        if unknown:
            raise UserError(f"slices: {unknown[0]!r} is no column of the log; expected some of {list(frame)}")
        part = split(config.data, frame)[2] if config.data.test_share else frame
        if part.empty:
            raise UserError(
                f"{config.data.requests}: {len(frame)} rows leave none to test; expected more, or test_share 0"
            )
        for note in estimator.encoder.clipped(part):
            run.warn(note)
        table = metrics_table(estimator, part, config.slices, config.max_slices)
        curves = calibration_table(estimator, part)
        write_table(table, run.path / "evaluation.csv")
        write_table(curves, run.path / "calibration.csv")
        _draw_calibration(curves, run.path / "calibration.png")
        whole = table[table["slice"] == "all"]
        summary: dict[str, Any] = {"rows": len(part)}
        for task, rows in whole.groupby("task", sort=False):
            summary[str(task)] = dict(zip(rows["metric"], rows["value"]))
        run.write_summary(summary)
        return EvaluateResult(table, summary)


def regression_metrics(truth: np.ndarray, predicted: np.ndarray) -> dict[str, float]:
    """MAE, RMSE, R² (against the mean of ``truth``) and relative bias of the total, of vectors (M,)."""
    error = np.asarray(predicted, np.float64) - truth
    spread, least = float(np.mean((truth - truth.mean()) ** 2)), ROUNDING * float(np.abs(truth).max())
    return {
        "mae": float(np.abs(error).mean()),
        "rmse": float(np.sqrt((error**2).mean())),
        "r2": float("nan") if is_flat(truth) else 1 - float((error**2).mean()) / spread,
        "bias_pct": 100 * float(error.mean() / truth.mean()) if abs(truth.mean()) > least else float("nan"),
    }


def binary_metrics(truth: np.ndarray, probability: np.ndarray, bins: int = 10) -> dict[str, float]:
    """AUC, log-loss and expected calibration error over ``bins`` equally filled bins, of vectors (M,)."""
    p = np.clip(np.asarray(probability, np.float64), 1e-7, 1 - 1e-7)
    positives, negatives = float(truth.sum()), float((1 - truth).sum())
    auc = float("nan")
    if positives and negatives:
        auc = (rankdata(p)[truth > 0].sum() - positives * (positives + 1) / 2) / (positives * negatives)
    curve = calibration(p, truth, bins)
    gaps = (curve["predicted"] - curve["observed"]).abs() * curve["rows"]
    return {
        "auc": float(auc),
        "log_loss": float(-(truth * np.log(p) + (1 - truth) * np.log1p(-p)).mean()),
        "calibration_error": float(sum(gaps) / len(p)),
    }


def metrics_table(
    estimator: Estimator, frame: pd.DataFrame, slices: Sequence[str], max_slices: int = 20
) -> pd.DataFrame:
    """Long table ``task, slice, value_of_slice, rows, metric, value`` over all rows and over each slice's values."""
    predicted = estimator.predict(frame)
    records = []
    for task in estimator.tasks:
        truth = labels_of(task.name, estimator.config.tasks[task.name], frame[task.name].to_numpy()).astype(np.float64)
        judge = binary_metrics if task.binary else regression_metrics
        for column, value, rows in _slices(frame, slices, max_slices):
            for metric, number in judge(truth[rows], predicted[task.name][rows]).items():
                records.append((task.name, column, value, len(rows), metric, number))
    return pd.DataFrame(records, columns=["task", "slice", "of", "rows", "metric", "value"])


def calibration_table(estimator: Estimator, frame: pd.DataFrame, bins: int = 20) -> pd.DataFrame:
    """Mean predicted and mean observed result in equally filled bins of the prediction, per task."""
    predicted, parts = estimator.predict(frame), []
    for task in estimator.tasks:
        truth = labels_of(task.name, estimator.config.tasks[task.name], frame[task.name].to_numpy())
        parts.append(
            calibration(predicted[task.name], truth, bins).rename_axis("bin").reset_index().assign(task=task.name)
        )
    return pd.concat(parts, ignore_index=True)[["task", "bin", "rows", "predicted", "observed"]]


def _slices(frame: pd.DataFrame, columns: Sequence[str], most: int) -> Iterator[tuple[str, str, np.ndarray]]:
    yield "all", "", np.arange(len(frame))
    for column in columns:
        for value in frame[column].value_counts().head(most).index:
            rows = np.flatnonzero(frame[column].to_numpy() == value)
            if len(rows):
                yield column, str(value), rows


def _draw_calibration(table: pd.DataFrame, path: Path) -> None:
    tasks = list(dict.fromkeys(table["task"]))
    figure, axes = new_figure(1, len(tasks), width=3.8 * len(tasks), height=3.6, squeeze=False)
    for axis, task in zip(axes[0], tasks):
        rows = table[table["task"] == task]
        top = max(rows["predicted"].max(), rows["observed"].max()) * 1.05
        axis.plot([0, top], [0, top], color="0.7", lw=1, label="perfect")
        axis.plot(rows["predicted"], rows["observed"], "o-", ms=4, label="20 equal bins")
        axis.set(title=f"Calibration of {task}", xlabel=f"mean predicted {task}", ylabel=f"mean observed {task}")
        axis.legend(loc="upper left")
    save_figure(figure, path)


if __name__ == "__main__":
    run_cli(
        evaluate,
        EvaluateConfig,
        default_config="configs/autobucket/evaluate.yaml",
        default_out="runs/autobucket-evaluation",
    )
