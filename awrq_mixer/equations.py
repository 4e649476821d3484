"""The method's equations as pure functions, each tested with numbers worked out by hand."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from marca_measures.deviance import tweedie_deviance


def td_target(reward: Tensor, next_value: Tensor | None, gamma: float) -> Tensor:
    """One-step target r_t + γ Q'(o_{t+1}, a_{t+1}) (in Eq. 8); the last sub-step has no next value.

    ``reward`` (B,) and ``next_value`` (B, K) give (B, K); without a next value (B, 1).
    """
    if next_value is None:
        return reward[:, None]
    _require_rank(next_value, 2)
    return reward[:, None] + gamma * next_value


def chosen(q: Tensor, action: Tensor) -> Tensor:
    """Q of the logged sub-action: ``q`` (B, K, n), ``action`` (B,) → (B, K)."""
    _require_rank(q, 3)
    return q.gather(2, action[:, None, None].expand(-1, q.shape[1], 1))[:, :, 0]


def adaptive_weights(head_losses: Tensor) -> Tensor:
    """η_k = L_k / Σ_k L_k (Eq. 9) for ``head_losses`` (..., K); equal weights where all losses are zero. No gradient.

    A deviance that rounding has put below 0 counts as 0, or weights of both signs could grow without bound.
    """
    losses = head_losses.detach().clamp_min(0)
    total = losses.sum(-1, keepdim=True)
    equal = torch.full_like(losses, 1 / losses.shape[-1])
    return torch.where(total > 0, losses / total.clamp_min(torch.finfo(losses.dtype).tiny), equal)


def choice_sums(reward: Tensor, actions: Tensor, sizes: tuple[int, ...]) -> Tensor:
    """Rows and summed reward of every choice of every sub-action: ``reward`` (B,), ``actions`` (B, T) → (2, T, most choices).

    All that Eq. 16 needs of the rows: those of several parts add up to those of the whole.
    """
    steps, widest = len(sizes), max(sizes)
    cell = (actions + torch.arange(steps, device=actions.device) * widest).flatten()  # (B · T,)
    empty = torch.zeros(steps * widest, dtype=reward.dtype, device=reward.device)
    rewards = reward[:, None].expand(-1, steps).flatten()
    count = empty.index_add(0, cell, torch.ones_like(rewards)).view(steps, widest)
    return torch.stack([count, empty.index_add(0, cell, rewards).view(steps, widest)])


def credit_variances(sums: Tensor) -> Tensor:
    """Var_{j∈A_t} E[R | a_t = j] (Eq. 16) of every sub-step, from ``choice_sums`` (2, T, most choices) → (T,).

    The variance is over the choices of a sub-action that are present, each counted once.
    """
    count, total = sums
    present = (count > 0).to(sums.dtype)
    means = total / count.clamp_min(1)
    centre = (means * present).sum(1, keepdim=True) / present.sum(1, keepdim=True)
    variances: Tensor = ((means - centre).square() * present).sum(1) / present.sum(1)
    return variances


def credit_weights(sums: Tensor, kind: str) -> Tensor:
    """Reward weights w_t of all sub-steps, (T,): ``paper`` Eq. 16; ``normalised`` their running sum over the total.

    ``sums``: ``choice_sums`` (2, T, most choices). Where no sub-action moves the reward (total 0, up to rounding) ``normalised`` rises evenly instead of being 0/0.
    """
    variances = credit_variances(sums)
    if kind == "paper":
        return variances
    total, steps, precision = variances.sum(), len(variances), torch.finfo(sums.dtype)
    even = torch.arange(1, steps + 1, dtype=sums.dtype, device=sums.device) / steps
    rows, reward = sums[:, 0].sum(1)  # any sub-step's choices are all rows
    rounding = (32 * precision.eps * reward / rows).square()
    return torch.where(total > rounding, variances.cumsum(0) / total.clamp_min(precision.tiny), even)


def elementwise_loss(raw: Tensor, target: Tensor, kind: str, *, power: float = 1.5, delta: float = 1.0) -> Tensor:
    """Loss of network outputs against targets in (scaled) money, elementwise, without reduction.

    For ``tweedie`` the output is the log of the value (see link); otherwise it is the value itself.
    """
    if kind == "tweedie":
        return tweedie_deviance(raw, target, power)
    error = raw - target
    if kind == "mse":
        return error.square()
    if kind == "mae":
        return error.abs()
    return F.huber_loss(error, torch.zeros_like(error), reduction="none", delta=delta)


def link(raw: Tensor, kind: str) -> Tensor:
    """Value in (scaled) money of a network output: exp for ``tweedie`` (bounded against overflow), else itself."""
    return torch.exp(raw.clamp(max=30.0)) if kind == "tweedie" else raw


def random_mixture(heads: int, generator: torch.Generator, device: torch.device | str = "cpu") -> Tensor:
    """REM's convex weights: α_k ~ U(0, 1), normalised to sum to one, (K,)."""
    alpha = torch.rand(heads, generator=generator, device=generator.device).to(device)
    return alpha / alpha.sum()


def optimistic_weights(q_tot: Tensor, target: Tensor, alpha: float) -> Tensor:
    """OW-QMIX: weight 1 where the target exceeds Q_tot, else α; both (B,)."""
    return torch.where(target > q_tot.detach(), torch.ones_like(target), torch.full_like(target, alpha))


def central_weights(target: Tensor, greedy_value: Tensor, is_greedy: Tensor, alpha: float) -> Tensor:
    """CW-QMIX: weight 1 where the action is the greedy one or the target beats its central value, else α; all (B,)."""
    keep = is_greedy | (target > greedy_value.detach())
    return torch.where(keep, torch.ones_like(target), torch.full_like(target, alpha))


def _require_rank(tensor: Tensor, rank: int) -> None:
    if tensor.dim() != rank:
        raise ValueError(f"expected a tensor of rank {rank}, got shape {tuple(tensor.shape)}")
