"""All models of a cascade, trained in the order in which they need one another."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightgbm
import numpy as np
import torch

from marca_common.checkpoint import content_of, load_checkpoint, load_weights, save_checkpoint
from marca_common.errors import UserError
from marca_common.progress import progress
from marca_common.seeding import numpy_generator
from recommender.config import ModelsConfig
from recommender.models.sequence_ranker import SequenceRanker, fit_sequence_ranker
from recommender.models.small_rankers import Preranker, fit_preranker, fit_small_ranker
from recommender.models.taste_models import FEATURES, TasteModels
from recommender.request import Request

_KIND = "recommender models"
Candidates = Callable[[Request], np.ndarray]  # what the channels offer for a request


@dataclasses.dataclass(frozen=True)
class Rankers:
    """Everything behind the channels."""

    preranker: Preranker
    small: lightgbm.Booster
    large: SequenceRanker


def fit_rankers(
    taste: TasteModels, requests: list[Request], likes: list[np.ndarray], candidates: Candidates, config: ModelsConfig, seed: int
) -> Rankers:  # fmt: skip
    """Train on what the channels offer to requests; ``likes`` (one array each) says what their users like next.

    UserError where the channels offer nothing that is liked, or nothing else.
    """
    films, liked = _samples(requests, likes, candidates, config.candidates, seed)
    there = films >= 0
    if not liked.any() or liked[there].all():
        raise UserError("ranker part: expected visits with films that are liked next and films that are not")
    light, heavy = (np.zeros((*films.shape, len(FEATURES)), np.float32) for _ in range(2))
    for row, request in enumerate(progress(requests, what="ranker features", unit="visit")):
        own = films[row][there[row]]
        light[row, there[row]] = taste.features(request, own, "light")
        heavy[row, there[row]] = taste.features(request, own, "heavy")
    return Rankers(
        fit_preranker(light[there].astype(np.float64), liked[there]),
        fit_small_ranker(heavy[there], liked[there], config, seed),
        fit_sequence_ranker(requests, films, heavy, liked, taste.film_heavy, config, seed),
    )


def _samples(
    requests: list[Request], likes: list[np.ndarray], candidates: Candidates, most: int, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Films (V, 2 · most), −1: none, and whether they are liked: up to ``most`` likes, and as many other candidates."""
    generator = numpy_generator(seed, "samples")
    films = np.full((len(requests), 2 * most), -1)
    liked = np.zeros(films.shape, bool)
    for row, (request, own) in enumerate(zip(progress(requests, what="ranker samples", unit="visit"), likes)):
        offered = candidates(request)
        own, other = np.intersect1d(own, offered), np.setdiff1d(offered, own)
        own, other = (generator.permutation(x)[:most] for x in (own, other))
        films[row, : len(own) + len(other)] = np.concatenate([own, other])
        liked[row, : len(own)] = True
    width = (films >= 0).sum(axis=1).max(initial=1)
    return films[:, :width], liked[:, :width]


def save_models(path: str | Path, taste: TasteModels, rankers: Rankers) -> None:
    """One checkpoint file, atomically."""
    parts: dict[str, Any] = {field.name: getattr(taste, field.name) for field in dataclasses.fields(taste)}
    plain = {name: torch.from_numpy(x) if isinstance(x, np.ndarray) else x for name, x in parts.items()}
    large = rankers.large
    payload = {
        "taste": plain,
        "preranker": torch.from_numpy(rankers.preranker.weight),
        "small": rankers.small.model_to_string(),
        "large": large.state_dict(),
        "sizes": [large.film.num_embeddings - 1, large.film.embedding_dim, large.memory.hidden_size, large.sequence],
    }
    save_checkpoint(path, _KIND, list(FEATURES), payload)


def load_models(path: str | Path) -> tuple[TasteModels, Rankers]:
    """What ``save_models`` wrote; a damaged file is a UserError."""
    payload = load_checkpoint(path, _KIND, list(FEATURES))
    with content_of(path):
        parts: dict[str, Any] = {
            name: x.numpy() if isinstance(x, torch.Tensor) else x for name, x in payload["taste"].items()
        }
        large = SequenceRanker(*payload["sizes"])
        load_weights(large, payload["large"])
        small = lightgbm.Booster(model_str=payload["small"])
        return TasteModels(**parts), Rankers(Preranker(payload["preranker"].numpy()), small, large.eval())
