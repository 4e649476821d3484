"""Gaussian vectors of states: what a state's rows say of its vector u ~ N(0, I), where a row reads e = v · u + noise.

The posterior is Gaussian, in closed form; so is the likelihood of all rows of a state together, u integrated out, and what is
known of a row from the other rows of its state alone.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass
class StateVectors:
    """Posterior of the vectors of S states of rank r."""

    mean: Tensor  # (S, r)
    covariance: Tensor  # (S, r, r)
    log_likelihood: Tensor  # (S,) of a state's rows together, without the constant −n/2 log 2π


def infer(factors: Tensor, residual: Tensor, precision: Tensor, state: Tensor, states: int) -> StateVectors:
    """Vectors of ``states`` states from rows with ``factors`` v (B, r), ``residual`` e and ``precision`` 1/σ² (B,).

    ``state`` (B,) says which state a row is of; a state without rows keeps the prior.
    """
    rank = factors.shape[1]
    weighted = factors * precision[:, None]  # (B, r)
    outer = weighted[:, :, None] * factors[:, None, :]  # (B, r, r)
    prior = torch.eye(rank, dtype=factors.dtype, device=factors.device).expand(states, -1, -1)
    inverse = prior.index_add(0, state, outer)  # (S, r, r)
    pull = factors.new_zeros(states, rank).index_add(0, state, weighted * residual[:, None])
    root = torch.linalg.cholesky(inverse)
    covariance = torch.cholesky_inverse(root)
    mean = (covariance @ pull[:, :, None])[:, :, 0]
    alone = precision.log() - precision * residual.square()
    log_det = 2 * root.diagonal(dim1=1, dim2=2).log().sum(1)
    seen = residual.new_zeros(states).index_add(0, state, alone)
    return StateVectors(mean, covariance, 0.5 * (seen + (pull * mean).sum(1) - log_det))


def without_own(
    known: StateVectors, factors: Tensor, residual: Tensor, precision: Tensor, state: Tensor
) -> tuple[Tensor, Tensor]:
    """Mean and variance of v · u of each row (B,) from the other rows of its state; arguments as for ``infer``.

    Taking a row out again is an update of rank one (Sherman–Morrison), so no posterior is solved anew.
    """
    variance = torch.einsum("bi,bij,bj->b", factors, known.covariance[state], factors)
    kept = (1 - variance * precision).clamp_min(1e-4)  # 1 − leverage of the row; rounding may leave less than nothing
    mean = ((factors * known.mean[state]).sum(1) - variance * precision * residual) / kept
    return mean, variance / kept
