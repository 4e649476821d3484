"""What is fitted on the features part alone: vectors, neighbours, popularity, genres. Channels and rankers read it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import sparse

from marca_common.seeding import numpy_generator
from recommender.config import MODELS, ModelsConfig
from recommender.models.als import fit_als, fold_in, gram_of
from recommender.models.item_knn import fit_neighbours, neighbour_scores
from recommender.request import Request

FEATURES = ("als", "knn", "popularity", "stars", "genres", "history", "liked_share")


@dataclass(frozen=True)
class TasteModels:
    """I films, U users, d numbers in a vector, K neighbours, G genres."""

    film_light: np.ndarray  # ALS vectors, float64 (I, d_light)
    user_light: np.ndarray  # as of the features part, float64 (U, d_light)
    film_heavy: np.ndarray  # float64 (I, d_heavy)
    neighbours: np.ndarray  # int64 (I, K)
    likeness: np.ndarray  # float64 (I, K)
    popularity: np.ndarray  # log(1 + likes), float64 (I,)
    stars: np.ndarray  # mean stars, drawn to the mean of all, float64 (I,)
    genres: np.ndarray  # directions, centred on those of an average like, float64 (I, G)
    tie: np.ndarray  # settles ties: the more popular film first; distinct, below 1e-9, float64 (I,)
    gram: np.ndarray  # of the heavy film vectors, with the ridge, float64 (d_heavy, d_heavy)
    confidence: float
    recent: dict[str, int]  # model → latest likes that kNN reads

    def als(self, request: Request, model: str) -> tuple[np.ndarray, np.ndarray]:
        """The user's vector (d,) and all films' (I, d). Light: as it was stored; heavy: folded in from the history now."""
        if model == "light":
            return self.user_light[request.user], self.film_light
        return fold_in(request.liked, self.film_heavy, self.gram, self.confidence), self.film_heavy

    def knn(self, request: Request, model: str) -> np.ndarray:
        """Scores of all films (I,), from the latest likes: a heavy model reads more of them."""
        return neighbour_scores(request.liked[-self.recent[model] :], self.neighbours, self.likeness)

    def content(self, request: Request) -> np.ndarray:
        """Match (G,) of the likes' genres; a film's score is its genres times this."""
        if not len(request.liked):
            return np.zeros(self.genres.shape[1])
        return np.asarray(self.genres[request.liked].mean(axis=0))

    def features(self, request: Request, films: np.ndarray, model: str) -> np.ndarray:
        """``FEATURES`` of the films (n,) for a request, float64 (n, 7)."""
        vector, vectors = self.als(request, model)
        table = np.empty((len(films), len(FEATURES)))
        table[:, 0] = vectors[films] @ vector
        table[:, 1] = self.knn(request, model)[films]
        table[:, 2] = self.popularity[films]
        table[:, 3] = self.stars[films]
        table[:, 4] = self.genres[films] @ self.content(request)
        table[:, 5] = np.log1p(len(request.films))
        table[:, 6] = len(request.liked) / max(len(request.films), 1)
        return table


def fit_taste_models(
    user: np.ndarray, film: np.ndarray, stars: np.ndarray, liked: np.ndarray, genres: np.ndarray, users: int,
    config: ModelsConfig, seed: int,
) -> TasteModels:  # fmt: skip
    """Fit on ratings (n,) of the features part; ``genres`` (I, G) of all films."""
    films = len(genres)
    likes = sparse.csr_matrix((np.ones(int(liked.sum())), (user[liked], film[liked])), shape=(users, films))
    sizes = zip(MODELS, (config.light_factors, config.heavy_factors))
    fit = config.confidence, config.ridge, config.als_sweeps
    vectors = {model: fit_als(likes, size, *fit, numpy_generator(seed, "als", model)) for model, size in sizes}
    neighbours, likeness = fit_neighbours(likes, config.neighbours, config.shrink)
    count = np.bincount(film, minlength=films)
    popularity = np.log1p(np.asarray(likes.sum(axis=0)).ravel())
    directions = genres / np.maximum(np.linalg.norm(genres, axis=1, keepdims=True), 1e-12)
    order = np.lexsort((np.arange(films), popularity))
    return TasteModels(
        film_light=vectors["light"][1],
        user_light=vectors["light"][0],
        film_heavy=vectors["heavy"][1],
        neighbours=neighbours,
        likeness=likeness,
        popularity=popularity,
        stars=(np.bincount(film, stars, minlength=films) + 5 * stars.mean()) / (count + 5),
        genres=directions - np.average(directions, axis=0, weights=np.expm1(popularity) + 1e-9),
        tie=1e-9 * np.argsort(order) / films,
        gram=gram_of(vectors["heavy"][1], config.ridge),
        confidence=config.confidence,
        recent=dict(zip(MODELS, (config.light_recent, config.heavy_recent))),
    )
