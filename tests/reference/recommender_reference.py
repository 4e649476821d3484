"""The real cascade, slowly and obviously: one request, one joint action, plain lists; models are asked film by film."""

from __future__ import annotations

import math
from typing import Any

from recommender.cascade.stages import Cascade
from recommender.config import RecommenderConfig
from recommender.request import Request


def slow_page(cascade: Cascade, request: Request, config: RecommenderConfig, choice: dict[str, int]) -> list[int]:
    """The page of one joint action, given as sub-action → level number."""
    level: dict[str, Any] = {}
    lengths: dict[str, int] = {}
    for name, action in config.actions.items():
        level[action.kind] = action.levels[choice[name]]
        for channel in action.channels:
            lengths[channel] = int(action.levels[choice[name]])  # type: ignore[arg-type]
    tie = cascade.taste.tie.tolist()
    seen = set(request.films.tolist())
    films = range(len(tie))
    if level["channels"] == ["cached"]:
        popular = cascade.taste.popularity.tolist()
        left = [film for film in request.kept.tolist() if film not in seen]
        rest = [film for film in films if film not in seen and film not in left]
        return (left + sorted(rest, key=lambda film: -(popular[film] + tie[film])))[: cascade.slots]
    fused: dict[int, float] = {}
    for channel in ("als", "knn", "popular", "content"):
        if channel in level["channels"]:
            scores = slow_channel(cascade, request, channel, level["model"])
            offered = sorted((film for film in films if film not in seen), key=lambda film: -(scores[film] + tie[film]))
            for rank, film in enumerate(offered[: lengths[channel]], start=1):
                fused[film] = fused.get(film, 0.0) + 1 / (config.models.fusion + rank)
    passed = sorted(fused)
    if len(passed) > level["truncation"]:
        light = {film: slow_features(cascade, request, film, "light") for film in passed}
        weight = cascade.preranker.weight.tolist()
        pre = {film: sum(w * x for w, x in zip(weight, light[film])) + tie[film] for film in passed}
        passed = sorted(passed, key=lambda film: -pre[film])[: level["truncation"]]
    order = {film: fused[film] for film in passed}
    if level["ranker"] != "none":
        order = {
            film: float(cascade.ranking_scores(request, _one(film), level["ranker"])[0]) - tie[film] for film in passed
        }
    return sorted(passed, key=lambda film: -(order[film] + tie[film]))[: cascade.slots]


def slow_channel(cascade: Cascade, request: Request, channel: str, model: str) -> list[float]:
    """A channel's score of every film."""
    column = {"als": 0, "knn": 1, "popular": 2, "content": 4}[channel]
    return [slow_features(cascade, request, film, model)[column] for film in range(len(cascade.taste.tie))]


def slow_features(cascade: Cascade, request: Request, film: int, model: str) -> list[float]:
    """Features of one film."""
    return [float(x) for x in cascade.taste.features(request, _one(film), model)[0]]


def slow_value(
    page: list[int], liked: set[int], click: float, stray: float, film_money: Any, user_money: float
) -> float:
    """Expected revenue of a page: DCG's discounts, liked films clicked more often than others."""
    total = 0.0
    for slot, film in enumerate(page, start=1):
        total += (click if film in liked else stray) / math.log2(1 + slot) * float(film_money[film]) * user_money
    return total


def _one(film: int) -> Any:
    import numpy as np

    return np.array([film])
