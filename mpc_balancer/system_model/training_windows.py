"""Training windows: a measured start and the prices, traffic and CPU of the N minutes after it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from marca_common.errors import UserError
from mpc_balancer.price_scale import PriceScale
from mpc_balancer.system_model.features import Features
from mpc_balancer.system_model.minute_table import SystemData


@dataclass(frozen=True)
class Windows:
    """n windows of N steps; ``mask`` is 0 where the table does not know the CPU."""

    cpu: np.ndarray  # (n, D) float32, percent
    unit: np.ndarray  # (n, N, L) price coordinate in force in each step
    exogenous: np.ndarray  # (n, N, F)
    traffic: np.ndarray  # (n, N) relative to its mean
    target: np.ndarray  # (n, N, D) percent, 0 where unknown
    mask: np.ndarray  # (n, N, D)
    row: np.ndarray  # (n,) row of the table each window starts at

    def __len__(self) -> int:
        return len(self.cpu)


def make_windows(data: SystemData, features: Features, prices: PriceScale, steps: int) -> Windows:
    """All windows whose start and first step are known; extras stay as measured at the start."""
    count = len(data)
    row = np.arange(count)[:, None] + np.arange(steps)  # (T, N), the row before each step
    inside = row < count
    row = np.minimum(row, count - 1)
    price_row, reachable = _price_rows(data, row, inside)
    known = reachable & np.isfinite(data.next_qps[row])
    known = np.logical_and.accumulate(known, axis=1)  # (T, N)
    start = np.flatnonzero(np.isfinite(data.cpu).all(axis=1) & known[:, 0])
    if not len(start):
        raise UserError("system table: no two consecutive minutes with known CPU, traffic and λ; nothing to learn from")
    row, price_row, known = row[start], price_row[start], known[start]
    exogenous = np.stack(
        [
            features.rows(
                data.group[start],
                data.qps[row[:, k]],
                np.nan_to_num(data.next_qps[row[:, k]]),
                data.timestamps[start] + data.step * k,
                data.extras[start],
                np.full(len(start), float(k)),
            )
            for k in range(steps)
        ],
        axis=1,
    )  # (n, N, F)
    traffic = np.nan_to_num(data.next_qps[row]) / features.traffic_mean[data.group[start]][:, None]
    target = data.next_cpu[row]
    mask = known[..., None] & np.isfinite(target)
    unit = prices.to_unit(np.clip(data.price[price_row], prices.low, prices.high))
    return Windows(
        data.cpu[start].astype(np.float32),
        unit.astype(np.float32),
        exogenous,
        traffic.astype(np.float32),
        np.nan_to_num(target).astype(np.float32),
        mask.astype(np.float32),
        start,
    )


def _price_rows(data: SystemData, row: np.ndarray, inside: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """For each step the row that holds its λ, and whether the step can be reached without a gap."""
    follows = data.follows[row] & inside
    if data.layout.columns.price_in_force == "this_minute":
        return np.minimum(row + 1, len(data) - 1), follows
    before = np.concatenate([np.ones((len(row), 1), dtype=bool), follows[:, :-1]], axis=1)
    return row, inside & before
