"""The trained system model at run time: fast batched rollouts, their Jacobians, residual quantiles, what was tuned with it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from common.checkpoint import load_checkpoint, save_checkpoint
from common.errors import UserError
from mpc_balancer.config import ColumnsConfig
from mpc_balancer.features import CPU_CENTRE, CPU_SPREAD, Features
from mpc_balancer.network import SystemNetwork
from mpc_balancer.pricing import PriceScale

KIND = "mpc_balancer.system_model"


@dataclass
class SystemModel:
    """g with everything that was learned beside it; plain numpy, float32 inside.

    ``residuals`` (Q, S): quantiles of the operational one-step error (forecast traffic, no knowledge of the minute), at
    ``quantiles`` (Q,). ``tuned`` holds plain numbers fitted on the same table: forecasts, observer rate, PI gains.
    """

    services: tuple[str, ...]
    head: str
    weights: list[np.ndarray]  # (in, out) per layer
    biases: list[np.ndarray]
    carry: np.ndarray  # (S,) ρ
    idle: np.ndarray  # (S,) percent
    level: np.ndarray  # (S,)
    features: Features
    prices: PriceScale
    columns: ColumnsConfig
    step_seconds: int = 60
    quantiles: np.ndarray = field(default_factory=lambda: np.array([0.5]))
    residuals: np.ndarray = field(default_factory=lambda: np.zeros((1, 1)))
    tuned: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def from_network(
        cls,
        net: SystemNetwork,
        services: Sequence[str],
        features: Features,
        prices: PriceScale,
        columns: ColumnsConfig,
        step_seconds: int = 60,
    ) -> SystemModel:
        """Copy a torch network into numpy."""
        with torch.no_grad():
            weights = [
                np.ascontiguousarray(part.numpy().T) for name, part in net.layers.named_parameters() if "weight" in name
            ]
            biases = [part.numpy().copy() for name, part in net.layers.named_parameters() if "bias" in name]
            carry = torch.sigmoid(net.carry).numpy().astype(np.float32)
            idle = torch.nn.functional.softplus(net.idle).numpy().astype(np.float32)
            level = net.level.numpy().astype(np.float32).copy()
        size = len(services)
        return cls(
            tuple(services),
            net.head,
            weights,
            biases,
            carry,
            idle,
            level,
            features,
            prices,
            columns,
            step_seconds,
            residuals=np.zeros((1, size)),
        )

    # -- one step and rollouts ---------------------------------------------------------------------------------------
    def rollout(
        self,
        cpu: np.ndarray,
        unit: np.ndarray,
        exogenous: np.ndarray,
        traffic: np.ndarray,
        gain: np.ndarray | float = 1.0,
    ) -> np.ndarray:
        """CPU (B, N, S) of B plans (B, N, L) from one start (S,) or (B, S), inputs (N, F) and traffic (N,).

        ``gain`` κ (S,) corrects g multiplicatively: C' = κ·g(C/κ), exact where g is linear in C and in cost.
        """
        return self._forward(cpu, unit, exogenous, traffic, gain, None)

    def _forward(
        self,
        cpu: np.ndarray,
        unit: np.ndarray,
        exogenous: np.ndarray,
        traffic: np.ndarray,
        gain: np.ndarray | float,
        tape: list[list[np.ndarray]] | None,
    ) -> np.ndarray:
        batch, steps, _ = unit.shape
        size, prices = len(self.services), unit.shape[2]
        first = self.weights[0]
        kappa = np.broadcast_to(np.asarray(gain, np.float32), (size,))
        c = np.broadcast_to(cpu, (batch, size)).astype(np.float32) / kappa  # (B, S)
        drive = unit.astype(np.float32) @ first[size : size + prices]  # (B, N, H)
        drive += (
            exogenous @ first[size + prices :] + self.biases[0] - (CPU_CENTRE / CPU_SPREAD) * first[:size].sum(axis=0)
        )
        into = first[:size] / np.float32(CPU_SPREAD)  # (S, H)
        path = np.empty((batch, steps, size), np.float32)
        for i in range(steps):
            h = np.tanh(drive[:, i] + c @ into)  # (B, H)
            saved = [h]
            for weight, bias in zip(self.weights[1:-1], self.biases[1:-1]):
                h = h @ weight
                h += bias
                np.tanh(h, out=h)
                saved.append(h)
            out = h @ self.weights[-1] + self.biases[-1]  # (B, S)
            if self.head == "plain":
                c = self.level + np.float32(CPU_SPREAD) * out
            else:
                load = np.exp(np.minimum(out + self.level, 8.0)) * np.float32(traffic[i])  # (B, S)
                c = self.carry * c + (1 - self.carry) * (self.idle + load)
                saved.append(load)
            path[:, i] = c
            if tape is not None:
                tape.append(saved)
        return path * kappa

    def rollout_with_tape(
        self,
        cpu: np.ndarray,
        unit: np.ndarray,
        exogenous: np.ndarray,
        traffic: np.ndarray,
        gain: np.ndarray | float = 1.0,
    ) -> tuple[np.ndarray, list[np.ndarray]]:
        """As rollout, with the activations that ``jacobians`` needs: each layer's (B, N, width)."""
        tape: list[list[np.ndarray]] = []
        path = self._forward(cpu, unit, exogenous, traffic, gain, tape)
        return path, [np.stack(layer, axis=1) for layer in zip(*tape)]

    def jacobians(self, tape: list[np.ndarray], gain: np.ndarray | float = 1.0) -> tuple[np.ndarray, np.ndarray]:
        """∂C_{i+1}/∂C_i (B, N, S, S) and ∂C_{i+1}/∂u_i (B, N, S, L), all steps in one backward pass."""
        size = len(self.services)
        kappa = np.broadcast_to(np.asarray(gain, np.float32), (size,))
        layers = len(self.weights) - 1
        grad = np.broadcast_to(self.weights[-1].T, (*tape[0].shape[:2], *self.weights[-1].T.shape))  # (B, N, S, H)
        for k in range(layers - 1, -1, -1):
            grad = grad * (1 - tape[k] ** 2)[:, :, None, :]
            if k:
                grad = grad @ self.weights[k].T
        prices = self.prices.size
        wide = grad @ np.ascontiguousarray(self.weights[0][: size + prices].T)  # (B, N, S, S+L)
        if self.head == "plain":
            scale = np.float32(CPU_SPREAD)
            by_cpu, by_price = wide[..., :size] / np.float32(CPU_SPREAD) * scale, wide[..., size:] * scale
        else:
            slope = ((1 - self.carry) * tape[layers])[..., None]  # (B, N, S, 1)
            by_cpu = wide[..., :size] / np.float32(CPU_SPREAD) * slope + np.diag(self.carry)
            by_price = wide[..., size:] * slope
        return by_cpu * (kappa[:, None] / kappa[None, :]), by_price * kappa[:, None]

    def sensitivities(self, by_cpu: np.ndarray, by_price: np.ndarray) -> np.ndarray:
        """∂C_i/∂u_j for all steps (B, N, S, N, L), the chain rule through the rollout."""
        batch, steps, size, prices = by_price.shape
        out = np.zeros((batch, steps, size, steps, prices), np.float32)
        for i in range(steps):
            if i:
                before = out[:, i - 1, :, :i].reshape(batch, size, i * prices)
                out[:, i, :, :i] = (by_cpu[:, i] @ before).reshape(batch, size, i, prices)
            out[:, i, :, i] = by_price[:, i]
        return out

    def step_rows(self, cpu: np.ndarray, unit: np.ndarray, exogenous: np.ndarray, traffic: np.ndarray) -> np.ndarray:
        """One step for n independent rows: (n, S) from cpu (n, S), unit (n, L), exogenous (n, F), traffic (n,)."""
        h = np.concatenate([(cpu - CPU_CENTRE) / CPU_SPREAD, unit, exogenous], axis=1).astype(np.float32)
        for weight, bias in zip(self.weights[:-1], self.biases[:-1]):
            h = np.tanh(h @ weight + bias)
        out = h @ self.weights[-1] + self.biases[-1]
        if self.head == "plain":
            return self.level + CPU_SPREAD * out
        load = np.exp(np.minimum(out + self.level, 8.0)) * traffic[:, None]
        return self.carry * cpu + (1 - self.carry) * (self.idle + load)

    # -- what was learned beside ---------------------------------------------------------------------------------------
    def backoff(self, quantile: float | None) -> np.ndarray:
        """CPU points (S,) that one-step errors exceed with probability 1-quantile; 0 where null."""
        if quantile is None:
            return np.zeros(len(self.services))
        points = [np.interp(quantile, self.quantiles, column) for column in self.residuals.T]
        return np.maximum(np.array(points), 0.0)

    def relative_traffic(self, qps: np.ndarray, group: int) -> np.ndarray:
        """Traffic over its training mean, the scale that the utilisation law uses."""
        return np.asarray(qps, np.float64) / self.features.traffic_mean[group]

    def save(self, path: str | Path) -> None:
        """Write a checkpoint that ``load`` reads."""
        arrays = {n: torch.from_numpy(np.array(getattr(self, n), np.float32)) for n in ("carry", "idle", "level")}
        payload = {
            "services": list(self.services),
            "head": self.head,
            "step_seconds": int(self.step_seconds),
            "weights": [torch.from_numpy(w.copy()) for w in self.weights],
            "biases": [torch.from_numpy(b.copy()) for b in self.biases],
            **arrays,
            "features": self.features.to_dict(),
            "prices": self.prices.to_dict(),
            "columns": self.columns.model_dump(mode="json"),
            "quantiles": self.quantiles.tolist(),
            "residuals": self.residuals.tolist(),
            "tuned": self.tuned,
        }
        save_checkpoint(path, KIND, list(self.services), payload)

    @classmethod
    def load(cls, path: str | Path, services: Sequence[str] | None = None) -> SystemModel:
        """Read a checkpoint; one of another kind or of other services is a UserError."""
        content = load_checkpoint(path, KIND, None if services is None else list(services))
        try:
            return cls(
                tuple(content["services"]),
                content["head"],
                [w.numpy() for w in content["weights"]],
                [b.numpy() for b in content["biases"]],
                content["carry"].numpy(),
                content["idle"].numpy(),
                content["level"].numpy(),
                Features.from_dict(content["features"]),
                PriceScale.from_dict(content["prices"]),
                ColumnsConfig(**content["columns"]),
                content["step_seconds"],
                np.array(content["quantiles"]),
                np.array(content["residuals"]),
                content["tuned"],
            )
        except KeyError as error:
            raise UserError(f"{path}: an incomplete system model; {error} is missing") from None
