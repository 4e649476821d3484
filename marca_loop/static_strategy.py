"""The static strategy's parts: one mixture of joint actions for every request, with a downgrade rule.

It is what a platform does before it prices computation: sized for the peak, the same for all, and stepped down by a
rule when CPUs run over. Uplifts are stated against this strategy, so it is chosen as well as the logs allow.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence

import numpy as np

from marca_common.plain_numbers import attribute, plain_numbers
from marca_common.protocols import Measurement
from marca_measures.static_mixture import StaticMixture, static_mixture

_A_MONDAY = 4 * 24  # hours from the epoch, a Thursday, to its first Monday


class DowngradeRule:
    """A level down after a minute over budget, one up after ``patience`` minutes well under it. It sets no price."""

    def __init__(self, budget_percent: np.ndarray, levels: int, patience: int, headroom: float, delay: int = 0) -> None:
        """``budget_percent`` (services,): C_m. *Well under* means below ``headroom`` × C_m on every service.

        ``delay``: minutes until a new level is in force, as for a price.
        """
        self.budget_percent = budget_percent
        self.levels, self.patience, self.headroom = levels, patience, headroom
        self.level, self.calm, self._pending = 0, 0, deque([0] * delay)
        self.in_force = 0
        self.lambda_ = np.zeros(len(budget_percent))

    def step(self, measurement: Measurement) -> np.ndarray:
        """Choose the next minute's level; a lost measurement changes nothing. Returns prices of zero (services,)."""
        cpu = plain_numbers(attribute(measurement, "cpu"), len(self.budget_percent))
        load = (
            np.full(1, np.nan)
            if cpu is None
            else np.where((cpu >= 0) & (cpu <= 100), cpu, np.nan) / self.budget_percent
        )
        if np.isfinite(load).any():
            worst = float(np.nanmax(load))
            self.calm = self.calm + 1 if worst < self.headroom else 0
            if worst > 1.0:
                self.level = min(self.level + 1, self.levels - 1)
            elif self.calm >= self.patience:
                self.level, self.calm = max(self.level - 1, 0), 0
        self._pending.append(self.level)
        self.in_force = self._pending.popleft()
        return self.lambda_


class Timetable:
    """A downgrade rule that also knows what time the coming minute is."""

    def __init__(self, rule: DowngradeRule, first_minute: np.datetime64) -> None:
        self.rule, self.coming = rule, first_minute.astype("datetime64[m]")
        self.lambda_ = rule.lambda_

    def step(self, measurement: Measurement) -> np.ndarray:
        """Choose the next minute's level; the clock goes on whatever is measured."""
        self.coming = self.coming + np.timedelta64(1, "m")
        return self.rule.step(measurement)

    @property
    def hour_of_week(self) -> int:
        """Hours since Monday began, of the coming minute."""
        return int(hours_of_week(self.coming))


def hours_of_week(times: np.ndarray | np.datetime64) -> np.ndarray:
    """Hours since Monday began, 0 to 167, of each time."""
    return np.asarray((times.astype("datetime64[h]").astype(np.int64) - _A_MONDAY) % 168)


class StaticPolicy:
    """Draws every request's joint action from the mixture of the rule's level in force; states are not looked at."""

    def __init__(self, mixtures: Sequence[StaticMixture], rule: DowngradeRule, generator: np.random.Generator) -> None:
        """``mixtures``: one per downgrade level, level 0 first."""
        self.mixtures, self.rule, self.generator = mixtures, rule, generator

    def decide(self, states: np.ndarray, lambda_: np.ndarray) -> np.ndarray:
        """Joint action per state, int64 (M,); prices change nothing."""
        return self.mixtures[self.rule.in_force].draw(self.generator.random(len(states)))


class HourlyPolicy:
    """Draws from the mixture of the hour of the week and of the rule's level in force; states are not looked at."""

    def __init__(
        self, mixtures: Mapping[int, Sequence[StaticMixture]], clock: Timetable, generator: np.random.Generator
    ) -> None:
        """``mixtures``: per hour since Monday began, of those that are served, and per downgrade level."""
        self.mixtures, self.clock, self.generator = mixtures, clock, generator

    def decide(self, states: np.ndarray, lambda_: np.ndarray) -> np.ndarray:
        """Joint action per state, int64 (M,); prices change nothing."""
        mixture = self.mixtures[self.clock.hour_of_week][self.clock.rule.in_force]
        return mixture.draw(self.generator.random(len(states)))


def downgrade_mixtures(
    values: np.ndarray, costs: np.ndarray, allowed: np.ndarray, shares: Sequence[float]
) -> list[StaticMixture]:
    """The best mixtures within each share of ``allowed`` (services,), core-ms per request; never below what fits at all.

    ``values`` mean Q per joint action (A,), ``costs`` mean C (A, services).
    """
    least = float((costs / allowed).max(axis=1).min())  # share at which one fixed action still fits
    return [static_mixture(values, costs, allowed * max(share, 1.001 * least)) for share in shares]
