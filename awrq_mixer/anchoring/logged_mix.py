"""What a logging policy was expected to do in a state: the mix of joint actions in its coarse group.

A logging policy that follows value ties actions to states. Whatever a learner gets wrong about a state's level then looks
like an effect of the actions that such states are given. Slopes are therefore fitted on the part of a departure that the
group's mix does not foresee: departure(s, a) − Σ_a' mix(a') departure(s, a') (Robinson, 1988: residualised treatment).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy.sparse import csr_array

from awrq_mixer.anchoring.contexts import contexts
from awrq_mixer.anchoring.log_linear import combinations
from marca_common.requests import RequestSpec

_CHUNK = 1024
PRIOR = 20  # rows of a group's mix that are as if its sub-actions had been taken independently


@dataclass(frozen=True)
class LoggedMix:
    """Mixes of joint actions in the groups that a log's rows fall into."""

    group: np.ndarray  # of each row (M,)
    counts: csr_array  # (groups, A) rows
    by_sub_action: list[np.ndarray]  # (groups, size) shares, drawn to those of all rows where a group is small

    @classmethod
    def of(cls, rows: pd.DataFrame, spec: RequestSpec, shape: np.ndarray) -> LoggedMix:
        """Mixes in ``rows``; categories of a column with many are grouped by the mean ``shape`` (A,) of what they got."""
        joint = spec.joint_index(rows)
        group, combined = combinations(contexts(rows, spec, shape[joint]))
        counts = csr_array((np.ones(len(rows)), (group, joint)), shape=(len(combined), spec.n_joint))
        actions, shares = spec.joint_table()[joint], []
        for j, size in enumerate(spec.shape):
            count = np.bincount(group * size + actions[:, j], minlength=len(combined) * size).reshape(-1, size)
            total = count.sum(axis=0) / len(rows)
            shares.append((count + PRIOR * total) / (count.sum(axis=1, keepdims=True) + PRIOR))
        return cls(group, counts, shares)

    def among(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Mixes of joint actions in the groups of ``rows`` (K,), one for each group, (G, A), and which is each row's, (K,)."""
        groups, own = np.unique(self.group[rows], return_inverse=True)
        return self._of_groups(groups), own

    def expected(self, values: np.ndarray) -> np.ndarray:
        """Mean of ``values`` (A,) over the mix of each row's group, (M,)."""
        groups = np.arange(self.counts.shape[0])
        means = [self._of_groups(groups[start : start + _CHUNK]) @ values for start in range(0, len(groups), _CHUNK)]
        return np.asarray(np.concatenate(means)[self.group])

    def _of_groups(self, groups: np.ndarray) -> np.ndarray:
        mix = np.full((len(groups), 1), float(PRIOR))
        for one in self.by_sub_action:
            mix = (mix[:, :, None] * one[groups][:, None, :]).reshape(len(groups), -1)
        mix += self.counts[groups].toarray()
        return np.asarray(mix / mix.sum(axis=1, keepdims=True))
