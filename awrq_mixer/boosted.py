"""LightGBM on (state, sub-actions) → revenue: the baseline that many a team would try first."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import lightgbm
import numpy as np
import torch
from torch import Tensor

from awrq_mixer.config import TrainConfig
from awrq_mixer.data import Log, make_batch
from awrq_mixer.validation import ValidationSet
from common.config import to_dict
from common.requests import RequestSpec

if TYPE_CHECKING:
    from awrq_mixer.predictor import Predictor


class BoostedScorer:
    """Scores every pair of state and joint action with the trees."""

    def __init__(self, booster: lightgbm.Booster, spec: RequestSpec, scale: float) -> None:
        self.booster, self.scale = booster, scale
        self.joint = spec.joint_table().astype(np.float32)  # (A, T)

    def values(self, codes: Tensor, numbers: Tensor) -> Tensor:
        """Q in money, (S, A)."""
        state = np.concatenate([codes.numpy().astype(np.float32), numbers.numpy()], axis=1)
        size, joint = len(state), len(self.joint)
        rows = np.concatenate([np.repeat(state, joint, 0), np.tile(self.joint, (size, 1))], axis=1)
        scores = np.asarray(self.booster.predict(rows, num_threads=1), dtype=np.float32)
        return torch.from_numpy(scores.reshape(size, joint) * self.scale)

    @classmethod
    def from_payload(cls, payload: dict[str, Any], spec: RequestSpec) -> BoostedScorer:
        """The scorer a checkpoint holds."""
        return cls(lightgbm.Booster(model_str=payload["model"]), spec, payload["scale"])


def fit(
    config: TrainConfig, log: Log, validation: ValidationSet | None, path: Path
) -> tuple[Predictor, dict[str, Any]]:
    """Grow trees on the training rows, stop early on the validation loss, write the checkpoint."""
    from awrq_mixer.predictor import Predictor

    started = time.perf_counter()
    train = make_batch(log.train, log.spec, log.encoder)
    scale = config.loss.reward_scale or float(train.reward.mean()) or 1.0
    columns = train.codes.shape[1]
    data = lightgbm.Dataset(*_table(train, scale), categorical_feature=list(range(columns)), free_raw_data=False)
    held_out: list[lightgbm.Dataset] = []
    callbacks: list[Any] = []
    if not log.validation.empty:
        rows = _table(make_batch(log.validation, log.spec, log.encoder), scale)
        held_out = [lightgbm.Dataset(*rows, reference=data)]
        callbacks = [lightgbm.early_stopping(config.patience * 5 if config.patience else 10_000, verbose=False)]
    booster = lightgbm.train(
        _parameters(config), data, config.boost.trees, valid_sets=held_out or None, callbacks=callbacks
    )
    predictor = Predictor(BoostedScorer(booster, log.spec, scale), log.spec, log.encoder)
    payload = {"learner": "lightgbm", "config": to_dict(config), "scale": scale}
    predictor.save(path, payload | {"model": booster.model_to_string(num_iteration=booster.best_iteration)})
    measured = validation.measure(predictor.values) if validation else {}
    return predictor, {
        "learner": "lightgbm",
        "steps": booster.best_iteration or booster.num_trees(),
        "validation_shape_gain": measured.get("shape_gain"),
        "train_s": round(time.perf_counter() - started, 3),
    }


def _table(batch: Any, scale: float) -> tuple[np.ndarray, np.ndarray]:
    parts = [batch.codes.numpy(), batch.numbers.numpy(), batch.actions.numpy()]
    return np.concatenate(parts, axis=1).astype(np.float32), batch.reward.numpy() / scale


def _parameters(config: TrainConfig) -> dict[str, Any]:
    objective = {"mse": "l2", "mae": "l1", "huber": "huber", "tweedie": "tweedie"}[config.loss.kind]
    return {
        "objective": objective,
        "tweedie_variance_power": config.loss.tweedie_power,
        "alpha": config.loss.huber_delta,
        "learning_rate": config.boost.lr,
        "num_leaves": config.boost.leaves,
        "min_data_in_leaf": config.boost.min_rows,
        "num_threads": config.threads,
        "seed": config.seed,
        "deterministic": True,
        "verbose": -1,
    }
