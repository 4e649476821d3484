"""The policy that served the logged requests: a rule by tiers, every sub-action explored on its own."""

from __future__ import annotations

import numpy as np

from marca_common.requests import RequestSpec


class LoggingPolicy:
    """The more valuable and active a user, the more of everything, but for exploration."""

    def __init__(self, spec: RequestSpec, exploration: float, tiers: int) -> None:
        self.spec, self.exploration, self.tiers = spec, exploration, tiers

    def rule(self, value: np.ndarray, activity: np.ndarray) -> np.ndarray:
        """Sub-actions of the rule, int64 (M, sub-actions)."""
        want = (value + activity + 1) / (2 * self.tiers)
        return np.stack([np.minimum(want * size, size - 1).astype(np.int64) for size in self.spec.shape], axis=1)

    def probabilities(self, value: np.ndarray, activity: np.ndarray) -> np.ndarray:
        """Propensity of every joint action, float64 (M, A)."""
        rule, table = self.rule(value, activity), self.spec.joint_table()
        same = rule[:, None, :] == table[None]  # (M, A, sub-actions)
        return np.asarray((self.exploration / np.array(self.spec.shape) + (1 - self.exploration) * same).prod(axis=2))

    def act(
        self, value: np.ndarray, activity: np.ndarray, generator: np.random.Generator
    ) -> tuple[np.ndarray, np.ndarray]:
        """Joint actions int64 (M,) and their propensities float64 (M,)."""
        rule, shape = self.rule(value, activity), np.array(self.spec.shape)
        explored = generator.random(rule.shape) < self.exploration
        chosen = np.where(explored, (generator.random(rule.shape) * shape).astype(np.int64), rule)
        propensity = (self.exploration / shape + (1 - self.exploration) * (chosen == rule)).prod(axis=1)
        return np.ravel_multi_index(list(chosen.T), self.spec.shape).astype(np.int64), propensity
