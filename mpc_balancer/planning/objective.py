"""What a plan of prices costs: Eq. 17 as printed, and the asymmetric default. A pure function of CPU paths and plans."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numba
import numpy as np

from mpc_balancer.config import ObjectiveConfig


@dataclass(frozen=True)
class Start:
    """Where a plan starts: what is known at the end of the current interval."""

    cpu: np.ndarray  # (D,) percent, Ĉ_t
    cpu_before: np.ndarray  # (D,) percent, Ĉ_{t-1}
    unit: np.ndarray  # (L,) price coordinate in force


@dataclass(frozen=True)
class Quadratic:
    """J around a path: its value, ∂J/∂C and the Gauss-Newton weights; J is piecewise quadratic in C and u."""

    value: np.ndarray  # (B,)
    path: np.ndarray  # (B, N, D) the CPU path it was taken at
    by_cpu: np.ndarray  # (B, N, D) ∂J/∂C_i
    by_unit: np.ndarray  # (B, N, L) direct ∂J/∂u_i (damping of λ)
    level_weight: np.ndarray  # (B, N, D) weight of C_i²
    rise_weight: np.ndarray  # (B, N, D) weight of (C_i - C_{i-1})²
    move_weight: np.ndarray  # (N,) weight of (u_i - u_{i-1})²

    def pick(self, rows: np.ndarray | list[int]) -> Quadratic:
        """The same for some of the B plans."""
        return replace(self, **{name: getattr(self, name)[rows] for name in _BATCHED})

    def join(self, other: Quadratic) -> Quadratic:
        """The plans of both, these first."""
        return replace(self, **{n: np.concatenate([getattr(self, n), getattr(other, n)]) for n in _BATCHED})


_BATCHED = ("value", "path", "by_cpu", "by_unit", "level_weight", "rise_weight")
_PER_STEP, _WHOLE, _ASYMMETRIC = 0, 1, 2


def objective(
    config: ObjectiveConfig, target: np.ndarray, start: Start, path: np.ndarray, plan: np.ndarray
) -> Quadratic:
    """J of B plans (B, N, L) whose predicted CPU is ``path`` (B, N, D), for targets (D,) in percent.

    Mode ``paper`` is Eq. 17 with i from 0 (the measured state, a constant) to N, summed over services. Mode ``asymmetric``
    is Σ α^i [w(e_i)·e_i² + rise·max(ΔC_i, 0)²·1(e_i ≥ 0)] + move·Σ α^i (100·Δu_i)², w = over_weight above the target, else 1.
    """
    if path.ndim != 3 or plan.ndim != 3 or path.shape[:2] != plan.shape[:2] or path.shape[2] != len(target):
        raise ValueError(f"path {path.shape}, plan {plan.shape}, target {target.shape} do not fit together")
    if not (start.cpu.shape == start.cpu_before.shape == target.shape and start.unit.shape == plan.shape[2:]):
        raise ValueError(f"start: CPU {start.cpu.shape}, prices {start.unit.shape} do not fit the path and the plan")
    paper = config.mode == "paper"
    kind = _ASYMMETRIC if not paper else (_PER_STEP if config.reading == "per_step" else _WHOLE)
    discount = config.discount ** np.arange(1, path.shape[1] + 1)  # (N,)
    move = discount * (0.0 if paper else config.move_weight * 1e4)
    beta = config.beta if paper else config.rise_weight
    before = np.where(np.isnan(start.cpu_before), start.cpu, start.cpu_before)
    arrays = [np.asarray(one, np.float64) for one in (target, start.cpu, before, start.unit, path, plan)]
    value, by_cpu, by_unit, level, rise = _evaluate(kind, beta, config.over_weight, discount, move, *arrays)
    return Quadratic(value, arrays[-2], by_cpu, by_unit, level, rise, move)


@numba.njit(cache=True, error_model="numpy")
def _evaluate(
    kind: int,
    beta: float,
    over_weight: float,
    discount: np.ndarray,
    move: np.ndarray,
    target: np.ndarray,
    now: np.ndarray,
    before: np.ndarray,
    unit: np.ndarray,
    path: np.ndarray,
    plan: np.ndarray,
) -> tuple[np.ndarray, ...]:
    """J and its derivatives, in the order of Quadratic."""
    batch, steps, size = path.shape
    value, by_cpu, by_unit = np.zeros(batch), np.zeros(path.shape), np.zeros(plan.shape)
    level, rise = np.zeros(path.shape), np.zeros(path.shape)
    for b in range(batch):
        for s in range(size):
            ever = now[s] >= target[s]
            for i in range(steps):
                ever = ever or path[b, i, s] >= target[s]
            if kind != _ASYMMETRIC:  # i = 0 is measured: a constant, but for the reading over the whole horizon
                value[b] += (now[s] - target[s]) ** 2
                counts = ever if kind == _WHOLE else now[s] >= target[s]
                value[b] += beta * (now[s] - before[s]) ** 2 if counts else 0.0
            last = now[s]
            for i in range(steps):
                error, change = path[b, i, s] - target[s], path[b, i, s] - last
                over = error >= 0
                if kind == _ASYMMETRIC:
                    w = over_weight if over else 1.0
                    damp = beta if over and change > 0 else 0.0
                else:
                    w = 1.0
                    damp = beta if (ever if kind == _WHOLE else over) else 0.0
                level[b, i, s], rise[b, i, s] = w * discount[i], damp * discount[i]
                value[b] += level[b, i, s] * error**2 + rise[b, i, s] * change**2
                by_cpu[b, i, s] += 2 * level[b, i, s] * error + 2 * rise[b, i, s] * change
                if i:
                    by_cpu[b, i - 1, s] -= 2 * rise[b, i, s] * change
                last = path[b, i, s]
        for j in range(plan.shape[2]):
            for i in range(steps):
                step = plan[b, i, j] - (plan[b, i - 1, j] if i else unit[j])
                value[b] += move[i] * step**2
                by_unit[b, i, j] += 2 * move[i] * step
                if i:
                    by_unit[b, i - 1, j] -= 2 * move[i] * step
    return value, by_cpu, by_unit, level, rise
