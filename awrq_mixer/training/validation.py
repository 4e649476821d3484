"""Validation that sees the order of actions within a state.

The loss on held-out rows is mostly about which state is worth more, and nearly blind to what pays: the shape of
Q(s, ·) within a state. The measure here conditions the level out. The held-out rows of one state earned some revenue
together: which share of it does the learner give to each row? That is the conditional likelihood of a Poisson model
with a fixed effect per state. It needs no state value at all, of the learner's or anybody's.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pandas as pd

from awrq_mixer.judging.measured import Measured
from marca_common.column_values import words
from marca_common.requests import RequestSpec
from marca_common.seeding import numpy_generator
from marca_common.spread import ROUNDING

FLOOR = 0.02  # least value a row can have, as a share of its state's mean: a value ≤ 0 has no logarithm


@dataclass
class ValidationSet:
    """Held-out rows of states that occur more than once; chosen once per run."""

    states: pd.DataFrame  # distinct states
    state_id: np.ndarray  # (V,) row of ``states``
    joint: np.ndarray  # (V,) logged joint action
    reward: np.ndarray  # (V,) money
    group: np.ndarray  # (V,) rows compared with each other: equal categories

    def shape_gain(self, at: Callable[[pd.DataFrame, np.ndarray, np.ndarray], np.ndarray]) -> float:
        """``shape_gain`` of the values ``at(states, state_id, joint)``, (V,)."""
        return shape_gain(at(self.states, self.state_id, self.joint), self.reward, self.group)


def make_validation_set(validation: pd.DataFrame, spec: RequestSpec, rows: int, seed: int) -> ValidationSet | None:
    """About ``rows`` of a log's validation rows, in whole groups of a seeded order; None where nothing can be compared."""
    frame = validation.reset_index(drop=True)
    if frame.empty:
        return None
    reward, group = frame[spec.reward].to_numpy(np.float64), comparison_groups(frame, spec)
    useful = (np.bincount(group) > 1) & (np.bincount(group, reward) > 0)  # (groups,)
    order = numpy_generator(seed, "validation").permutation(np.flatnonzero(useful))
    if not len(order):
        return None
    sizes = np.bincount(group)[order]
    taken = order[: max(1, int(np.searchsorted(np.cumsum(sizes), rows, side="right")))]
    keep = np.flatnonzero(np.isin(group, taken))
    states, state_id, _ = spec.distinct_states(frame.iloc[keep].reset_index(drop=True))
    return ValidationSet(states, state_id, spec.joint_index(frame.iloc[keep]), reward[keep], group[keep])


def comparison_groups(frame: pd.DataFrame, spec: RequestSpec) -> np.ndarray:
    """Rows that agree in every categorical state column share a number, (len(frame),); numeric columns are not looked at."""
    names = [name for name, kind in spec.state.items() if kind == "category"]
    if not names:
        return np.zeros(len(frame), np.int64)
    return np.asarray(frame.groupby([words(frame, name) for name in names], sort=False).ngroup())


def shape_gain(value: np.ndarray, reward: np.ndarray, group: np.ndarray) -> float:
    """The value of ``measured_shape_gain``."""
    return measured_shape_gain(value, reward, group).value


def measured_shape_gain(value: np.ndarray, reward: np.ndarray, group: np.ndarray) -> Measured:
    """Share explained of the deviance of how each group's reward falls on its rows; all (V,).

    1 − D(value)/D(equal) with D(u) = Σ R log(R / (R_g u / u_g)), sums R_g and u_g over the row's group: 0 for a model
    that is flat in its actions, 1 for one that says where all reward falls, below 0 for harm. A factor per group
    changes nothing. Its error is that of drawing groups: rows of one group pull together.
    """
    sums = np.bincount(group, reward)[group]
    size = np.bincount(group)[group]
    mean = np.bincount(group, value)[group] / size
    lifted = np.where(mean > 0, np.maximum(value, FLOOR * mean), 1.0)
    share = lifted / np.bincount(group, lifted)[group]
    paid = reward > 0
    observed = np.divide(reward, sums, out=np.ones(len(reward)), where=paid)
    flat, mine = (np.where(paid, reward * np.log(observed / even), 0.0) for even in (1 / size, share))
    whole = float(flat.sum())
    if whole <= ROUNDING * float(reward.sum()):  # every row of a group earned the same
        return Measured(0.0, np.zeros(len(reward)))
    gain = 1 - float(mine.sum()) / whole
    return Measured(gain, _together(((1 - gain) * flat - mine) / whole, group))


def _together(pulls: np.ndarray, group: np.ndarray) -> np.ndarray:
    """Each group's whole pull on the first of its rows, (V,)."""
    first = np.unique(group, return_index=True)[1]
    together = np.zeros(len(pulls))
    together[first] = np.bincount(group, pulls)[group[first]]
    return together
