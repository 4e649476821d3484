"""LightGBM on (state, sub-actions) → revenue: the baseline that many a team would try first.

With ``plus.surrogate`` trees first learn that column, and trees of revenue go on from their scores. ``lightgbm_history``
also gets features of each state's training rows.
"""

from __future__ import annotations

import time
from typing import Any

import lightgbm
import numpy as np

from awrq_mixer.config import TrainConfig
from awrq_mixer.learners.base import Batch
from awrq_mixer.learners.lightgbm_history import History
from awrq_mixer.learners.state_memory import history_columns
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
    scorer = BoostedScorer([], config, config.loss.reward_scale or float(train.reward.mean()) or 1.0)
    own = None
    if config.learner == "lightgbm_history":
        columns = history_columns(config, log.space)
        scorer.history, own = History.fit(train, columns, log.space.categories, log.space.sizes, config.seed)
    tables = [(train, scorer.columns(train.codes.numpy(), train.numbers.numpy(), train.actions.numpy(), own))]
    if not log.validation.empty:
        held_out = make_batch(log.validation, log.spec, log.encoder, surrogate)
        rows = scorer.columns(held_out.codes.numpy(), held_out.numbers.numpy(), held_out.actions.numpy())
        tables.append((held_out, rows))
    if surrogate:
        scorer.boosters.append(_grow(config, tables, "surrogate", float(train.surrogate.mean()), []))
    scorer.boosters.append(_grow(config, tables, "reward", scorer.scale, scorer.boosters))
    predictor = Predictor(scorer, config, log.encoder)
    predictor.save(run.path / "best.pt")
    last = scorer.boosters[-1]
    return predictor, {
        "learner": config.learner,
        "steps": last.best_iteration or last.num_trees(),
        "validation_shape_gain": validation.shape_gain(predictor.at) if validation else None,
        "train_s": round(time.perf_counter() - started, 3),
    }


def _grow(
    config: TrainConfig,
    tables: list[tuple[Batch, np.ndarray]],
    what: str,
    scale: float,
    before: list[lightgbm.Booster],
) -> lightgbm.Booster:
    """Trees of one column (``reward`` or ``surrogate``, divided by ``scale``) that go on from the scores of others.

    ``tables``: the training rows with their columns, and the held-out rows where there are any.
    """

    def dataset(batch: Batch, rows: np.ndarray, reference: lightgbm.Dataset | None) -> lightgbm.Dataset:
        start = raw_scores(before, rows) if before else None
        categories = list(range(batch.codes.shape[1]))
        labels = getattr(batch, what).numpy() / scale
        return lightgbm.Dataset(rows, labels, reference, init_score=start, categorical_feature=categories)

    data = dataset(*tables[0], None)
    valid = [dataset(*one, data) for one in tables[1:]]
    patience = config.patience * 5 if config.patience else 10_000
    callbacks: list[Any] = [lightgbm.early_stopping(patience, verbose=False)] if valid else []
    return lightgbm.train(_parameters(config), data, config.boost.trees, valid_sets=valid or None, callbacks=callbacks)


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
