"""Policies that produce the logs: rule-based tiers with exploration, and an incumbent that answers to a price."""

from __future__ import annotations

import numpy as np

from cascade_world.mechanism.assembled_world import World
from cascade_world.request_luck import hash_columns, normals, uniforms
from marca_common.seeding import integer_seed, numpy_generator


class LoggingPolicy:
    """Rule-based tiers: the more valuable a request looks, the more of every elastic thing it gets.

    Each sub-action is explored on its own: with probability ``exploration`` it is uniform, else it is the rule's.
    """

    def __init__(self, world: World, exploration: float | None = None) -> None:
        self.world, self.shape = world, world.spec.shape
        self.exploration = world.config.logs.exploration if exploration is None else exploration
        rng = numpy_generator(world.config.seed, "logging_policy")
        self.appetite = rng.normal(0.0, 0.15, len(world.config.states.placements))

    def rule(self, codes: np.ndarray) -> np.ndarray:
        """Sub-actions of the rule, int64 (M, sub-actions), for states given as codes (M, columns)."""
        tier = (codes[:, 0] + 0.5) / self.world.config.states.user_values
        want = np.clip(0.1 + 0.8 * tier + self.appetite[codes[:, 1]], 0.0, 0.999)
        return np.stack([(want * size).astype(np.int64) for size in self.shape], axis=1)

    def probabilities(self, codes: np.ndarray) -> np.ndarray:
        """Propensity of every joint action, float64 (M, A); for small M."""
        rule, table = self.rule(codes), self.world.spec.joint_table()
        chosen = np.ones((len(codes), len(table)))
        for j, size in enumerate(self.shape):
            same = rule[:, j, None] == table[None, :, j]
            chosen *= self.exploration / size + (1.0 - self.exploration) * same
        return chosen

    def act(self, codes: np.ndarray, luck: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Joint actions int64 (M,) and their propensities float64 (M,); ``luck`` is 64 bits per request."""
        actions, propensity = self.rule(codes), np.ones(len(codes))
        for j, size in enumerate(self.shape):
            explore = uniforms(hash_columns(100 + j, luck)) < self.exploration
            anything = (uniforms(hash_columns(200 + j, luck)) * size).astype(np.int64)
            ruled = actions[:, j].copy()
            actions[:, j] = np.where(explore, anything, ruled)
            propensity *= self.exploration / size + (1.0 - self.exploration) * (actions[:, j] == ruled)
        return np.ravel_multi_index(list(actions.T), self.shape).astype(np.int64), propensity


class Incumbent:
    """Rule-based policy under a price: one global action profile times a rough value per tier and placement.

    It knows what an operator knows without personalised values: noisy averages. ``decide`` takes Eq. 6 on them.
    """

    _LEVELS = 48

    def __init__(self, world: World, states: np.ndarray, group: int) -> None:
        """``states`` are the codes (S, columns) that ids index; ``group`` is the data centre whose costs count."""
        rng = np.random.default_rng(integer_seed(world.config.seed, "incumbent", group))
        q = world.tables.q
        profile = (q / q.mean(axis=1, keepdims=True)).mean(axis=0)
        self.profile = profile * np.exp(0.05 * rng.standard_normal(len(profile)))
        self.cost = world.cost_tables[group].mean(axis=0).astype(np.float64)  # (A, services)
        self.value = self._rough_values(world, states)  # (S,)
        edges = np.quantile(self.value, (np.arange(self._LEVELS) + 0.5) / self._LEVELS)
        self.level_values = edges
        self.level = np.clip(np.searchsorted(edges, self.value), 0, self._LEVELS - 1)

    @staticmethod
    def _rough_values(world: World, states: np.ndarray) -> np.ndarray:
        """Mean value per (tenth of tiers, placement) with 20 % error: what a simple report would show."""
        classes, scale = world.population.latent(states)
        value = world.tables.q.mean(axis=1)[classes] * scale
        tenth = states[:, 0] * 10 // world.config.states.user_values
        cell = tenth * len(world.config.states.placements) + states[:, 1]
        total = np.bincount(cell, value) / np.maximum(np.bincount(cell), 1)
        error = normals(hash_columns(integer_seed(world.config.seed, "rough"), np.arange(len(total))))
        return np.asarray((total * np.exp(0.2 * error))[cell])

    def decide(self, state_ids: np.ndarray, lambda_: np.ndarray) -> np.ndarray:
        """Joint action per state id, int64 (M,), under prices (services,)."""
        price = self.cost @ np.asarray(lambda_, dtype=float)
        best = np.argmax(self.level_values[:, None] * self.profile[None, :] - price[None, :], axis=1)
        return np.asarray(best[self.level[state_ids]])

    def expected(self, state_ids: np.ndarray, joint: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """What the incumbent believes its actions bring (M,) and cost (M, services)."""
        return self.value[state_ids] * self.profile[joint], self.cost[joint]
