"""The trainable system model g: one minute of CPU from CPU, prices and exogenous inputs."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import torch
from torch import nn

from mpc_balancer.system_model.features import CPU_CENTRE, CPU_SPREAD


class SystemNetwork(nn.Module):
    """C' = ρ·C + (1-ρ)(idle + traffic·exp(net(C, u, x)))  (utilisation law), or C' = net(C, u, x)  (plain).

    The law says what any server does: computation is traffic times cost per request. The network learns the cost per
    request as a function of everything; traffic never seen before is then carried by the law, not by extrapolation.
    """

    def __init__(self, services: int, prices: int, exogenous: int, hidden: list[int], head: str) -> None:
        super().__init__()
        self.head = head
        self.services, self.prices = services, prices
        widths = [services + prices + exogenous, *hidden, services]
        layers = [nn.Linear(a, b) for a, b in pairwise(widths)]
        for layer in layers:
            nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)
        nn.init.normal_(layers[-1].weight, std=0.01)
        self.layers = nn.ModuleList(layers)
        self.carry = nn.Parameter(torch.full((services,), -1.5))  # ρ = sigmoid(carry)
        self.idle = nn.Parameter(torch.full((services,), 1.5))  # idle CPU = softplus(idle), percent
        self.level = nn.Parameter(torch.full((services,), 50.0 if head == "plain" else 3.9))

    @classmethod
    def from_parts(
        cls,
        head: str,
        weights: list[np.ndarray],
        biases: list[np.ndarray],
        carry: np.ndarray,
        idle: np.ndarray,
        level: np.ndarray,
    ) -> SystemNetwork:
        """The network of a trained model's parts: ``weights`` (in, out) per layer, the others as SystemModel has them."""
        services, hidden = len(level), [len(bias) for bias in biases[:-1]]
        net = cls(services, 0, len(weights[0]) - services, hidden, head)
        with torch.no_grad():
            for layer, weight, bias in zip(net.layers, weights, biases):
                layer.load_state_dict({"weight": torch.from_numpy(weight.T.copy()), "bias": torch.from_numpy(bias)})
            net.carry.copy_(torch.from_numpy(carry).logit())
            net.idle.copy_(torch.from_numpy(idle).double().expm1().log())  # softplus backwards
            net.level.copy_(torch.from_numpy(level))
        return net

    def forward(
        self, cpu: torch.Tensor, unit: torch.Tensor, exogenous: torch.Tensor, traffic: torch.Tensor
    ) -> torch.Tensor:
        """Next CPU (B, D) in percent; cpu (B, D) percent, unit (B, L), exogenous (B, F), traffic (B,) relative to its mean."""
        h = torch.cat([(cpu - CPU_CENTRE) / CPU_SPREAD, unit, exogenous], dim=1)  # (B, S+L+F)
        for layer in self.layers[:-1]:
            h = torch.tanh(layer(h))
        out: torch.Tensor = self.layers[-1](h) + (0.0 if self.head == "plain" else self.level)  # (B, D)
        if self.head == "plain":
            return self.level + CPU_SPREAD * out
        load = torch.exp(torch.clamp(out, max=8.0)) * traffic[:, None]
        carry = torch.sigmoid(self.carry)
        return carry * cpu + (1 - carry) * (nn.functional.softplus(self.idle) + load)

    def rollout(
        self, cpu: torch.Tensor, unit: torch.Tensor, exogenous: torch.Tensor, traffic: torch.Tensor
    ) -> torch.Tensor:
        """CPU of N minutes (B, N, D) from the start (B, D) under prices (B, N, L) and inputs (B, N, F), (B, N)."""
        steps = []
        for k in range(unit.shape[1]):
            cpu = self(cpu, unit[:, k], exogenous[:, k], traffic[:, k])
            steps.append(cpu)
        return torch.stack(steps, dim=1)
