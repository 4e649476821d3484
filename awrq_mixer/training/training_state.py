"""What a training run carries from step to step, and how it is saved, resumed and reported."""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from awrq_mixer.config import OptimiserConfig, TrainConfig
from awrq_mixer.learners.base import Learner
from awrq_mixer.serving.predictor import Predictor
from awrq_mixer.training.training_rows import Rows
from awrq_mixer.training.validation import ValidationSet
from marca_common.checkpoint import (
    check_weights,
    content_of,
    generator_state,
    load_checkpoint,
    load_optimiser,
    load_weights,
    require_keys,
    restore_generator,
    restore_plain,
    save_checkpoint,
)
from marca_common.errors import UserError
from marca_common.figures import new_figure, save_figure
from marca_common.progress import MetricsLog
from marca_common.ranks import Ranks
from marca_common.run_folder import RunFolder
from marca_common.shared_batches import require_as_many

_KIND = "awrq_mixer.training"
_COLUMNS = ["step", "samples", "loss", "gradient_norm", "lr", "shape_gain"]


@dataclass
class TrainingState:
    """Optimiser, step counter, best weights so far and the record of the run."""

    config: TrainConfig
    run: RunFolder
    learner: Learner
    predictor: Predictor
    optimiser: torch.optim.Optimizer
    schedule: torch.optim.lr_scheduler.LRScheduler
    batch_size: int
    total_steps: int
    fingerprint: list[float]
    metrics: MetricsLog | None  # of rank 0
    group: Ranks
    step: int = 0
    steps_here: int = 0
    best: float = -math.inf
    best_step: int = 0
    best_weights: dict[str, Tensor] = field(default_factory=dict)
    stale: int = 0
    norms: list[float] = field(default_factory=list)
    history: list[list[float]] = field(default_factory=list)  # step, shape_gain
    sums: dict[str, float] = field(default_factory=dict)
    since: int = 0
    eta: list[float] = field(default_factory=lambda: [1.0, 0.0])  # least and most of all updates; none yet: 1, 0

    @classmethod
    def start(
        cls, config: TrainConfig, run: RunFolder, learner: Learner, predictor: Predictor, rows: Rows, ranks: Ranks
    ) -> TrainingState:
        """A fresh state, or the one a run of the same config on the same rows left behind."""
        size = rows.batch_size(config.batch_size)
        total = max(1, math.ceil(config.epochs * (len(rows) // size)))
        optimiser = make_optimiser(learner, config.optimiser)
        schedule = make_schedule(optimiser, config.optimiser.decay, total)
        fingerprint = rows.fingerprint()
        saved = ranks.lead(lambda: cls._saved(run, config, fingerprint, ranks))
        metrics = None
        if ranks.rank == 0:
            columns = [*_COLUMNS, *learner.metrics]
            metrics = MetricsLog(run.path / "metrics.csv", columns, saved["step"] if saved else None)
        state = cls(config, run, learner, predictor, optimiser, schedule, size, total, fingerprint, metrics, ranks)
        if saved:
            with content_of(run.path / "last.pt"):
                state._load(saved)
        return state

    @staticmethod
    def _saved(run: RunFolder, config: TrainConfig, fingerprint: list[float], ranks: Ranks) -> dict[str, Any] | None:
        path = run.path / "last.pt"
        if not (run.resuming and path.exists()):
            return None
        saved = load_checkpoint(path, _KIND, list(config.spec.state))
        with content_of(path):
            require_keys(
                saved, {*_PLAIN, "weights", "optimiser", "schedule", "noise", "best_weights", "norms", "ranks"}
            )
            if type(saved["step"]) is not int:
                raise UserError(f"step is {saved['step']!r}; expected a whole number")
            require_as_many(saved["ranks"], ranks)
        return saved if saved["fingerprint"] == fingerprint else None

    @property
    def out_of_patience(self) -> bool:
        """True once validation has not gained for ``patience`` reports."""
        return self.config.patience is not None and self.stale >= self.config.patience

    def count(self, loss: float, norm: float, logged: dict[str, Tensor]) -> None:
        """One update is done."""
        self.step += 1
        self.steps_here += 1
        self.since += 1
        self.norms.append(norm)
        if "eta_min" in logged:
            self.eta = [min(self.eta[0], float(logged["eta_min"])), max(self.eta[1], float(logged["eta_max"]))]
        for name, value in {"loss": loss, **{key: float(one) for key, one in logged.items()}}.items():
            self.sums[name] = self.sums.get(name, 0.0) + value

    def report(self, validation: ValidationSet | None) -> None:
        """Validate, log one row, keep the best weights, write ``last.pt``."""
        score = float(self.step)  # without validation the last weights count as best
        measured = {}
        if validation:
            score = measured["shape_gain"] = self.group.lead(lambda: self._gain(validation))
            self.history.append([float(self.step), score])
        if self.metrics is not None:
            self._write_row(self.metrics, measured)
        self.sums, self.since = {}, 0
        if score > self.best:
            self.best, self.best_step, self.stale = score, self.step, 0
            self.best_weights = copy.deepcopy(self.learner.learned())
        else:
            self.stale += 1
        self.group.lead(self._save_last)

    def _gain(self, validation: ValidationSet) -> float:
        score = validation.shape_gain(self.predictor.at)
        if not math.isfinite(score):
            raise UserError(
                f"{self.config.learner}: its values at step {self.step} are not finite numbers; try a smaller optimiser.lr"
            )
        return score

    def _write_row(self, metrics: MetricsLog, measured: dict[str, float]) -> None:
        means = {
            name: total / self.since for name, total in self.sums.items() if name in ("loss", *self.learner.metrics)
        }
        metrics.write(
            step=self.step,
            samples=self.step * self.batch_size,
            gradient_norm=float(np.mean(self.norms[-self.since :])),
            lr=self.optimiser.param_groups[0]["lr"],
            **means,
            **measured,
        )

    def _save_last(self) -> None:
        """Everything a resumed run needs to end with the same weights, bit for bit; so never in the middle of an update."""
        assert self.learner.generator is not None
        payload = {
            "weights": self.learner.learned(),
            "optimiser": self.optimiser.state_dict(),
            "schedule": self.schedule.state_dict(),
            "noise": generator_state(self.learner.generator),
            "best_weights": self.best_weights,
            "norms": torch.tensor(self.norms, dtype=torch.float64),
            "ranks": self.group.size,
            **{name: getattr(self, name) for name in _PLAIN},
        }
        save_checkpoint(self.run.path / "last.pt", _KIND, list(self.config.spec.state), payload)

    def _load(self, saved: dict[str, Any]) -> None:
        weights, best = (self.learner.with_rows(saved[name]) for name in ("weights", "best_weights"))
        load_weights(self.learner, weights, any_size=self.learner.any_size)
        check_weights(self.learner, best, "best_weights", self.learner.any_size)
        load_optimiser(self.optimiser, saved["optimiser"])
        self.schedule.load_state_dict(saved["schedule"])
        assert self.learner.generator is not None
        restore_generator(self.learner.generator, saved["noise"])
        self.best_weights = saved["best_weights"]
        self.norms = saved["norms"].tolist()
        restore_plain(self, saved, _PLAIN)

    def restore_best(self) -> None:
        """Put the best validated weights back."""
        if self.best_weights:
            self.learner.load_state_dict(self.learner.with_rows(self.best_weights))

    def summary(self) -> dict[str, Any]:
        """What the run came to; for learners with head weights η also their least and most over all updates."""
        eta = {"eta_least": self.eta[0], "eta_most": self.eta[1]} if self.eta[0] <= self.eta[1] else {}
        return eta | {
            "learner": self.config.learner,
            "steps": self.step,
            "samples": self.step * self.batch_size,
            "best_step": self.best_step,
            "validation_shape_gain": self.best if self.history else None,
            "samples_to_95_percent": samples_to_share(self.history, self.batch_size),
            "gradient_variance": gradient_variance(self.norms),
            "parameters": sum(p.numel() for p in self.learner.online.parameters()),
        }


_PLAIN = ["step", "best", "best_step", "stale", "history", "sums", "since", "eta", "fingerprint"]


def make_optimiser(learner: Learner, config: OptimiserConfig) -> torch.optim.Optimizer:
    """The configured optimiser over what is trained."""
    parameters = list(learner.online.parameters())
    if config.name == "adam":
        return torch.optim.AdamW(parameters, lr=config.lr, weight_decay=config.weight_decay, fused=True)
    if config.name == "sgd":
        return torch.optim.SGD(parameters, lr=config.lr, weight_decay=config.weight_decay)
    return torch.optim.RMSprop(parameters, lr=config.lr, weight_decay=config.weight_decay)


def make_schedule(optimiser: torch.optim.Optimizer, decay: str, total: int) -> torch.optim.lr_scheduler.LambdaLR:
    """Learning rate over the run: constant, or down to zero along a line or half a cosine."""

    def factor(step: int) -> float:
        share = min(step / total, 1.0)
        if decay == "linear":
            return 1 - share
        return 0.5 * (1 + math.cos(math.pi * share)) if decay == "cosine" else 1.0

    return torch.optim.lr_scheduler.LambdaLR(optimiser, factor)


def samples_to_share(history: list[list[float]], batch_size: int, share: float = 0.95) -> float | None:
    """Samples until ``share`` of the best score is reached; an untrained model's shape_gain is 0."""
    if not history:
        return None
    best = max(score for _, score in history)
    reached = [step for step, score in history if score >= share * best]
    return reached[0] * batch_size if best > 0 else None


def gradient_variance(norms: list[float], window: int = 1000) -> float | None:
    """Variance of the gradient norm over its squared mean, averaged over sliding windows of updates."""
    values = np.asarray(norms)
    window = min(window, len(values))
    if window < 10:
        return None
    sums = np.cumsum(np.insert(values, 0, 0.0))
    squares = np.cumsum(np.insert(values**2, 0, 0.0))
    mean = (sums[window:] - sums[:-window]) / window
    square = (squares[window:] - squares[:-window]) / window
    return float(np.mean(np.maximum(square - mean**2, 0) / np.maximum(mean**2, np.finfo(np.float64).tiny)))


def learning_curve(metrics: str | Path, path: str | Path, learner: str) -> Path | None:
    """Loss and validation gain over the samples seen."""
    rows = pd.read_csv(metrics)
    if rows.empty:
        return None
    figure, (left, right) = new_figure(1, 2, width=8.4, height=3.2)
    left.plot(rows["samples"] / 1e6, rows["loss"])
    left.set(title=f"{learner}: training loss", xlabel="samples (million)", ylabel="loss on scaled revenue")
    gains = rows.dropna(subset="shape_gain")
    right.plot(gains["samples"] / 1e6, 100 * gains["shape_gain"], marker="o", markersize=3)
    right.axhline(0, color="black", linewidth=0.8)
    right.set(title="validation: order within states", xlabel="samples (million)", ylabel="deviance explained (%)")
    return save_figure(figure, path)
