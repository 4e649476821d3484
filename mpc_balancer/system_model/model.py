"""The trained system model at run time: fast batched rollouts, their Jacobians, residual quantiles, what was tuned with it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch

from marca_common.arrays import require_shape
from marca_common.checkpoint import content_of, load_checkpoint, require_keys, save_checkpoint
from marca_common.errors import UserError
from mpc_balancer.config import ColumnsConfig
from mpc_balancer.forecasting.traffic_forecast import TrafficForecast
from mpc_balancer.price_scale import PriceScale
from mpc_balancer.system_model import rollout_kernels as kernels
from mpc_balancer.system_model.features import CPU_CENTRE, CPU_SPREAD, Features
from mpc_balancer.system_model.system_network import SystemNetwork
from mpc_balancer.system_model.tuned import Tuned

KIND = "mpc_balancer.system_model"
_PARTS = ["services", "head", "step_seconds", "weights", "biases", "carry", "idle", "level", "features", "prices"]
_PARTS += ["columns", "quantiles", "residuals", "tuned"]


@dataclass
class SystemModel:
    """g with everything that was learned beside it; plain numpy, float32 inside.

    ``residuals`` (Q, D): quantiles of the operational one-step error (forecast traffic, no knowledge of the minute), at
    ``quantiles`` (Q,). ``tuned`` holds what was fitted beside g on the same table.
    """

    services: tuple[str, ...]
    head: str
    weights: list[np.ndarray]  # (in, out) per layer
    biases: list[np.ndarray]
    carry: np.ndarray  # (D,) ρ
    idle: np.ndarray  # (D,) percent
    level: np.ndarray  # (D,)
    features: Features
    prices: PriceScale
    columns: ColumnsConfig
    step_seconds: int = 60
    quantiles: np.ndarray = field(default_factory=lambda: np.array([0.5]))
    residuals: np.ndarray = field(default_factory=lambda: np.zeros((1, 1)))
    tuned: Tuned = field(default_factory=Tuned)

    def __post_init__(self) -> None:
        self.sound = all(
            np.isfinite(part).all() for part in [*self.weights, *self.biases, self.carry, self.idle, self.level]
        )

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
        learned = (weights, biases, carry, idle, level)
        residuals = np.zeros((1, len(services)))
        return cls(tuple(services), net.head, *learned, features, prices, columns, step_seconds, residuals=residuals)

    # -- one step and rollouts ---------------------------------------------------------------------------------------
    def rollout(
        self,
        cpu: np.ndarray,
        unit: np.ndarray,
        exogenous: np.ndarray,
        traffic: np.ndarray,
        gain: np.ndarray | float = 1.0,
    ) -> np.ndarray:
        """CPU (B, N, D) of B plans (B, N, L) from one start (D,) or (B, D), inputs (N, F) and traffic (N,).

        ``gain`` κ (D,) corrects g multiplicatively: C' = κ·g(C/κ), exact where g is linear in C and in cost.
        """
        return self.rollout_with_tape(cpu, unit, exogenous, traffic, gain)[0]

    def rollout_with_tape(
        self,
        cpu: np.ndarray,
        unit: np.ndarray,
        exogenous: np.ndarray,
        traffic: np.ndarray,
        gain: np.ndarray | float = 1.0,
    ) -> tuple[np.ndarray, list[np.ndarray]]:
        """As rollout, with the activations that ``jacobians`` needs: each layer's (N, B, width), and the loads."""
        batch, steps, prices = unit.shape
        size = len(self.services)
        require_shape("exogenous", exogenous, (steps, None))
        require_shape("traffic", traffic, (steps,))
        first = self.weights[0]
        kappa = np.empty(size, np.float32)
        kappa[:] = gain
        start = np.empty((batch, size), np.float32)
        start[:] = cpu / kappa
        known = exogenous @ first[size + prices :]  # (N, H)
        known += self.biases[0] - (CPU_CENTRE / CPU_SPREAD) * first[:size].sum(axis=0)
        drive = unit.transpose(1, 0, 2).astype(np.float32) @ first[size : size + prices]  # (N, B, H)
        drive += known[:, None]
        tape = tuple(np.empty((steps, batch, weight.shape[1]), np.float32) for weight in self.weights[:-1])
        loads = np.empty((steps, batch, size), np.float32)
        path = np.empty((batch, steps, size), np.float32)
        if not (self.sound and np.isfinite(start).all() and np.isfinite(drive).all()):
            path[:] = np.nan  # compiled loops don't carry NaN reliably
            return path, [*(np.full_like(layer, np.nan) for layer in tape), loads]
        kernels.rollout(
            start,
            drive,
            first[:size] / np.float32(CPU_SPREAD),
            tuple(self.weights[1:]),
            tuple(self.biases[1:]),
            self.head != "plain",
            self.carry,
            self.idle,
            self.level,
            np.float32(CPU_SPREAD),
            traffic.astype(np.float32),
            tape,
            loads,
            path,
        )
        return path * kappa, [*tape, loads]

    def jacobians(self, tape: list[np.ndarray], gain: np.ndarray | float = 1.0) -> tuple[np.ndarray, np.ndarray]:
        """∂C_{i+1}/∂C_i (B, N, D, D) and ∂C_{i+1}/∂u_i (B, N, D, L), all steps in one backward pass."""
        size, prices = len(self.services), self.prices.size
        kappa = np.empty(size, np.float32)
        kappa[:] = gain
        steps, batch, _ = tape[0].shape
        hidden = len(self.weights) - 1
        grad = self.weights[-1].T  # (D, H), the same for all steps
        for k in range(hidden - 1, -1, -1):
            slope = 1 - tape[k] * tape[k]
            grad = grad * slope[:, :, None, :]  # (N, B, D, H)
            width = grad.shape[-1]
            behind = self.weights[k] if k else self.weights[0][: size + prices]
            grad = (grad.reshape(-1, width) @ behind.T).reshape(steps, batch, size, len(behind))
        by_cpu, by_price = grad[..., :size], grad[..., size:]
        if self.head == "plain":
            by_price = by_price * np.float32(CPU_SPREAD)
        else:
            scale = ((1 - self.carry) * tape[hidden])[..., None]  # (N, B, D, 1)
            by_cpu = by_cpu * (scale / np.float32(CPU_SPREAD)) + np.diag(self.carry)
            by_price = by_price * scale
        by_cpu = by_cpu * (kappa[:, None] / kappa[None, :])
        return by_cpu.transpose(1, 0, 2, 3), (by_price * kappa[:, None]).transpose(1, 0, 2, 3)

    def sensitivities(self, by_cpu: np.ndarray, by_price: np.ndarray) -> np.ndarray:
        """∂C_i/∂u_j for all steps (B, N, D, N, L), the chain rule through the rollout."""
        batch, steps, size, prices = by_price.shape
        require_shape("by_cpu", by_cpu, (batch, steps, size, size))
        out = np.zeros((batch, steps, size, steps, prices))
        kernels.chain_rule(np.ascontiguousarray(by_cpu), np.ascontiguousarray(by_price), out)
        return out

    def step_rows(self, cpu: np.ndarray, unit: np.ndarray, exogenous: np.ndarray, traffic: np.ndarray) -> np.ndarray:
        """One step for n independent rows: (n, D) from cpu (n, D), unit (n, L), exogenous (n, F), traffic (n,)."""
        h = np.concatenate([(cpu - CPU_CENTRE) / CPU_SPREAD, unit, exogenous], axis=1).astype(np.float32)
        for weight, bias in zip(self.weights[:-1], self.biases[:-1]):
            h = np.tanh(h @ weight + bias)
        out = h @ self.weights[-1] + self.biases[-1]
        if self.head == "plain":
            return np.asarray(self.level + CPU_SPREAD * out)
        load = np.exp(np.minimum(out + self.level, 8.0)) * traffic[:, None]
        return np.asarray(self.carry * cpu + (1 - self.carry) * (self.idle + load))

    # -- what was learned beside ---------------------------------------------------------------------------------------
    def backoff(self, quantile: float | None) -> np.ndarray:
        """CPU points (D,) that one-step errors exceed with probability 1-quantile; 0 where null."""
        if quantile is None:
            return np.zeros(len(self.services))
        points = [np.interp(quantile, self.quantiles, column) for column in self.residuals.T]
        return np.maximum(points, 0.0)

    def relative_traffic(self, qps: np.ndarray, group: int) -> np.ndarray:
        """Traffic over its training mean, the scale that the utilisation law uses."""
        return np.asarray(np.asarray(qps, np.float64) / self.features.traffic_mean[group])

    def traffic_forecast(self, group: str, horizon: int = 1) -> TrafficForecast:
        """The fitted forecast of a group; persistence over ``horizon`` steps where there is none."""
        return self.tuned.forecasts.get(group) or TrafficForecast.persistence(horizon, self.step_seconds)

    @property
    def noise(self) -> np.ndarray:
        """Back-tested one-step errors (n, D), CPU points, that simulations with g draw from; one zero where there are none."""
        return np.zeros((1, len(self.services))) if self.tuned.observer is None else self.tuned.observer.errors

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
            "tuned": self.tuned.to_dict(),
        }
        save_checkpoint(path, KIND, list(self.services), payload)

    @classmethod
    def load(cls, path: str | Path, services: Sequence[str] | None = None) -> SystemModel:
        """Read a checkpoint; one of another kind or of other services is a UserError."""
        content = load_checkpoint(path, KIND, None if services is None else list(services))
        with content_of(path):
            require_keys(content, _PARTS)
            model = cls(
                services=tuple(content["services"]),
                head=content["head"],
                weights=[w.numpy() for w in content["weights"]],
                biases=[b.numpy() for b in content["biases"]],
                features=Features.from_dict(content["features"]),
                prices=PriceScale.from_dict(content["prices"]),
                columns=ColumnsConfig(**content["columns"]),
                step_seconds=content["step_seconds"],
                tuned=Tuned.from_dict(content["tuned"]),
                **{name: content[name].numpy() for name in ("carry", "idle", "level")},
                **{name: np.array(content[name]) for name in ("quantiles", "residuals")},
            )
            model.require_whole()
        return model

    def require_whole(self) -> None:
        """A UserError where a part has another size or type than the others ask for; compiled loops rely on them."""
        size, prices, inputs = len(self.services), self.prices.size, self.features.size
        widths = [size + prices + inputs, *(len(bias) for bias in self.biases)]
        layers = len(self.weights) == len(self.biases) > 1 and widths[-1] == size
        observer = self.tuned.observer
        fits = {
            "head": self.head in ("utilisation_law", "plain"),
            "step_seconds": isinstance(self.step_seconds, int) and self.step_seconds > 0,
            "biases": all(one.ndim == 1 and one.dtype == np.float32 for one in self.biases),
            "weights": layers
            and all(w.shape == shape and w.dtype == np.float32 for w, shape in zip(self.weights, pairwise(widths))),
            "carry, idle or level": all(
                one.shape == (size,) and one.dtype == np.float32 for one in (self.carry, self.idle, self.level)
            ),
            "carry": bool(((self.carry >= 0) & (self.carry <= 1)).all()),
            "prices": all(one.shape == (prices,) for one in (self.prices.low, self.prices.ref)),
            "features": self.features.whole(),
            "residuals": self.residuals.shape == (*self.quantiles.shape, size)
            and bool((np.diff(self.quantiles) > 0).all()),
            "tuned.extras": len(self.tuned.extras) in (0, len(self.features.extras_mean)),
            "tuned.observer": observer is None or observer.whole(size),
            "tuned.forecasts": all(one.whole() for one in self.tuned.forecasts.values()),
            "tuned.pi_gains": all(min(vars(one).values()) >= 0 for one in self.tuned.pi_gains.values()),
        }
        wrong = [name for name, good in fits.items() if not good]
        if wrong:
            raise UserError(f"the part {wrong[0]} does not fit the others, or is of another version: train again")
