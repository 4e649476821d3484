"""C(s, a) as one torch module of plain operations, which torch.export and ONNX can write: codes in, core-milliseconds out.

A piecewise linear curve, continued beyond its ends, is its first segment plus a hinge per inner point, where the slope changes.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from autobucket.costs.cost_model import CostModel
from autobucket.results.tasks import Task


class PortableCosts(nn.Module):
    """(codes (S, columns), numbers (S, columns), idc int64 (S,)) → core-ms float32 (S, A, services)."""

    table: Tensor
    fixed: Tensor
    setting: Tensor
    start: Tensor
    value: Tensor
    slope: Tensor
    knots: Tensor
    bends: Tensor

    def __init__(self, model: CostModel) -> None:
        super().__init__()
        estimator, tables = model.estimator, model.tables
        wanted = [estimator.names.index(name) for name in model.tasks]
        self.tasks: list[tuple[int, int]] = []  # of each element: pass, task
        for t in wanted:
            place = next(k for k, (_, kept) in enumerate(estimator.passes) if t in kept)
            self.tasks.append((place, t))
        self.networks = nn.ModuleList([network for network, _ in estimator.passes])
        self.scales: list[Task] = estimator.tasks
        self.register_buffer("table", torch.from_numpy(estimator.spec.joint_table()))
        self.register_buffer("fixed", torch.from_numpy(tables.fixed).float())  # (idcs, A, services)
        self.register_buffer("setting", torch.from_numpy(tables.setting))  # (elements, A)
        curves = _hinges(tables.x, tables.y, tables.size)
        for name, values in zip(("start", "value", "slope", "knots", "bends"), curves):
            self.register_buffer(name, torch.from_numpy(values).float())

    def forward(self, codes: Tensor, numbers: Tensor, idc: Tensor) -> Tensor:
        """As the class says."""
        joint = torch.arange(self.table.shape[0])
        total = self.fixed[idc]  # (S, A, services)
        states = [network.embed_states(codes, numbers) for network in self.networks]  # type: ignore[operator]
        actions = [network.embed_actions(self.table)[None] for network in self.networks]  # type: ignore[operator]
        for element, (place, task) in enumerate(self.tasks):
            output = self.networks[place](states[place][:, None], actions[place], [task])[0]  # (S, A)
            length = self.scales[task].prediction(output, joint)[:, :, None]  # (S, A, 1)
            own = self.setting[element]

            def curve(table: Tensor, element: int = element, own: Tensor = own) -> Tensor:
                return table[:, :, element][:, :, own][idc].transpose(1, 2)  # (S, A, services[, K])

            total = total + curve(self.value) + curve(self.slope) * (length - curve(self.start))
            for k in range(self.knots.shape[-1]):
                total = total + curve(self.bends[..., k]) * torch.relu(length - curve(self.knots[..., k]))
        return total.clamp_min(0.0)


def _hinges(x: np.ndarray, y: np.ndarray, size: np.ndarray) -> tuple[np.ndarray, ...]:
    """Of curves (…, K) with ``size`` points used: first x and y, first slope (…), inner knots and changes of slope (…, K − 2)."""
    points = x.shape[-1]
    used = np.arange(points - 1) < size[..., None] - 1  # segments (…, K − 1)
    dx = np.where(used, np.diff(x, axis=-1), 1.0)
    slopes = np.where(used, np.diff(y, axis=-1) / dx, 0.0)
    first = slopes[..., 0] if points > 1 else np.zeros(x.shape[:-1])
    bends = np.where(used[..., 1:], np.diff(slopes, axis=-1), 0.0)  # none after the last segment: it goes on
    return x[..., 0], y[..., 0], first, x[..., 1 : max(points - 1, 1)], bends
