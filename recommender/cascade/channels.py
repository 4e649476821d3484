"""Retrieval: channels that offer films, and how their offers are merged.

Every order is by falling score; ties go to the more popular film, so that an order never depends on what else is sorted.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from recommender.cascade.action_space import Setting
from recommender.config import CHANNELS
from recommender.models.taste_models import TasteModels
from recommender.request import Request


@dataclass(frozen=True)
class Channels:
    """Channels over models of taste; ranks are merged as Σ 1 / (fusion + rank)."""

    taste: TasteModels
    fusion: float

    def retrieve(self, request: Request, setting: Setting) -> tuple[np.ndarray, np.ndarray]:
        """Films (n,) that the open channels offer, and their merged scores (n,)."""
        lists = [
            self.channel(request, name, setting.model, length)
            for name, length in zip(CHANNELS, setting.lengths)
            if length
        ]
        films = np.unique(np.concatenate(lists))
        fused = np.zeros(len(films))
        for one in lists:
            fused[np.searchsorted(films, one)] += 1 / (self.fusion + 1 + np.arange(len(one)))
        return films, fused + self.taste.tie[films]

    def offers(self, request: Request, longest: dict[tuple[str, str], int]) -> dict[tuple[str, str], np.ndarray]:
        """What each (channel, model) offers at a length, best first; a shorter queue is the beginning of a longer one."""
        return {key: self.channel(request, *key, length) for key, length in longest.items()}

    def channel(self, request: Request, name: str, model: str, length: int) -> np.ndarray:
        """The best films of a channel that the user has not rated, best first."""
        return best_unseen(self._channel_scores(request, name, model) + self.taste.tie, request.films, length)

    def _channel_scores(self, request: Request, name: str, model: str) -> np.ndarray:
        if name == "als":
            vector, vectors = self.taste.als(request, model)
            return np.asarray(vectors @ vector)
        if name == "knn":
            return self.taste.knn(request, model)
        return self.taste.popularity if name == "popular" else self.taste.genres @ self.taste.content(request)


def best_unseen(scores: np.ndarray, seen: np.ndarray, length: int) -> np.ndarray:
    """The ``length`` best films by distinct scores (I,) that are not among ``seen``, best first."""
    scores = scores.copy()
    scores[seen] = -np.inf
    length = min(length, len(scores) - len(seen))
    if length < 1:
        return np.zeros(0, np.int64)
    best = np.argpartition(-scores, length - 1)[:length]
    return best[np.argsort(-scores[best])]
