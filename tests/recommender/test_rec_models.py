"""The models behind channels and rankers."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import sparse

from recommender.build_parts import Parts
from recommender.config import ModelsConfig
from recommender.models.als import fit_als, fold_in, gram_of
from recommender.models.item_knn import fit_neighbours, neighbour_scores
from recommender.models.sequence_ranker import fit_sequence_ranker
from recommender.models.small_rankers import fit_preranker, fit_small_ranker
from recommender.models.taste_models import FEATURES, TasteModels, fit_taste_models
from recommender.request import Request

KINDS = np.arange(60) % 4  # of 60 films: each user likes one kind of film


@pytest.fixture(scope="module")
def taste() -> TasteModels:
    """Fitted on 100 users, who have each rated 30 films of 60 and like those of their kind."""
    generator = np.random.default_rng(0)
    film = np.concatenate([generator.choice(60, 30, replace=False) for _ in range(100)])
    user = np.repeat(np.arange(100), 30)
    liked = (KINDS[film] == user % 4) ^ (generator.random(3000) < 0.1)
    genres = np.eye(4, dtype=np.float32)[KINDS]
    config = ModelsConfig(confidence=20, ridge=4, neighbours=20, shrink=10)
    return fit_taste_models(user, film, np.where(liked, 5.0, 2.0), liked, genres, 100, config, 0)


def request_of(user: int, films: list[int], likes: list[bool]) -> Request:
    flags, known = np.array(likes, bool), np.array(films, np.int64)
    return Request(user, known, known[flags], flags, np.zeros(0, np.int64))


@pytest.mark.parametrize("model", ["light", "heavy"])
def test_every_channel_finds_films_of_the_liked_kind(model: str, taste: TasteModels) -> None:
    request = request_of(2, [2, 6, 11, 10], [True, True, False, True])
    features = taste.features(request, np.arange(60), model)
    unseen = np.setdiff1d(np.arange(60), request.films)
    for name in ("als", "knn", "genres"):
        scores = features[unseen, FEATURES.index(name)]
        own = KINDS[unseen] == 2
        assert (scores[own][:, None] > scores[~own][None]).mean() > 0.8, name


def test_only_the_heavy_vector_follows_what_was_liked_since(taste: TasteModels) -> None:
    before, after = request_of(2, [2, 6], [True, True]), request_of(2, [2, 6, 1, 5, 9], [True] * 5)
    (stored, _), (stored_after, _) = taste.als(before, "light"), taste.als(after, "light")
    assert (stored == stored_after).all()
    (folded, films), (folded_after, _) = taste.als(before, "heavy"), taste.als(after, "heavy")
    assert (films @ folded_after)[[13, 17]].mean() > (films @ folded)[[13, 17]].mean() + 0.1


def test_ties_are_distinct_and_go_to_the_more_popular_film(taste: TasteModels) -> None:
    assert len(set(taste.tie.tolist())) == 60
    assert taste.tie.max() < 1e-9
    order = np.argsort(taste.tie)
    assert (np.diff(taste.popularity[order]) >= 0).all()


def test_the_large_ranker_learns_from_the_order_of_the_history() -> None:
    """What is liked next is of the kind of the last film: no feature tells it, only the sequence does."""
    generator = np.random.default_rng(0)
    history = [generator.integers(0, 60, generator.integers(3, 9)) for _ in range(600)]
    requests = [request_of(0, one.tolist(), [True] * len(one)) for one in history]
    films = generator.integers(0, 60, (600, 12))
    films[::5, -3:] = -1  # some have fewer candidates
    liked = (KINDS[films] == np.array([KINDS[one[-1]] for one in history])[:, None]) & (films >= 0)
    features = generator.normal(size=(600, 12, len(FEATURES))).astype(np.float32)
    vectors = np.eye(4)[KINDS] + 0.1 * generator.normal(size=(60, 4))
    config = ModelsConfig(width=16, sequence=8, epochs=12, lr=0.015)
    large = fit_sequence_ranker(requests[:500], films[:500], features[:500], liked[:500], vectors, config, 0)
    right = []
    for row in range(500, 600):
        own = films[row] >= 0
        scores, label = large.rank_scores(requests[row], films[row][own], features[row][own]), liked[row][own]
        right.append((scores[label][:, None] > scores[~label][None]).mean() if 0 < label.sum() < len(label) else 1.0)
    assert np.mean(right) > 0.9
    once = ModelsConfig(width=16, sequence=8, epochs=1)
    one, two = (fit_sequence_ranker(requests, films, features, liked, vectors, once, 0).state_dict() for _ in range(2))
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_the_small_ranker_bends() -> None:
    generator = np.random.default_rng(1)
    features = generator.normal(size=(3000, len(FEATURES)))
    liked = np.abs(features[:, 0]) < 0.6
    small = fit_small_ranker(features, liked, ModelsConfig(), 0)
    scores = np.asarray(small.predict(features))
    assert (scores[liked][:200, None] > scores[~liked][None, :200]).mean() > 0.95


def test_als_minimises_its_loss() -> None:
    generator = np.random.default_rng(0)
    dense = (generator.random((7, 9)) < 0.3).astype(float)
    users, films = fit_als(sparse.csr_matrix(dense), 3, 5.0, 0.5, 30, generator)

    def loss(x: np.ndarray) -> float:
        weight = 1 + 5.0 * dense[2]
        return float((weight * (dense[2] - films @ x) ** 2).sum() + 0.5 * x @ x)

    for direction in np.vstack([np.eye(3), -np.eye(3)]):
        assert loss(users[2]) < loss(users[2] + 1e-3 * direction)
    again = fold_in(np.flatnonzero(dense[2]), films, gram_of(films, 0.5), 5.0)
    assert again == pytest.approx(users[2])
    nobody = fold_in(np.zeros(0, int), films, gram_of(films, 0.5), 5.0)
    assert nobody == pytest.approx(np.zeros(3))


def test_neighbours_by_hand() -> None:
    likes = sparse.csr_matrix(np.array([[1, 1, 0], [1, 1, 0], [1, 0, 1.0]]))
    films, likeness = fit_neighbours(likes, 1, shrink=2.0)
    assert films.ravel().tolist() == [1, 0, 0]
    together = 2 / np.sqrt(3 * 2) * 2 / (2 + 2)
    assert likeness.ravel() == pytest.approx([together, together, 1 / np.sqrt(3) * 1 / 3])
    assert neighbour_scores(np.array([1, 2]), films, likeness) == pytest.approx([together + 1 / np.sqrt(27), 0, 0])


def test_the_preranker_finds_what_matters() -> None:
    generator = np.random.default_rng(1)
    features = generator.normal(size=(4000, 3)) * [1, 10, 1] + [0, 100, 5]
    liked = generator.random(4000) < 1 / (1 + np.exp(-(features[:, 0] + 0.2 * (features[:, 1] - 100))))
    assert fit_preranker(features, liked).weight == pytest.approx([1, 0.2, 0], abs=0.1)


def test_the_large_ranker_reads_a_batch_as_it_reads_one(parts: Parts) -> None:
    """In training shorter histories are filled up; that must change nothing."""
    import torch

    large = parts.cascade.large
    short = parts.people.request(parts.people.visits, 0)
    short = type(short)(short.user, short.films[-4:], short.liked, short.flags[-4:], short.kept)
    films = np.array([3, 8])
    features = parts.cascade.taste.features(short, films, "heavy")
    history = np.full((1, large.sequence), large.nothing)
    flags = np.zeros_like(history)
    history[0, :4], flags[0, :4] = short.films, short.flags
    known = torch.from_numpy(features.astype(np.float32))[None]
    with torch.no_grad():
        filled = large(torch.from_numpy(history), torch.from_numpy(flags), torch.from_numpy(films)[None], known)[0]
    assert large.rank_scores(short, films, features) == pytest.approx(filled.numpy(), abs=1e-5)
