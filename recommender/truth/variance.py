"""How much of the value is in actions, and how much of that can be told from state columns."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from marca_common.seeding import numpy_generator


def variance_shares(values: np.ndarray, states: pd.DataFrame, user: np.ndarray, seed: int) -> dict[str, Any]:
    """Shares of the variance of values (V, D) over visits and settings.

    ``between_visits``: of visits' means. ``profile``: of settings' means. Then what state columns tell, each and ``all``
    together: ``level``, the means of their groups of visits, and ``departure``, the groups' own profiles beyond the
    common one. Groups' means are noisy, so these are covariances of two sets of means, from either half of the
    users. They can fall below zero.
    """
    level = values.mean(axis=1, keepdims=True, dtype=np.float64)
    departure = values - level
    profile = departure.mean(axis=0)
    total = max(float(((values - level.mean()) ** 2).mean(dtype=np.float64)), 1e-300)
    first = numpy_generator(seed, "variance").permutation(int(user.max()) + 1)[user] % 2 == 0
    groups = {name: pd.factorize(states[name])[0] for name in states} | {"all": states.groupby(list(states)).ngroup()}

    def told(part: np.ndarray) -> dict[str, float]:
        return {name: _shared(part, np.asarray(group), first) / total for name, group in groups.items()}

    return {
        "between_visits": float(level.var() / total),
        "profile": float(profile.var() / total),
        "level": told(level - level.mean()),
        "departure": told(departure - profile),
    }


def _shared(part: np.ndarray, group: np.ndarray, first: np.ndarray) -> float:
    """Mean over settings and visits of the product of group means of ``part`` (V, D) in both halves; groups of one half count 0."""
    found = 0.0
    for g in range(int(group.max()) + 1):
        rows = group == g
        one, two = part[rows & first], part[rows & ~first]
        if len(one) and len(two):
            found += rows.sum() * float(
                np.mean(one.mean(axis=0, dtype=np.float64) * two.mean(axis=0, dtype=np.float64))
            )
    return float(found / len(group))
