"""Rows of the learner tables that nobody trained to look at a request: what a profile of actions alone is worth."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pandas as pd

from awrq_mixer.anchoring.global_profile import estimate_profile, result_columns
from awrq_mixer.config import TrainConfig
from awrq_mixer.serving.predictor import Predictor
from awrq_mixer.training.training_log import read_by_time
from marca_common.tables import Column
from marca_measures.rank_correlation import reference_scores

SURROGATE = "predicted_value"


def profile_true(model: Predictor, states: pd.DataFrame, value: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """True state mean × one true profile of all states; ``value`` (S, A) is the truth, ``counts`` (S,) requests."""
    return reference_scores(value, counts)["state_times_profile"]


def profile_estimated(model: Predictor, states: pd.DataFrame, value: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Level of the state by ``model`` (the GLM) × the profile that anchoring estimates from the model's training rows."""
    profile = profile_of(model.config)
    scores: np.ndarray = model.values(states).mean(1, keepdims=True) * (profile / profile.mean())
    return scores


def profile_of(config: TrainConfig) -> np.ndarray:
    """The global profile by the training rows of a log, money per request (A,)."""
    extra = [Column(SURROGATE, "float", 0), *result_columns(config.spec)]
    train, _, _ = read_by_time(config.requests, config, extra)
    return estimate_profile(train, config.spec, SURROGATE)


REFERENCES: dict[str, Callable[[Predictor, pd.DataFrame, np.ndarray, np.ndarray], np.ndarray]] = {
    "profile_true": profile_true,
    "profile_estimated": profile_estimated,
}
