"""The training loop of the system model."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable

import numpy as np
import torch

from marca_common.ranks import Ranks
from marca_common.seeding import torch_generator
from marca_common.shared_batches import averaged, shareable
from mpc_balancer.config import SystemModelConfig
from mpc_balancer.system_model.system_network import SystemNetwork
from mpc_balancer.system_model.training_windows import Windows

Report = Callable[[int, float, float, float], None]


def fit_network(
    net: SystemNetwork, train: Windows, valid: Windows, config: SystemModelConfig, report: Report, ranks: Ranks
) -> float:
    """Adam with a cosine decay on the rollout loss; ends on patience or time; the best epoch's weights stay.

    Ranks share every batch evenly; rank 0 validates, and its clock counts. Returns the best validation RMSE of the rollout,
    CPU points.
    """
    device = next(net.parameters()).device
    data = [
        torch.from_numpy(a).to(device)
        for a in (train.cpu, train.unit, train.exogenous, train.traffic, train.target, train.mask)
    ]
    generator = torch_generator(config.seed, "mpc_balancer", "batches")
    batch = max(config.batch_size, len(train) // 128 // ranks.size * ranks.size)
    optimiser = torch.optim.AdamW(net.parameters(), lr=config.lr, weight_decay=config.weight_decay)
    updates = -(-(len(train) - len(train) % ranks.size) // batch) * config.epochs
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, updates, config.lr / 10)
    best, best_state, since, started = np.inf, copy.deepcopy(net.state_dict()), 0, time.monotonic()
    for epoch in range(config.epochs):
        net.train()
        total = 0.0
        order = shareable(torch.randperm(len(train), generator=generator), ranks)
        for rows in torch.split(order, batch):
            optimiser.zero_grad(set_to_none=True)
            loss = _loss(net, data, rows, config, generator, ranks)
            torch.autograd.backward(loss)
            loss = averaged(net.parameters(), [loss.detach()], ranks)[0]
            _require_finite(loss.item(), schedule.last_epoch + 1, ranks)
            torch.nn.utils.clip_grad_norm_(net.parameters(), 5.0)
            optimiser.step()
            schedule.step()
            total += loss.item() * len(rows)
        error, seconds = ranks.lead(lambda: (rollout_rmse(net, valid), time.monotonic() - started))
        _require_finite(error, schedule.last_epoch, ranks)
        report(epoch, total / len(order), error, seconds)
        since += 1
        if error < best:
            best, best_state, since = error, copy.deepcopy(net.state_dict()), 0
        if since >= config.patience or seconds > 60 * config.max_minutes:
            break
    net.load_state_dict(best_state)
    return best


def _require_finite(value: float, step: int, ranks: Ranks) -> None:
    if not math.isfinite(value):
        raise ranks.refusal(
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
    net: SystemNetwork,
    data: list[torch.Tensor],
    rows: torch.Tensor,
    config: SystemModelConfig,
    generator: torch.Generator,
    ranks: Ranks,
) -> torch.Tensor:
    """This rank's part of the loss of a batch, the ``rows`` of ``data``; the mean of all ranks' is that of the batch."""
    own = rows.chunk(ranks.size)[ranks.rank]
    cpu, unit, exogenous, traffic, target, mask = (one[own] for one in data)
    path = net.rollout(cpu, unit, exogenous, traffic)
    error = torch.nn.functional.huber_loss(path, target, reduction="none", delta=config.huber_points)
    known = data[-1][rows].sum().clamp(min=1)  # of the whole batch, which every rank holds
    loss = ranks.size * (error * mask).sum() / known
    if config.monotone_weight and net.prices == net.services:
        loss = loss + config.monotone_weight * _monotone_hint(net, [one[rows[:64]] for one in data], generator)
    return loss


def _monotone_hint(net: SystemNetwork, batch: list[torch.Tensor], generator: torch.Generator) -> torch.Tensor:
    """Mean violation, CPU points, of 'a dearer service does not get busier', at random prices of the box.

    Of a batch's first rows; every rank draws the same prices for all of them.
    """
    cpu, _, exogenous, traffic = batch[:4]
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
