"""The sizes that a network must know of a request log."""

from __future__ import annotations

import math
from dataclasses import dataclass

from marca_common.encoding import StateEncoder
from marca_common.requests import RequestSpec


@dataclass(frozen=True)
class Space:
    """Sizes of the state's categories and of the sub-actions of each agent."""

    categories: tuple[int, ...]  # rows per categorical column, the unseen row included
    numeric: int  # numeric state columns
    agents: tuple[tuple[int, ...], ...]  # choices of each sub-action, by agent

    @classmethod
    def of(cls, spec: RequestSpec, encoder: StateEncoder) -> Space:
        """Sizes of a log whose states ``encoder`` encodes."""
        agents = tuple(tuple(spec.sizes[name] for name in columns) for columns in spec.agents.values())
        return cls(tuple(encoder.sizes), len(encoder.means), agents)

    @property
    def sizes(self) -> tuple[int, ...]:
        """Choices of every sub-action in order."""
        return tuple(size for agent in self.agents for size in agent)

    @property
    def n_joint(self) -> int:
        """Number of joint actions A."""
        return math.prod(self.sizes)
