"""Tasks: the scale a result is learnt on, its loss, and the way back to the result's own unit."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from autobucket.config import TaskConfig
from common.errors import UserError


@dataclass(frozen=True)
class Task:
    """A result column with the scale fitted on training rows.

    ``mse``, ``mae`` and ``huber`` are learnt on (y − centre) / scale; ``poisson`` on y / scale through a log link, so that
    its loss estimates the mean of a count whatever its spread; ``bce`` on a logit.
    """

    name: str
    loss: str
    weight: float
    patience: int
    centre: float
    scale: float

    @classmethod
    def fit(cls, name: str, config: TaskConfig, labels: np.ndarray) -> Task:
        """Learn centre and scale from training labels (M,); labels a loss cannot take are a UserError."""
        if config.loss == "bce" and not np.isin(labels, (0.0, 1.0)).all():
            wrong = labels[~np.isin(labels, (0.0, 1.0))][0]
            raise UserError(f"task {name!r}: got the label {wrong:g}; loss bce expects 0 or 1 (or set `above`)")
        centre, scale = 0.0, 1.0
        if config.loss in ("mse", "mae", "huber"):
            centre, scale = float(labels.mean()), float(labels.std()) or 1.0
        elif config.loss == "poisson":
            scale = float(labels.mean()) or 1.0
        return cls(name, config.loss, config.weight, config.patience, centre, scale)

    @property
    def binary(self) -> bool:
        """Whether the prediction is a probability."""
        return self.loss == "bce"

    def loss_of(self, output: Tensor, label: Tensor) -> Tensor:
        """Mean loss of outputs (M,) against labels (M,) in the result's own unit."""
        target = (label - self.centre) / self.scale
        if self.loss == "mse":
            return F.mse_loss(output, target)
        if self.loss == "mae":
            return F.l1_loss(output, target)
        if self.loss == "huber":
            return F.huber_loss(output, target)
        if self.loss == "poisson":
            return F.poisson_nll_loss(output.clamp(max=20.0), target, log_input=True)
        return F.binary_cross_entropy_with_logits(output, target)

    def prediction(self, output: Tensor) -> Tensor:
        """Outputs to the result's own unit (a probability for bce); results are never negative."""
        if self.loss == "bce":
            return torch.sigmoid(output)
        if self.loss == "poisson":
            return torch.exp(output.clamp(max=20.0)) * self.scale
        return (output * self.scale + self.centre).clamp_(min=0.0)


def labels_of(name: str, config: TaskConfig, column: np.ndarray) -> np.ndarray:
    """The label column float32 (M,), turned into 0/1 where the task says ``above``."""
    values = np.asarray(column, dtype=np.float32)
    return (values > config.above).astype(np.float32) if config.above is not None else values
