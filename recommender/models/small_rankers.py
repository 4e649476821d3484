"""The pre-ranker, a logistic regression on light features, and the small ranker, boosted trees on heavy ones."""

from __future__ import annotations

from dataclasses import dataclass

import lightgbm
import numpy as np
from scipy.optimize import minimize
from scipy.special import expit

from marca_common.seeding import integer_seed
from recommender.config import ModelsConfig
from recommender.models.taste_models import FEATURES


@dataclass(frozen=True)
class Preranker:
    """score = features · weight; only its order counts."""

    weight: np.ndarray  # float64 (F,)

    def __call__(self, features: np.ndarray) -> np.ndarray:
        """Scores (n,) of features (n, F)."""
        return np.asarray(features @ self.weight)


def fit_preranker(features: np.ndarray, liked: np.ndarray) -> Preranker:
    """Logistic regression of likes (n,) on features (n, F), with a ridge of 1 on standardised weights."""
    scale = np.maximum(features.std(axis=0), 1e-9)
    x = np.column_stack([(features - features.mean(axis=0)) / scale, np.ones(len(features))])
    sign = np.where(liked, 1.0, -1.0)

    def loss(w: np.ndarray) -> tuple[float, np.ndarray]:
        margin = sign * (x @ w)
        value = np.logaddexp(0, -margin).sum() + 0.5 * w[:-1] @ w[:-1]
        return float(value), -x.T @ (sign * expit(-margin)) + np.append(w[:-1], 0)

    found = minimize(loss, np.zeros(x.shape[1]), jac=True, method="L-BFGS-B").x
    return Preranker(found[:-1] / scale)


def fit_small_ranker(features: np.ndarray, liked: np.ndarray, config: ModelsConfig, seed: int) -> lightgbm.Booster:
    """Boosted trees of likes (n,) on features (n, F)."""
    settings = {
        "objective": "binary",
        "num_leaves": config.leaves,
        "learning_rate": 0.08,
        "min_data_in_leaf": min(200, max(1, len(liked) // 20)),
        "num_threads": 1,
        "deterministic": True,
        "seed": integer_seed(seed, "small") % 2**31,
        "verbose": -1,
    }
    data = lightgbm.Dataset(features, liked.astype(float), feature_name=list(FEATURES), params={"verbose": -1})
    return lightgbm.train(settings, data, num_boost_round=config.trees)
