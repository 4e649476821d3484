"""What a page is worth: money per film and user, discounts by position, likes of one half."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from marca_common.progress import progress
from marca_common.seeding import numpy_generator
from recommender.config import PageConfig
from recommender.histories.people import People


@dataclass(frozen=True)
class Worth:
    """Money of a click on a film by a user, and how likely a click is."""

    film: np.ndarray  # money, float64 (I,)
    user: np.ndarray  # factor, float64 (U,)
    click: float
    stray: float

    @classmethod
    def of(cls, config: PageConfig, films: int, users: int, seed: int) -> Worth:
        """Log-normal money of films and users."""
        film = config.price * np.exp(config.film_sd * numpy_generator(seed, "film money").standard_normal(films))
        user = np.exp(config.user_sd * numpy_generator(seed, "user money").standard_normal(users))
        return cls(film, user, config.click, config.stray)

    def click_rates(self, liked: np.ndarray) -> np.ndarray:
        """Probability of a click in the first slot, per film (I,), for who likes the films ``liked``."""
        rates = np.full(len(self.film), self.stray)
        rates[liked] = self.click
        return rates


def discounts(slots: int) -> np.ndarray:
    """1 / log2(1 + slot) of slots 1, 2, … as in DCG, float64 (slots,)."""
    return np.asarray(1 / np.log2(2 + np.arange(slots)))


def expected_revenue(pages: np.ndarray, gain: np.ndarray) -> np.ndarray:
    """Σ over slots of discount × ``gain`` of the film there; ``pages`` (D, slots), ``gain`` (I,) → (D,)."""
    return np.asarray(np.append(gain, 0.0)[pages] @ discounts(pages.shape[1]))  # NOTHING is the last entry


def value_table(people: People, films: np.ndarray, worth: Worth, half: int) -> np.ndarray:
    """Expected revenue of each visit under each setting by the later likes of one half, float32 (V, D).

    ``films`` (V, D, slots) as in a PageTable.
    """
    values = np.empty(films.shape[:2], np.float32)
    for row in progress(range(len(films)), what=f"values, half {half}", unit="visit"):
        rates = worth.click_rates(people.later_likes(people.visits, row, half))
        values[row] = expected_revenue(films[row], rates * worth.film) * worth.user[people.visits.user[row]]
    return values
