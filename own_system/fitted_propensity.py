"""How well can the logged action be foretold? By counts of other rows (``revenue_sim.off_policy.fitted_propensities``).

For each sub-action, columns are added one by one to the key by which rows are counted, as long as rows are foretold better
by the others.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from own_system.coded_log import CodedLog, Grouped, joined
from revenue_sim.off_policy.fitted_propensities import FittedPropensities

_GAIN = 0.002  # mean log-likelihood, nats a row, that a column has to add


@dataclass(frozen=True)
class Foretold:
    """A sub-action foretold: probability (M,) of the taken value, by counts of other rows, and the columns of the key."""

    probability: np.ndarray
    columns: list[str]


def foretell(log: CodedLog) -> dict[str, Foretold]:
    """Every sub-action, from the state and the sub-actions before it; at least 2 rows."""
    known: dict[str, Grouped] = dict(log.states)
    found = {}
    for name, action in log.actions.items():
        found[name] = _foretold(action, known)
        known[name] = action
    return found


def _foretold(action: Grouped, known: dict[str, Grouped]) -> Foretold:
    taken, sizes = action.codes[:, None], [len(action.labels)]
    key, columns = np.zeros(len(taken), np.int64), list[str]()
    best = FittedPropensities.fit({}, taken, sizes).logged
    while left := [name for name in known if name not in columns]:
        tried = {name: joined([key, known[name].codes]) for name in left}
        fitted = FittedPropensities.fit(tried, taken, sizes)
        if np.log(fitted.logged).mean() < np.log(best).mean() + _GAIN:
            break
        (name,), best = fitted.groupings, fitted.logged
        key = tried[name]
        columns.append(name)
    return Foretold(best, columns)
