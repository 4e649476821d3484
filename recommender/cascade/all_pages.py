"""The pages of one request under all settings at once: scores are computed once, settings only select among them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from recommender.cascade.action_space import ActionSpace
from recommender.cascade.stages import Cascade
from recommender.config import CHANNELS
from recommender.request import Request

NOTHING = -1  # in place of a film where a page has fewer; as an index, the last entry


@dataclass(frozen=True)
class Plan:
    """Settings factorised: which retrievals there are, and which setting is which (retrieval, truncation, ranker)."""

    retrievals: list[tuple[tuple[int, ...], str]]
    truncations: np.ndarray  # int64 (T,)
    cells: dict[
        str, tuple[np.ndarray, np.ndarray, np.ndarray]
    ]  # ranker → setting, retrieval, truncation, int64 (n,) each
    cached: np.ndarray  # settings that are the kept answer, int64
    longest: dict[tuple[str, str], int]  # (channel, model) → most films asked of it

    @classmethod
    def of(cls, space: ActionSpace) -> Plan:
        """Plan of an action space."""
        served = [(d, one) for d, one in enumerate(space.settings) if not one.cached]
        retrievals = sorted({one.retrieval for _, one in served})
        truncations = sorted({one.truncation for _, one in served})
        cells: dict[str, list[tuple[int, int, int]]] = {}
        longest: dict[tuple[str, str], int] = {}
        for d, one in served:
            at = d, retrievals.index(one.retrieval), truncations.index(one.truncation)
            cells.setdefault(one.ranker, []).append(at)
            for channel, length in zip(CHANNELS, one.lengths):
                if length:
                    key = channel, one.model
                    longest[key] = max(length, longest.get(key, 0))
        arrays = {ranker: np.array(rows, np.int64).T for ranker, rows in cells.items()}
        cached = np.array([d for d, one in enumerate(space.settings) if one.cached], np.int64)
        return cls(
            retrievals, np.array(truncations), {k: (a[0], a[1], a[2]) for k, a in arrays.items()}, cached, longest
        )


@dataclass
class Pages:
    """What each of D settings shows for one request."""

    films: np.ndarray  # int64 (D, slots), NOTHING where a page is shorter
    retrieved: np.ndarray  # int64 (D,)
    preranked: np.ndarray  # int64 (D,)


def all_pages(cascade: Cascade, request: Request, plan: Plan, settings: int) -> Pages:
    """As ``cascade.serve`` for each setting; the kept answer included."""
    films, fused = _merged(cascade, request, plan)
    passed = _passed(cascade.preranking_scores(request, films), fused > 0, plan.truncations)  # (R, T, n)
    pages = Pages(
        np.full((settings, cascade.slots), NOTHING), np.zeros(settings, np.int64), np.zeros(settings, np.int64)
    )
    for ranker, (setting, retrieval, truncation) in plan.cells.items():
        kept = passed[retrieval, truncation]  # (m, n)
        if ranker == "none":
            scores = np.where(fused > 0, fused + cascade.taste.tie[films], 0.0)[retrieval]  # (m, n)
            order = np.argsort(-scores, axis=1)
            kept, ordered = np.take_along_axis(kept, order, axis=1), films[order]
        else:
            order = np.argsort(-cascade.ranking_scores(request, films, ranker))
            kept, ordered = kept[:, order], np.broadcast_to(films[order], kept.shape)
        pages.films[setting] = _first(kept, ordered, cascade.slots)
        pages.preranked[setting] = kept.sum(axis=1)
        pages.retrieved[setting] = (fused > 0).sum(axis=1)[retrieval]
    answer = cascade.kept_answer(request)
    pages.films[plan.cached[:, None], np.arange(len(answer))] = answer
    return pages


def _merged(cascade: Cascade, request: Request, plan: Plan) -> tuple[np.ndarray, np.ndarray]:
    """All films that some retrieval finds (n,), and their merged scores per retrieval, 0 where not found, (R, n)."""
    lists = cascade.channels.offers(request, plan.longest)
    films = np.unique(np.concatenate(list(lists.values())))
    place = {key: np.searchsorted(films, one) for key, one in lists.items()}
    fused = np.zeros((len(plan.retrievals), len(films)))
    for row, (lengths, model) in zip(fused, plan.retrievals):
        for channel, length in zip(CHANNELS, lengths):
            if length:
                at = place[channel, model][:length]
                row[at] += 1 / (cascade.channels.fusion + 1 + np.arange(len(at)))
    return films, fused


def _passed(scores: np.ndarray, found: np.ndarray, truncations: np.ndarray) -> np.ndarray:
    """Which films (n,) are among the ``truncations`` (T,) best of those found (R, n): bool (R, T, n)."""
    order = np.argsort(-scores)
    rank = np.empty(found.shape, np.int64)
    rank[:, order] = np.cumsum(found[:, order], axis=1)
    return found[:, None, :] & (rank[:, None, :] <= truncations[:, None])


def _first(kept: np.ndarray, films: np.ndarray, slots: int) -> np.ndarray:
    """The first ``slots`` kept films of each row of ``films`` (m, n), int64 (m, slots)."""
    rank = np.cumsum(kept, axis=1)
    row, column = np.nonzero(kept & (rank <= slots))
    pages = np.full((len(kept), slots), NOTHING)
    pages[row, rank[row, column] - 1] = films[row, column]
    return pages
