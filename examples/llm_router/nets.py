"""Small networks that read all models' scores off one shared layer; their mean is less noisy than any of them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from marca_common.seeding import torch_generator
from marca_common.torch_seeding import SeededDropout, use_generator

MEMBERS, WIDTH, EPOCHS, BATCH = 4, 128, 12, 128
DROPOUT = (0.2, 0.3)  # of the features, and of the hidden units
LR, WEIGHT_DECAY = 3e-3, 0.01


@dataclass(frozen=True)
class Nets:
    """The networks, and the scale of their features."""

    middle: np.ndarray  # (F,)
    spread: np.ndarray  # (F,)
    members: list[nn.Module]

    @classmethod
    def fit(cls, features: np.ndarray, scores: np.ndarray, seed: int) -> Nets:
        """``features`` (S, F), ``scores`` (S, A) from 0 to 1; each network has its own start, order and dropout."""
        middle, spread = features.mean(axis=0), features.std(axis=0) + 1e-3
        x, y = _tensor((features - middle) / spread), _tensor(scores)
        return cls(
            middle, spread, [_fitted(x, y, torch_generator(seed, "llm_router", "net", k)) for k in range(MEMBERS)]
        )

    def expected(self, features: np.ndarray) -> np.ndarray:
        """Expected scores (S, A), float64."""
        x = _tensor((features - self.middle) / self.spread)
        with torch.no_grad():
            parts = [torch.sigmoid(member(x)) for member in self.members]
        return torch.stack(parts).mean(dim=0).numpy().astype(np.float64)


def _tensor(array: np.ndarray) -> Tensor:
    return torch.as_tensor(array, dtype=torch.float32)


def _net(features: int, models: int, generator: torch.Generator) -> nn.Module:
    def hidden(inputs: int, dropout: float) -> list[nn.Module]:
        return [SeededDropout(dropout), _linear(inputs, WIDTH, generator), nn.GELU()]

    last = [SeededDropout(DROPOUT[1]), _linear(WIDTH, models, generator)]
    return nn.Sequential(*hidden(features, DROPOUT[0]), *hidden(WIDTH, DROPOUT[1]), *last)


def _linear(inputs: int, outputs: int, generator: torch.Generator) -> nn.Linear:
    layer = nn.Linear(inputs, outputs)
    for parameter in layer.parameters():  # torch's own start, from the named generator
        nn.init.uniform_(parameter, -(inputs**-0.5), inputs**-0.5, generator=generator)
    return layer


def _fitted(x: Tensor, y: Tensor, generator: torch.Generator) -> nn.Module:
    net = _net(x.shape[1], y.shape[1], generator)
    use_generator(net, generator)
    optimizer = torch.optim.AdamW(net.parameters(), LR, weight_decay=WEIGHT_DECAY)
    steps = EPOCHS * -(-len(x) // BATCH)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, LR, total_steps=steps)
    for _ in range(EPOCHS):
        for rows in torch.split(torch.randperm(len(x), generator=generator), BATCH):
            loss = nn.functional.binary_cross_entropy_with_logits(net(x[rows]), y[rows])
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            schedule.step()
    return net.eval()
