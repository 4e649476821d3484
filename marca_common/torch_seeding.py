"""Networks whose noise comes from named generators, so that a resumed run draws the same numbers."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn


class OwnInit(nn.Module, ABC):
    """A module that draws its own bare parameters; the function that initialises a network calls ``reset``."""

    @abstractmethod
    def reset(self, generator: torch.Generator) -> None:
        """Draw them."""


@dataclass(frozen=True)
class OwnPlaces:
    """Which places of a batch that ranks share are one rank's, where the ranks' parts are not equal."""

    number: Tensor  # (B,) int64
    whole: int  # places of all ranks together


class Noisy(nn.Module):
    """A module that leaves out at random, from a named generator (``use_generator``).

    Ranks that share a batch draw for all of it and take what falls on their rows: any number of ranks draws the same.
    """

    def __init__(self) -> None:
        super().__init__()
        self.generator: torch.Generator | None = None
        self.rank, self.ranks = 0, 1
        self.places: Mapping[str, OwnPlaces] = {}  # of rows and of states; none: parts are equal

    def drawn(self, shape: torch.Size, share: float, like: Tensor, dim: int = 0, of: str = "rows") -> Tensor:
        """1 with the probability ``share``, else 0, for this rank's places in ``dim``, which are ``rows`` or ``states``."""
        mine = shape[dim]
        own = self.places.get(of)
        whole = torch.empty(
            (*shape[:dim], own.whole if own else mine * self.ranks, *shape[dim + 1 :]),
            dtype=like.dtype,
            device=like.device,
        ).bernoulli_(share, generator=self.generator)
        return whole.index_select(dim, own.number) if own else whole.narrow(dim, self.rank * mine, mine)


class SeededDropout(Noisy):
    """Dropout from a named generator."""

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, x: Tensor, dim: int = 0, of: str = "rows") -> Tensor:
        """Zero a share of ``x`` in training and scale up the rest; ``dim`` and ``of`` as in ``drawn``."""
        if not self.training or self.rate == 0:
            return x
        return x * self.drawn(x.shape, 1 - self.rate, x, dim, of) / (1 - self.rate)


def use_generator(module: nn.Module, generator: torch.Generator, rank: int = 0, ranks: int = 1) -> None:
    """Let every source of noise inside ``module`` draw from ``generator``, as one of ``ranks`` that share a batch."""
    for child in module.modules():
        if hasattr(child, "generator"):
            setattr(child, "generator", generator)  # noqa: B010 - modules type their attributes as tensors
        if isinstance(child, Noisy):
            child.rank, child.ranks = rank, ranks


def use_places(module: nn.Module, places: Mapping[str, OwnPlaces]) -> None:
    """Tell every source of noise inside ``module`` which places of the coming batch are this rank's."""
    for child in module.modules():
        if isinstance(child, Noisy):
            child.places = places
