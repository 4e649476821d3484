"""The joint action space, compiled: which channels, lengths, models and truncation every joint action stands for."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from cascade_world.config import CascadeConfig
from marca_common.requests import RequestSpec

UNLIMITED = 1 << 20  # truncation of a cascade without a pre-ranking agent


@dataclass(frozen=True)
class ActionSpace:
    """Joint actions factorised into retrievals R (lengths and model), truncations T and rankers K."""

    lengths: np.ndarray  # items asked of every channel, 0 = closed, int64 (R, channels)
    model: np.ndarray  # retrieval model, int64 (R,)
    steps: np.ndarray  # the lengths that occur, rising, first 0; the same for all channels, int64 (steps,)
    step: np.ndarray  # lengths as indices into `steps`, int64 (R, channels)
    truncations: np.ndarray  # rising, int64 (T,)
    n_rankers: int
    joint: np.ndarray  # joint action → (retrieval, truncation, ranker), int64 (A, 3)
    cell: np.ndarray  # (retrieval, truncation, ranker) → joint action, int64 (R, T, K)
    degraded: np.ndarray  # joint action under a whole degradation level, int64 (levels + 1, A)

    @property
    def n_joint(self) -> int:
        """Number of joint actions A."""
        return len(self.joint)


def compile_actions(cascade: CascadeConfig, spec: RequestSpec, degradation_levels: int) -> ActionSpace:
    """The action space of a cascade; ``spec`` fixes the order of the joint index."""
    table = spec.joint_table()  # (A, sub-actions)
    lengths = np.zeros((len(table), len(cascade.channels)), dtype=np.int64)
    is_open = np.ones_like(lengths, dtype=bool)
    model, ranker = np.zeros(len(table), dtype=np.int64), np.zeros(len(table), dtype=np.int64)
    truncation = np.full(len(table), UNLIMITED, dtype=np.int64)
    for column, name in enumerate(spec.sub_actions):
        action, choice = cascade.actions[name], table[:, column]
        if action.kind == "channels":
            sets = np.array([[channel in level for channel in cascade.channels] for level in action.levels])  # type: ignore[operator]
            is_open = sets[choice]
        elif action.kind == "queue":
            for channel in action.channels:
                lengths[:, cascade.channels.index(channel)] = np.array(action.levels)[choice]
        elif action.kind == "model":
            model = np.array([list(cascade.models).index(str(level)) for level in action.levels])[choice]
        elif action.kind == "truncation":
            truncation = np.array(action.levels)[choice]
        else:
            ranker = np.array([list(cascade.rankers).index(str(level)) for level in action.levels])[choice]
    lengths = np.where(is_open, lengths, 0)
    return _factorise(lengths, model, truncation, ranker, _degraded(cascade, spec, table, degradation_levels))


def _factorise(
    lengths: np.ndarray, model: np.ndarray, truncation: np.ndarray, ranker: np.ndarray, degraded: np.ndarray
) -> ActionSpace:
    retrievals, r = np.unique(np.column_stack([lengths, model]), axis=0, return_inverse=True)
    truncations, t = np.unique(truncation, return_inverse=True)
    n_rankers = int(ranker.max()) + 1
    cell = np.full((len(retrievals), len(truncations), n_rankers), -1, dtype=np.int64)
    joint = np.column_stack([r.ravel(), t.ravel(), ranker]).astype(np.int64)
    cell[joint[:, 0], joint[:, 1], joint[:, 2]] = np.arange(len(joint))
    found = np.ascontiguousarray(retrievals[:, :-1])
    steps = np.unique(np.append(found, 0))
    return ActionSpace(
        lengths=found,
        steps=steps,
        step=np.searchsorted(steps, found),
        model=np.ascontiguousarray(retrievals[:, -1]),
        truncations=truncations.astype(np.int64),
        n_rankers=n_rankers,
        joint=joint,
        cell=cell,
        degraded=degraded,
    )


def _degraded(cascade: CascadeConfig, spec: RequestSpec, table: np.ndarray, levels: int) -> np.ndarray:
    """Joint action that is served instead when ``level`` steps are taken off every queue and truncation."""
    elastic = np.array([cascade.actions[name].kind in ("queue", "truncation") for name in spec.sub_actions])
    rows = []
    for level in range(levels + 1):
        cut = np.where(elastic, np.maximum(table - level, 0), table)
        rows.append(np.ravel_multi_index(list(cut.T), spec.shape))
    return np.array(rows, dtype=np.int64)
