"""Networks whose noise comes from named generators, so that a resumed run draws the same numbers."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn


class OwnInit(nn.Module, ABC):
    """A module that draws its own bare parameters; the function that initialises a network calls ``reset``."""

    @abstractmethod
    def reset(self, generator: torch.Generator) -> None:
        """Draw them."""


class Noisy(nn.Module):
    """A module that leaves out at random, from a named generator (``use_generator``).

    Ranks that share a batch draw for all of it and take what falls on their rows: any number of ranks draws the same.
    """

    def __init__(self) -> None:
        super().__init__()
        self.generator: torch.Generator | None = None
        self.rank, self.ranks = 0, 1

    def drawn(self, shape: torch.Size, share: float, like: Tensor) -> Tensor:
        """1 with the probability ``share``, else 0, for every element of this rank's rows (B, …)."""
        rows = shape[0]
        whole = torch.empty((rows * self.ranks, *shape[1:]), dtype=like.dtype, device=like.device)
        return whole.bernoulli_(share, generator=self.generator)[self.rank * rows : (self.rank + 1) * rows]


class SeededDropout(Noisy):
    """Dropout from a named generator."""

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, x: Tensor) -> Tensor:
        """Zero a share of ``x`` in training and scale up the rest."""
        if not self.training or self.rate == 0:
            return x
        return x * self.drawn(x.shape, 1 - self.rate, x) / (1 - self.rate)


def use_generator(module: nn.Module, generator: torch.Generator, rank: int = 0, ranks: int = 1) -> None:
    """Let every source of noise inside ``module`` draw from ``generator``, as one of ``ranks`` that share a batch."""
    for child in module.modules():
        if hasattr(child, "generator"):
            setattr(child, "generator", generator)  # noqa: B010 - modules type their attributes as tensors
        if isinstance(child, Noisy):
            child.rank, child.ranks = rank, ranks
