"""How much of the value is in actions, and how much of that can be told from state columns."""

from __future__ import annotations

import numpy as np
import pandas as pd

from marca_common.seeding import numpy_generator


def variance_shares(values: np.ndarray, states: pd.DataFrame, user: np.ndarray, seed: int) -> dict[str, float]:
    """Shares of the variance of values (V, D) over visits and settings.

    ``between_visits``: of visits' means. ``profile``: of settings' means. For each state column, and for ``all_columns``
    together: what its groups' own profiles add. Groups' means are noisy, so this one is the covariance of two sets of
    means, from either half of the users; it can fall below zero.
    """
    grand = values.mean(dtype=np.float64)
    departure = values - values.mean(axis=1, keepdims=True)
    profile = departure.mean(axis=0, dtype=np.float64)
    total = float(((values - grand) ** 2).mean(dtype=np.float64))
    if total == 0:
        return dict.fromkeys(("between_visits", "profile", *states.columns, "all_columns"), 0.0)
    departure -= profile.astype(values.dtype)
    first = numpy_generator(seed, "variance").permutation(int(user.max()) + 1)[user] % 2 == 0
    groups = {name: states[name].to_numpy() for name in states} | {"all_columns": states.groupby(list(states)).ngroup()}
    return {
        "between_visits": float(values.mean(axis=1, dtype=np.float64).var() / total),
        "profile": float(profile.var() / total),
        **{name: _shared(departure, pd.factorize(group)[0], first) / total for name, group in groups.items()},
    }


def _shared(departure: np.ndarray, group: np.ndarray, first: np.ndarray) -> float:
    """Mean over settings and visits of the product of the two halves' group means; groups of one half only count 0."""
    size, found = int(group.max()) + 1, 0.0
    for g in range(size):
        rows = group == g
        one, two = departure[rows & first], departure[rows & ~first]
        if len(one) and len(two):
            found += rows.sum() * float(
                np.mean(one.mean(axis=0, dtype=np.float64) * two.mean(axis=0, dtype=np.float64))
            )
    return float(found / len(group))
