"""Deviances: how unlikely an observation is under a predicted mean."""

from __future__ import annotations

import torch
from torch import Tensor


def tweedie_deviance(log_mean: Tensor, target: Tensor, power: float) -> Tensor:
    """Unit Tweedie deviance, 1 < p < 2, elementwise and ≥ 0; the mean is exp(``log_mean``).

    d = 2 [ y^(2−p)/((1−p)(2−p)) − y μ^(1−p)/(1−p) + μ^(2−p)/(2−p) ].
    """
    constant = target.clamp_min(0).pow(2 - power) / ((1 - power) * (2 - power))
    pull = target * torch.exp((1 - power) * log_mean) / (1 - power)
    push = torch.exp((2 - power) * log_mean) / (2 - power)
    return 2 * (constant - pull + push)
