"""A measure with its error, and a choice that is made by it only where it can tell.

Learners judged on the same held-out rows share most of their luck. So what counts is the error of a difference, row by row, and
not the two errors. Of learners that cannot be told apart the simplest is taken: the one-standard-error rule (Breiman,
Friedman, Olshen & Stone 1984, section 3.4.3), here with the error of the paired difference.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from marca_common.errors import UserError


@dataclass(frozen=True)
class Measured:
    """A number estimated from held-out rows, and how far each of them pulled it."""

    value: float
    pulls: np.ndarray  # (M,): the value less that of leaving the row out, to first order; infinite: it is not known

    @property
    def error(self) -> float:
        """Standard error."""
        return float(np.sqrt((self.pulls**2).sum()))

    def minus(self, other: Measured) -> Measured:
        """The difference to a measure of the same rows, with its own, paired error."""
        known = np.isfinite(self.pulls).all() and np.isfinite(other.pulls).all()
        pulls = self.pulls - other.pulls if known else np.full(len(self.pulls), np.inf)
        return Measured(self.value - other.value, pulls)


def choose(measured: Mapping[str, Measured]) -> str:
    """The first name, simplest first, that is not worse than the best by more than one standard error of their difference.

    Larger is better. Raises UserError where there is nothing to choose from.
    """
    if not measured:
        raise UserError("choose: got no measures; expected at least one")
    best = max(measured.values(), key=lambda one: one.value)
    for name, one in measured.items():
        gap = best.minus(one)
        if gap.value <= gap.error:
            return name
    raise AssertionError("the best is not worse than itself")
