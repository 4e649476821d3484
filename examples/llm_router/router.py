"""Q(prompt, model): the expected score of each model's answer, from the prompt alone.

Two members, ridge regression and small networks, and a blend of them. Everything is chosen within the training prompts: the
ridge's penalties by leave-one-out errors, the blend by cross-validation.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from examples.llm_router.features import PromptFeatures
from examples.llm_router.nets import Nets
from examples.llm_router.prompts import Prompts
from examples.llm_router.ridge import Ridge
from marca_common.progress import progress
from marca_common.seeding import numpy_generator

BLENDS = (0.0, 0.25, 0.5, 0.75, 1.0)  # weight of the networks


@dataclass(frozen=True)
class Router:
    """What was learned from training prompts."""

    features: PromptFeatures
    ridge: Ridge
    nets: Nets
    nets_weight: float

    def expected(self, prompts: Prompts) -> np.ndarray:
        """Expected score of each model's answer, float64 (S, A)."""
        x = self.features.of(prompts.texts, prompts.domains)
        return blended(self.ridge.expected(x), self.nets.expected(x), self.nets_weight)


def learn(train: Prompts, folds: int, seed: int) -> tuple[Router, np.ndarray]:
    """A router from training prompts, and their expected scores (S, A), each by members that were fitted without its fold."""
    features = PromptFeatures.fit(train.texts, train.domains, numpy_generator(seed, "llm_router", "features"))
    x, y = features.of(train.texts, train.domains), train.scores
    ridge, nets = np.empty_like(y), np.empty_like(y)
    fold = _folds(train, folds, seed)
    for held_out in progress([fold == k for k in range(folds)], what="cross-validation", unit="fold"):
        ridge[held_out] = Ridge.fit(x[~held_out], y[~held_out]).expected(x[held_out])
        nets[held_out] = Nets.fit(x[~held_out], y[~held_out], seed).expected(x[held_out])
    weight = min(BLENDS, key=lambda share: float(np.mean((blended(ridge, nets, share) - y) ** 2)))
    return Router(features, Ridge.fit(x, y), Nets.fit(x, y, seed), weight), blended(ridge, nets, weight)


def blended(ridge: np.ndarray, nets: np.ndarray, nets_weight: float) -> np.ndarray:
    """Both members' expected scores in one, (S, A)."""
    return (1.0 - nets_weight) * ridge + nets_weight * nets


def _folds(train: Prompts, folds: int, seed: int) -> np.ndarray:
    """Fold of each prompt, int64 (S,); rows of one prompt are in one fold."""
    codes, keys = pd.factorize(np.array(train.keys(), dtype=object))
    return np.asarray((numpy_generator(seed, "llm_router", "folds").permutation(len(keys)) % folds)[codes])
