"""What every visit is shown under every setting."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from marca_common.errors import UserError
from marca_common.files import atomic_path
from marca_common.progress import progress
from recommender.cascade.action_space import ActionSpace
from recommender.cascade.all_pages import NOTHING, Plan, all_pages
from recommender.cascade.stages import Cascade
from recommender.histories.people import People


@dataclass(frozen=True)
class PageTable:
    """V visits, D settings."""

    films: np.ndarray  # int32 (V, D, slots), NOTHING where a page is shorter
    retrieved: np.ndarray  # int32 (V, D)
    preranked: np.ndarray  # int32 (V, D)
    kept: np.ndarray  # the answer kept for each user since the models were trained, int32 (U, slots)

    def save(self, path: str | Path) -> None:
        """One compressed file, atomically."""
        with atomic_path(path) as temporary, temporary.open("wb") as file:
            np.savez_compressed(
                file, films=self.films, retrieved=self.retrieved, preranked=self.preranked, kept=self.kept
            )

    @classmethod
    def load(cls, path: str | Path) -> PageTable:
        """What ``save`` wrote."""
        try:
            with np.load(path) as file:
                return cls(**{name: file[name] for name in ("films", "retrieved", "preranked", "kept")})
        except (OSError, ValueError, KeyError) as error:
            raise UserError(f"{path}: not a readable table of pages: {error}") from None


def page_table(cascade: Cascade, people: People, space: ActionSpace) -> PageTable:
    """Run the cascade for each visit under each setting."""
    plan, size = Plan.of(space), len(space.settings)
    visits = people.visits
    films = np.full((len(visits), size, cascade.slots), NOTHING, np.int32)
    retrieved, preranked = np.zeros((len(visits), size), np.int32), np.zeros((len(visits), size), np.int32)
    kept = kept_answers(cascade, people, space)
    for row in progress(range(len(visits)), what="pages", unit="visit"):
        request = people.request(visits, row, shown(kept[visits.user[row]]))
        pages = all_pages(cascade, request, plan, size)
        films[row], retrieved[row], preranked[row] = pages.films, pages.retrieved, pages.preranked
    return PageTable(films, retrieved, preranked, kept)


def kept_answers(cascade: Cascade, people: People, space: ActionSpace) -> np.ndarray:
    """Answers that a batch job makes for those who will visit, from the features part alone, int32 (U, slots)."""
    setting = space.settings[space.kept]
    kept = np.full((len(people.split.begin), cascade.slots), NOTHING, np.int32)
    for user in np.unique(people.visits.user).tolist():
        page = cascade.serve(people.request_at(user, int(people.split.ranker[user])), setting)[0]
        kept[user, : len(page)] = page
    return kept


def shown(page: np.ndarray) -> np.ndarray:
    """The films of a page that may be short, int64."""
    return np.asarray(page[page != NOTHING], np.int64)
