"""LightGBM on (state, sub-actions) → revenue: the baseline that many a team would try first.

With ``plus.surrogate`` trees first learn that column, and trees of revenue go on from their scores: the rival of awrq_plus
that is given the same information.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import lightgbm
import numpy as np
import torch
from torch import Tensor

from awrq_mixer.config import TrainConfig
from awrq_mixer.training.training_log import Batch, Log, make_batch
from awrq_mixer.training.validation import ValidationSet
from marca_common.config import to_dict
from marca_common.requests import RequestSpec

if TYPE_CHECKING:
    from awrq_mixer.serving.predictor import Predictor


class BoostedScorer:
    """Scores every pair of state and joint action with the sum of the boosters' raw scores."""

    def __init__(self, boosters: list[lightgbm.Booster], spec: RequestSpec, scale: float, log_link: bool) -> None:
        self.boosters, self.scale, self.log_link = boosters, scale, log_link
        self.joint = spec.joint_table().astype(np.float32)  # (A, T)

    def values(self, codes: Tensor, numbers: Tensor) -> Tensor:
        """Q in money, (S, A)."""
        state = np.concatenate([codes.numpy().astype(np.float32), numbers.numpy()], axis=1)
        size, joint = len(state), len(self.joint)
        rows = np.concatenate([np.repeat(state, joint, 0), np.tile(self.joint, (size, 1))], axis=1)
        return torch.from_numpy(self._money(rows).reshape(size, joint))

    def pairs(self, codes: np.ndarray, numbers: np.ndarray, joint: np.ndarray) -> np.ndarray:
        """Q in money of one joint action per encoded state, float32 (V,)."""
        return self._money(np.concatenate([codes.astype(np.float32), numbers, self.joint[joint]], axis=1))

    def _money(self, rows: np.ndarray) -> np.ndarray:
        raw = _raw(self.boosters, rows)
        return (np.exp(raw) if self.log_link else raw).astype(np.float32) * np.float32(self.scale)

    @classmethod
    def from_payload(cls, payload: dict[str, Any], spec: RequestSpec) -> BoostedScorer:
        """The scorer a checkpoint holds."""
        boosters = [lightgbm.Booster(model_str=text) for text in payload["models"]]
        return cls(boosters, spec, payload["scale"], payload["config"]["loss"]["kind"] == "tweedie")


def fit(
    config: TrainConfig, log: Log, validation: ValidationSet | None, path: Path
) -> tuple[Predictor, dict[str, Any]]:
    """Grow trees on the training rows, stop early on the validation loss, write the checkpoint."""
    from awrq_mixer.serving.predictor import Predictor

    started = time.perf_counter()
    surrogate = config.plus.surrogate
    train = make_batch(log.train, log.spec, log.encoder, surrogate)
    held_out = None if log.validation.empty else make_batch(log.validation, log.spec, log.encoder, surrogate)
    scale = config.loss.reward_scale or float(train.reward.mean()) or 1.0
    boosters: list[lightgbm.Booster] = []
    if surrogate:
        scale_of_surrogate = max(float(train.surrogate.mean()), 1e-12)
        boosters.append(_grow(config, train, held_out, "surrogate", scale_of_surrogate, []))
    boosters.append(_grow(config, train, held_out, "reward", scale, boosters))
    scorer = BoostedScorer(boosters, log.spec, scale, config.loss.kind == "tweedie")
    predictor = Predictor(scorer, log.spec, log.encoder)
    texts = [booster.model_to_string(num_iteration=booster.best_iteration) for booster in boosters]
    predictor.save(path, {"learner": "lightgbm", "config": to_dict(config), "scale": scale, "models": texts})
    measured = validation.measure(predictor.at) if validation else {}
    return predictor, {
        "learner": "lightgbm",
        "steps": boosters[-1].best_iteration or boosters[-1].num_trees(),
        "validation_shape_gain": measured.get("shape_gain"),
        "train_s": round(time.perf_counter() - started, 3),
    }


def _grow(
    config: TrainConfig, train: Batch, held_out: Batch | None, what: str, scale: float, before: list[lightgbm.Booster]
) -> lightgbm.Booster:
    """Trees of one column (``reward`` or ``surrogate``, divided by ``scale``) that go on from the scores of others."""

    def dataset(batch: Batch, reference: lightgbm.Dataset | None) -> lightgbm.Dataset:
        parts = [batch.codes.numpy(), batch.numbers.numpy(), batch.actions.numpy()]
        rows = np.concatenate(parts, axis=1).astype(np.float32)
        start = _raw(before, rows) if before else None
        categories = list(range(batch.codes.shape[1]))
        labels = getattr(batch, what).numpy() / scale
        return lightgbm.Dataset(rows, labels, reference, init_score=start, categorical_feature=categories)

    data = dataset(train, None)
    callbacks: list[Any] = []
    if held_out is not None:
        callbacks = [lightgbm.early_stopping(config.patience * 5 if config.patience else 10_000, verbose=False)]
    valid = None if held_out is None else [dataset(held_out, data)]
    return lightgbm.train(_parameters(config), data, config.boost.trees, valid_sets=valid, callbacks=callbacks)


def _raw(boosters: list[lightgbm.Booster], rows: np.ndarray) -> np.ndarray:
    """Sum of raw scores, (rows,); of booster j only the trees up to its best iteration."""
    scores = [np.asarray(booster.predict(rows, raw_score=True, num_threads=1)) for booster in boosters]
    return np.sum(scores, axis=0)


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
