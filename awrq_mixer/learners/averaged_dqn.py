"""Averaged Ensemble-DQN is DQN with K heads whose mean is the value, online and target alike."""

from __future__ import annotations

from torch import Tensor

from awrq_mixer.learners.dqn import DQN


class AveragedDQN(DQN):
    """REM with all weights equal."""

    many_heads = True

    def combine(self, q: list[Tensor], again: bool = False) -> list[Tensor]:
        """Mean over heads, (B, 1, n_t)."""
        return [one.mean(1, keepdim=True) for one in q]
