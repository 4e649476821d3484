"""How well can the logged action be foretold? By counts of other rows (``revenue_sim.off_policy.fitted_propensities``)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from own_system.coded_log import CodedLog
from revenue_sim.off_policy.fitted_propensities import FittedPropensities


@dataclass(frozen=True)
class Foretold:
    """A sub-action foretold: probability (M,) of the taken value, by counts of other rows, and the columns of the key."""

    probability: np.ndarray
    columns: list[str]


def foretell(log: CodedLog) -> dict[str, Foretold]:
    """Every sub-action, from the state and the sub-actions before it; at least 2 rows."""
    known, found = {name: column.codes for name, column in log.states.items()}, {}
    for name, action in log.actions.items():
        fitted = FittedPropensities.fit(known, action.codes[:, None], [len(action.labels)])
        found[name] = Foretold(fitted.logged, list(fitted.cells[0].columns))
        known[name] = action.codes
    return found
