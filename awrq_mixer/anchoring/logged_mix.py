"""What a logging policy was expected to do in a state: the mix of joint actions in its coarse group.

A logging policy that follows value ties actions to states. Whatever a learner gets wrong about a state's level then looks
like an effect of the actions that such states are given. Slopes are therefore fitted on the part of a departure that the
group's mix does not foresee: departure(s, a) − Σ_a' mix(a') departure(s, a') (Robinson, 1988: residualised treatment).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from awrq_mixer.anchoring.contexts import contexts
from awrq_mixer.anchoring.log_linear import combinations
from marca_common.requests import RequestSpec

PRIOR = 20  # rows of the whole log's mix that are added to each group's


@dataclass(frozen=True)
class LoggedMix:
    """Mixes of the groups that a log's rows fall into; sub-actions are independent of each other within a group."""

    group: np.ndarray  # of each row (M,)
    by_sub_action: list[np.ndarray]  # (groups, size) each

    @classmethod
    def of(cls, rows: pd.DataFrame, spec: RequestSpec, level: np.ndarray) -> LoggedMix:
        """Mixes in ``rows``; categories of a column with many are grouped by their mean ``level`` (M,)."""
        group, combined = combinations(contexts(rows, spec, level))
        joint = spec.joint_table()[spec.joint_index(rows)]
        found = []
        for j, size in enumerate(spec.shape):
            count = np.bincount(group * size + joint[:, j], minlength=len(combined) * size).reshape(-1, size)
            total = count.sum(axis=0) / len(rows)
            found.append((count + PRIOR * total) / (count.sum(axis=1, keepdims=True) + PRIOR))
        return cls(group, found)

    def joint(self, rows: np.ndarray) -> np.ndarray:
        """Mix of joint actions in the groups of ``rows`` (K,), (K, A)."""
        group = self.group[rows]
        mix = np.ones((len(rows), 1))
        for one in self.by_sub_action:
            mix = (mix[:, :, None] * one[group][:, None, :]).reshape(len(rows), -1)
        return mix
