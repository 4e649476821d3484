"""The cascade, one request and one action at a time: retrieval, pre-ranking, ranking, the page."""

from __future__ import annotations

from dataclasses import dataclass

import lightgbm
import numpy as np

from recommender.cascade.action_space import Setting
from recommender.cascade.channels import Channels, best_unseen
from recommender.models.sequence_ranker import SequenceRanker
from recommender.models.small_rankers import Preranker
from recommender.models.taste_models import TasteModels
from recommender.request import Request


@dataclass(frozen=True)
class Cascade:
    """All models, and how they follow one another."""

    channels: Channels
    preranker: Preranker
    small: lightgbm.Booster
    large: SequenceRanker
    log_money: np.ndarray  # of a click on each film, float64 (I,): rankers order by expected money
    slots: int

    @property
    def taste(self) -> TasteModels:
        """What channels and rankers read."""
        return self.channels.taste

    def serve(self, request: Request, setting: Setting) -> tuple[np.ndarray, int, int]:
        """The page (at most ``slots`` films), how many were retrieved, how many passed pre-ranking."""
        if setting.cached:
            return self.kept_answer(request), 0, 0
        films, fused = self.channels.retrieve(request, setting)
        kept = self.prerank(request, films, setting.truncation)
        page = self.rank(request, films[kept], fused[kept], setting.ranker)
        return page, len(films), int(kept.sum())

    def kept_answer(self, request: Request) -> np.ndarray:
        """The answer kept for the user without what was rated since, filled up with popular films."""
        left = request.kept[~np.isin(request.kept, request.films)]
        seen = np.concatenate([request.films, left])
        return np.concatenate([left, best_unseen(self.taste.popularity + self.taste.tie, seen, self.slots)])[
            : self.slots
        ]

    def prerank(self, request: Request, films: np.ndarray, truncation: int) -> np.ndarray:
        """Which of ``films`` (n,) pass, bool (n,); no work where all do."""
        passed = np.ones(len(films), bool)
        if len(films) > truncation:
            scores = self.preranking_scores(request, films)
            passed[np.argpartition(-scores, truncation)[truncation:]] = False
        return passed

    def rank(self, request: Request, films: np.ndarray, fused: np.ndarray, ranker: str) -> np.ndarray:
        """The page out of ``films`` (n,), whose merged scores decide where there is no ranker."""
        scores = fused if ranker == "none" else self.ranking_scores(request, films, ranker)
        return np.asarray(films[np.argsort(-scores)[: self.slots]])

    def preranking_scores(self, request: Request, films: np.ndarray) -> np.ndarray:
        """Scores (n,) from light features."""
        return np.asarray(self.preranker(self.taste.features(request, films, "light")) + self.taste.tie[films])

    def ranking_scores(self, request: Request, films: np.ndarray, ranker: str) -> np.ndarray:
        """Log of expected money (n,) but for a constant, from heavy features made anew: ranking is a service of its own."""
        features = self.taste.features(request, films, "heavy")
        if ranker == "small":
            scores = np.asarray(self.small.predict(features, raw_score=True, num_threads=1))
        else:
            scores = self.large.rank_scores(request, films, features)
        return np.asarray(scores + self.log_money[films] + self.taste.tie[films])
