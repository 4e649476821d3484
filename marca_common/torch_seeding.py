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


class SeededDropout(nn.Module):
    """Dropout from a named generator (``use_generator``)."""

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate
        self.generator: torch.Generator | None = None

    def forward(self, x: Tensor) -> Tensor:
        """Zero a share of ``x`` in training and scale up the rest."""
        if not self.training or self.rate == 0:
            return x
        keep = torch.empty_like(x).bernoulli_(1 - self.rate, generator=self.generator)
        return x * keep / (1 - self.rate)


def use_generator(module: nn.Module, generator: torch.Generator) -> None:
    """Let every source of noise inside ``module`` draw from ``generator``."""
    for child in module.modules():
        if hasattr(child, "generator"):
            setattr(child, "generator", generator)  # noqa: B010 - modules type their attributes as tensors
