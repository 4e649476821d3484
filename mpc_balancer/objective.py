"""What a plan of prices costs: Eq. 17 as printed, and the asymmetric default. Pure functions of CPU paths and plans."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mpc_balancer.config import ObjectiveConfig


@dataclass(frozen=True)
class Start:
    """Where a plan starts: what is known at the end of the current interval."""

    cpu: np.ndarray  # (S,) percent, Ĉ_t
    cpu_before: np.ndarray  # (S,) percent, Ĉ_{t-1}
    unit: np.ndarray  # (L,) price coordinate in force


@dataclass(frozen=True)
class Quadratic:
    """J around a path: its value, ∂J/∂C and the Gauss-Newton weights; J is piecewise quadratic in C and u."""

    value: np.ndarray  # (B,)
    by_cpu: np.ndarray  # (B, N, S) ∂J/∂C_i
    by_unit: np.ndarray  # (B, N, L) direct ∂J/∂u_i (damping of λ)
    level_weight: np.ndarray  # (B, N, S) weight of C_i²
    rise_weight: np.ndarray  # (B, N, S) weight of (C_i - C_{i-1})²
    move_weight: np.ndarray  # (N,) weight of (u_i - u_{i-1})²


def objective(
    config: ObjectiveConfig, target: np.ndarray, start: Start, path: np.ndarray, plan: np.ndarray
) -> Quadratic:
    """J of B plans (B, N, L) whose predicted CPU is ``path`` (B, N, S), for targets (S,) in percent.

    Mode ``paper`` is Eq. 17 with i from 0 (the measured state, a constant) to N, summed over services.
    """
    if path.ndim != 3 or plan.ndim != 3 or path.shape[:2] != plan.shape[:2] or path.shape[2] != len(target):
        raise ValueError(f"path {path.shape}, plan {plan.shape}, target {target.shape} do not fit together")
    batch, steps, _ = path.shape
    discount = config.alpha ** np.arange(1, steps + 1)  # (N,)
    now = np.broadcast_to(start.cpu, (batch, 1, path.shape[2]))
    rise = np.diff(np.concatenate([now, path], axis=1), axis=1)  # (B, N, S) C_i - C_{i-1}
    error = path - target  # (B, N, S)
    level, rising, constant = _weights(config, target, start, error, rise)
    level, rising = level * discount[:, None], rising * discount[:, None]
    move = np.zeros(steps) if config.mode == "paper" else config.move_weight * 1e4 * discount
    first = np.broadcast_to(start.unit, (batch, 1, plan.shape[2]))
    step = np.diff(np.concatenate([first, plan], axis=1), axis=1)  # (B, N, L)
    value = (
        (level * error**2 + rising * rise**2).sum(axis=(1, 2)) + (move[:, None] * step**2).sum(axis=(1, 2)) + constant
    )
    by_cpu = 2 * level * error + 2 * rising * rise
    by_cpu[:, :-1] -= 2 * (rising * rise)[:, 1:]
    by_unit = 2 * move[:, None] * step
    by_unit[:, :-1] -= 2 * (move[:, None] * step)[:, 1:]
    return Quadratic(value, by_cpu, by_unit, level, rising, move)


def _weights(
    config: ObjectiveConfig, target: np.ndarray, start: Start, error: np.ndarray, rise: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Undiscounted weights of level and rise (B, N, S) and the part of J that no plan changes (B,)."""
    over = error >= 0
    if config.mode == "asymmetric":
        level = np.where(over, config.over_weight, 1.0)
        return level, config.rise_weight * (over & (rise > 0)), np.zeros(len(error))
    now_error = start.cpu - target  # (S,)
    first = np.nan_to_num(start.cpu - start.cpu_before)  # (S,) ΔC at i = 0
    if config.reading == "per_step":
        now_over = now_error >= 0
        constant = (now_error**2 + config.beta * now_over * first**2).sum()
        return np.ones_like(error), config.beta * over, np.full(len(error), constant)
    ever = over.any(axis=1) | (now_error >= 0)  # (B, S)
    constant = (now_error**2).sum() + (config.beta * ever * first**2).sum(axis=1)  # (B,)
    return np.ones_like(error), config.beta * np.broadcast_to(ever[:, None], error.shape), constant
