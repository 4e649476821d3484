"""Q(prompt, model): the expected score of each model's answer, from the prompt alone.

Two members, ridge regression and boosted trees, and a blend of them. Everything is chosen within the training prompts: the
ridge's penalties by leave-one-out errors, the blend by cross-validation.
"""

from __future__ import annotations

from dataclasses import dataclass

import lightgbm
import numpy as np
import pandas as pd

from examples.llm_router.features import PromptFeatures
from examples.llm_router.prompts import Prompts
from marca_common.seeding import integer_seed, numpy_generator

PENALTIES = np.geomspace(0.3, 300.0, 13)
BLENDS = (0.0, 0.25, 0.5, 0.75, 1.0)  # weight of the trees
TREES = {
    "objective": "regression", "num_leaves": 15, "learning_rate": 0.05, "min_data_in_leaf": 40, "feature_fraction": 0.3,
    "bagging_fraction": 0.7, "bagging_freq": 1, "lambda_l2": 5.0, "num_threads": 1, "deterministic": True, "verbose": -1,
}  # fmt: skip
ROUNDS = 150


@dataclass(frozen=True)
class Learned:
    """What was learned from training prompts."""

    features: PromptFeatures
    ridge: Ridge
    trees: list[lightgbm.Booster]  # one per model
    trees_weight: float
    out_of_fold: np.ndarray  # float64 (S, A): expected scores of the training prompts, each by a fit without its fold

    def expected(self, prompts: Prompts) -> np.ndarray:
        """Expected score of each model's answer, float64 (S, A)."""
        linear, plain = self.features.of(prompts.texts, prompts.domains)
        return blended(self.ridge.expected(linear), tree_scores(self.trees, plain), self.trees_weight)


def learn(train: Prompts, folds: int, seed: int) -> Learned:
    """Fit both members to the training prompts, and blend them by their errors out of fold."""
    features = PromptFeatures.fit(train.texts, train.domains, numpy_generator(seed, "llm_router", "features"))
    linear, plain = features.of(train.texts, train.domains)
    ridge, trees = np.empty_like(train.scores), np.empty_like(train.scores)
    fold = _folds(train, folds, seed)
    for held_out in (fold == k for k in range(folds)):
        kept, scores = ~held_out, train.scores[~held_out]
        ridge[held_out] = Ridge.fit(linear[kept], scores).expected(linear[held_out])
        trees[held_out] = tree_scores(fit_trees(plain[kept], scores, seed), plain[held_out])
    weight = min(BLENDS, key=lambda w: float(np.mean((blended(ridge, trees, w) - train.scores) ** 2)))
    return Learned(
        features,
        Ridge.fit(linear, train.scores),
        fit_trees(plain, train.scores, seed),
        weight,
        blended(ridge, trees, weight),
    )


def blended(ridge: np.ndarray, trees: np.ndarray, trees_weight: float) -> np.ndarray:
    """Both members' expected scores in one, (S, A)."""
    return (1.0 - trees_weight) * ridge + trees_weight * trees


def _folds(train: Prompts, folds: int, seed: int) -> np.ndarray:
    """Fold of each prompt, int64 (S,); rows of one prompt are in one fold."""
    codes, keys = pd.factorize(np.array(train.keys(), dtype=object))
    return np.asarray((numpy_generator(seed, "llm_router", "folds").permutation(len(keys)) % folds)[codes])


@dataclass(frozen=True)
class Ridge:
    """Linear in the features; each principal direction of the scores has a penalty of its own.

    That prompts are hard for all models is easy to see from their text; which model they suit is not. So directions in which
    models differ are drawn more strongly towards the models' means.
    """

    middle: np.ndarray  # (F,)
    mean: np.ndarray  # (A,) mean score of each model
    weights: np.ndarray  # (F, A)

    @classmethod
    def fit(cls, features: np.ndarray, scores: np.ndarray) -> Ridge:
        """``features`` (S, F), ``scores`` (S, A); penalties with the least squared leave-one-out errors, in closed form."""
        middle, mean = features.mean(axis=0), scores.mean(axis=0)
        centred, residual = features - middle, scores - mean
        turn = np.linalg.eigh(residual.T @ residual)[1]  # (A, A)
        target = residual @ turn
        power, axes = np.linalg.eigh(centred.T @ centred)
        kept = power > 1e-9 * max(power[-1], 1e-300)
        power, axes = power[kept], axes[:, kept]
        along = centred @ axes / np.sqrt(power)  # (S, R) orthonormal columns
        projected = along.T @ target
        errors = np.array([_leave_one_out(along, projected, target, power, penalty) for penalty in PENALTIES])
        penalty = PENALTIES[errors.argmin(axis=0)]  # (A,)
        coefficients = projected * np.sqrt(power)[:, None] / (power[:, None] + penalty)
        return cls(middle, mean, axes @ coefficients @ turn.T)

    def expected(self, features: np.ndarray) -> np.ndarray:
        """Expected scores (S, A)."""
        return self.mean + (features - self.middle) @ self.weights


def _leave_one_out(
    along: np.ndarray, projected: np.ndarray, target: np.ndarray, power: np.ndarray, penalty: float
) -> np.ndarray:
    """Mean squared error of each target (A,) when its row is left out of the ridge fit."""
    shrunk = power / (power + penalty)
    leverage = (along**2) @ shrunk + 1.0 / len(along)
    residual = target - along @ (shrunk[:, None] * projected)
    return np.asarray(((residual / np.maximum(1.0 - leverage, 1e-6)[:, None]) ** 2).mean(axis=0))


def fit_trees(features: np.ndarray, scores: np.ndarray, seed: int) -> list[lightgbm.Booster]:
    """Boosted trees for each model's scores (S, A)."""
    options = {**TREES, "seed": integer_seed(seed, "llm_router", "trees") % 2**31}
    return [
        lightgbm.train(options, lightgbm.Dataset(features, one, params={"verbose": -1}), ROUNDS) for one in scores.T
    ]


def tree_scores(trees: list[lightgbm.Booster], features: np.ndarray) -> np.ndarray:
    """Expected scores by the trees, float64 (S, A)."""
    return np.column_stack([np.asarray(one.predict(features, num_threads=1)) for one in trees])
