"""LightGBM on (state, sub-actions) → revenue: the baseline that many a team would try first.

With ``plus.surrogate`` trees first learn that column, and trees of revenue go on from their scores: the rival of awrq_plus
that is given the same information.
"""

from __future__ import annotations

import time
from typing import Any

import lightgbm
import numpy as np

from awrq_mixer.config import TrainConfig
from awrq_mixer.learners.base import Batch
from awrq_mixer.serving.boosted_scorer import BoostedScorer, raw_scores
from awrq_mixer.serving.predictor import Predictor
from awrq_mixer.training.training_log import Log, make_batch
from awrq_mixer.training.validation import ValidationSet
from marca_common.run_folder import RunFolder


def fit(
    config: TrainConfig, log: Log, validation: ValidationSet | None, run: RunFolder
) -> tuple[Predictor, dict[str, Any]]:
    """Grow trees on the training rows, stop early on the validation loss, write the checkpoint."""
    started = time.perf_counter()
    surrogate = config.plus.surrogate
    train = make_batch(log.train, log.spec, log.encoder, surrogate)
    held_out = None if log.validation.empty else make_batch(log.validation, log.spec, log.encoder, surrogate)
    scale = config.loss.reward_scale or float(train.reward.mean()) or 1.0
    boosters: list[lightgbm.Booster] = []
    if surrogate:
        boosters.append(_grow(config, train, held_out, "surrogate", float(train.surrogate.mean()), []))
    boosters.append(_grow(config, train, held_out, "reward", scale, boosters))
    predictor = Predictor(BoostedScorer(boosters, config, scale), config, log.encoder)
    predictor.save(run.path / "best.pt")
    return predictor, {
        "learner": config.learner,
        "steps": boosters[-1].best_iteration or boosters[-1].num_trees(),
        "validation_shape_gain": validation.shape_gain(predictor.at) if validation else None,
        "train_s": round(time.perf_counter() - started, 3),
    }


def _grow(
    config: TrainConfig, train: Batch, held_out: Batch | None, what: str, scale: float, before: list[lightgbm.Booster]
) -> lightgbm.Booster:
    """Trees of one column (``reward`` or ``surrogate``, divided by ``scale``) that go on from the scores of others."""

    def dataset(batch: Batch, reference: lightgbm.Dataset | None) -> lightgbm.Dataset:
        parts = [batch.codes.numpy(), batch.numbers.numpy(), batch.actions.numpy()]
        rows = np.concatenate(parts, axis=1).astype(np.float32)
        start = raw_scores(before, rows) if before else None
        categories = list(range(batch.codes.shape[1]))
        labels = getattr(batch, what).numpy() / scale
        return lightgbm.Dataset(rows, labels, reference, init_score=start, categorical_feature=categories)

    data = dataset(train, None)
    valid = None if held_out is None else [dataset(held_out, data)]
    patience = config.patience * 5 if config.patience else 10_000
    callbacks: list[Any] = [lightgbm.early_stopping(patience, verbose=False)] if valid else []
    return lightgbm.train(_parameters(config), data, config.boost.trees, valid_sets=valid, callbacks=callbacks)


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
