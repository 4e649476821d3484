"""The training loop of the system model."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable

import numpy as np
import torch

from marca_common.errors import UserError
from marca_common.seeding import torch_generator
from mpc_balancer.config import SystemModelConfig
from mpc_balancer.system_model.system_network import SystemNetwork
from mpc_balancer.system_model.training_windows import Windows

Report = Callable[[int, float, float, float], None]


def fit_network(net: SystemNetwork, train: Windows, valid: Windows, config: SystemModelConfig, report: Report) -> float:
    """Adam with a cosine decay on the rollout loss; ends on patience or time; the best epoch's weights stay.

    Returns the best validation RMSE of the rollout, CPU points.
    """
    device = next(net.parameters()).device
    data = [
        torch.from_numpy(a).to(device)
        for a in (train.cpu, train.unit, train.exogenous, train.traffic, train.target, train.mask)
    ]
    generator = torch_generator(config.seed, "mpc_balancer", "batches")
    batch = max(config.batch_size, len(train) // 128)
    optimiser = torch.optim.AdamW(net.parameters(), lr=config.lr, weight_decay=config.weight_decay)
    updates = -(-len(train) // batch) * config.epochs
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, updates, config.lr / 10)
    best, best_state, since, started = np.inf, copy.deepcopy(net.state_dict()), 0, time.monotonic()
    for epoch in range(config.epochs):
        net.train()
        total = 0.0
        for rows in torch.split(torch.randperm(len(train), generator=generator), batch):
            optimiser.zero_grad(set_to_none=True)
            loss = _loss(net, [d[rows] for d in data], config, generator)
            _require_finite(loss.item(), schedule.last_epoch + 1)
            torch.autograd.backward(loss)
            torch.nn.utils.clip_grad_norm_(net.parameters(), 5.0)
            optimiser.step()
            schedule.step()
            total += loss.item() * len(rows)
        error = rollout_rmse(net, valid)
        _require_finite(error, schedule.last_epoch)
        report(epoch, total / len(train), error, time.monotonic() - started)
        since += 1
        if error < best:
            best, best_state, since = error, copy.deepcopy(net.state_dict()), 0
        if since >= config.patience or time.monotonic() - started > 60 * config.max_minutes:
            break
    net.load_state_dict(best_state)
    return best


def _require_finite(value: float, step: int) -> None:
    if not math.isfinite(value):
        raise UserError(
            f"system model: the error is {value:g} at update {step}; expected a finite number. Try a smaller lr"
        )


def rollout_rmse(net: SystemNetwork, windows: Windows) -> float:
    """Root mean squared error over all known steps and services, CPU points."""
    net.eval()
    device = next(net.parameters()).device
    with torch.no_grad():
        arrays = (windows.cpu, windows.unit, windows.exogenous, windows.traffic)
        path = net.rollout(*(torch.from_numpy(a).to(device) for a in arrays)).cpu().numpy()
    weight = windows.mask
    return float(np.sqrt((weight * (path - windows.target) ** 2).sum() / max(weight.sum(), 1)))


def _loss(
    net: SystemNetwork, batch: list[torch.Tensor], config: SystemModelConfig, generator: torch.Generator
) -> torch.Tensor:
    cpu, unit, exogenous, traffic, target, mask = batch
    path = net.rollout(cpu, unit, exogenous, traffic)
    error = torch.nn.functional.huber_loss(path, target, reduction="none", delta=config.huber_points)
    loss = (error * mask).sum() / mask.sum().clamp(min=1)
    if config.monotone_weight and net.prices == net.services:
        loss = loss + config.monotone_weight * _monotone_hint(net, batch, generator)
    return loss


def _monotone_hint(net: SystemNetwork, batch: list[torch.Tensor], generator: torch.Generator) -> torch.Tensor:
    """Mean violation, CPU points, of 'a dearer service does not get busier', at random prices of the box (64 rows)."""
    cpu, _, exogenous, traffic = (part[:64] for part in batch[:4])
    rows, prices = len(cpu), net.prices
    base = torch.rand((rows, prices), generator=generator).to(cpu.device)
    up = base.repeat(prices, 1)  # (L·B, L)
    own = torch.arange(prices).repeat_interleave(rows)
    index = torch.arange(len(up))
    up[index, own] = torch.clamp(up[index, own] + 0.1, max=1.0)
    every = torch.cat([base, up])
    out = net(cpu.repeat(prices + 1, 1), every, exogenous[:, 0].repeat(prices + 1, 1), traffic[:, 0].repeat(prices + 1))
    before = out[:rows].T.reshape(-1)  # (L·B,) own CPU at the base price
    after = out[rows:][index, own]
    return torch.relu(after - before).mean()
