"""Batched projected Gauss-Newton: J is a sum of squares of CPU and λ, so its curvature comes from first derivatives.

All constant-λ seeds and the warm start are rolled out in one batch; the best few are refined together. Each iteration
linearises the rollout (one backward pass for all steps), solves the damped normal equations on the free variables, and
tries several step lengths in one batched rollout whose activations serve the next linearisation.
"""

from __future__ import annotations

import numpy as np

from mpc_balancer.config import SolverConfig
from mpc_balancer.objective import Quadratic
from mpc_balancer.problem import Best, Clock, Problem, Solution
from mpc_balancer.solvers.seeds import constant_plans

_STEPS = np.array([1.0, 0.4, 0.1])


def gauss_newton(problem: Problem, config: SolverConfig, warm: np.ndarray | None, _: np.random.Generator) -> Solution:
    """Seeds → best few → damped Gauss-Newton steps with a batched line search."""
    clock, best = Clock(config.deadline_ms), Best(problem)
    plans = constant_plans(problem, config.constants)
    if warm is not None:
        plans = np.concatenate([problem.clip(warm)[None], plans])
    quadratic, tape = problem.trace(plans)
    best.offer(plans, quadratic.value)
    keep = np.argsort(np.where(np.isnan(quadratic.value), np.inf, quadratic.value), kind="stable")[: config.refine]
    plans, quadratic, tape = plans[keep], _pick(quadratic, keep), [layer[keep] for layer in tape]
    damping = np.full(len(keep), 1e-3)
    done = 0
    while done < config.iterations and not clock.over():
        before = best.value
        plans, quadratic, tape, damping = _iterate(problem, plans, quadratic, tape, damping)
        best.offer(plans, quadratic.value)
        done += 1
        settled = before - best.value < 1e-4 * abs(best.value) and bool((damping < 1).all())
        if settled or not np.isfinite(best.value):
            break
    return best.solution(done, clock)


def _iterate(
    problem: Problem, plans: np.ndarray, quadratic: Quadratic, tape: list[np.ndarray], damping: np.ndarray
) -> tuple[np.ndarray, Quadratic, list[np.ndarray], np.ndarray]:
    size, (steps, prices) = len(plans), problem.shape
    direction = _direction(problem, plans, quadratic, tape, damping)  # (B, N, L)
    trial = problem.clip(plans[:, None] + _STEPS[:, None, None] * direction[:, None])  # (B, T, N, L)
    trial = np.concatenate([plans[:, None], trial], axis=1)  # the plan itself first, so that J never rises
    rows = trial.reshape(-1, steps, prices)
    new, new_tape = problem.trace(rows)
    value = np.where(np.isnan(new.value), np.inf, new.value).reshape(size, -1)  # (B, T+1)
    choice = value.argmin(axis=1)
    picked = np.arange(size) * trial.shape[1] + choice
    damping = np.where(choice == 0, damping * 30, np.where(choice == 1, damping / 5, damping))
    return rows[picked], _pick(new, picked), [layer[picked] for layer in new_tape], damping


def _direction(
    problem: Problem, plans: np.ndarray, quadratic: Quadratic, tape: list[np.ndarray], damping: np.ndarray
) -> np.ndarray:
    """The damped Gauss-Newton step on the variables that are not held by the box, (B, N, L)."""
    batch, steps, prices = plans.shape
    by_cpu, by_price = problem.model.jacobians(tape, problem.gain)
    chain = problem.model.sensitivities(by_cpu, by_price)  # (B, N, S, N, L)
    variables = steps * prices
    flat = chain.reshape(batch, -1, variables).astype(np.float64)  # (B, N·S, N·L)
    gradient = (quadratic.by_cpu.reshape(batch, 1, -1) @ flat)[:, 0] + quadratic.by_unit.reshape(batch, -1)
    rows = np.sqrt(quadratic.level_weight).reshape(batch, -1, 1) * flat
    hessian = rows.transpose(0, 2, 1) @ rows
    if quadratic.rise_weight.any():
        rise = np.diff(chain, axis=1, prepend=0.0).reshape(batch, -1, variables)
        rows = np.sqrt(quadratic.rise_weight).reshape(batch, -1, 1) * rise
        hessian += rows.transpose(0, 2, 1) @ rows
    hessian += _move_curvature(quadratic.move_weight, prices)
    at_low = (plans <= problem.low + 1e-9).reshape(batch, -1) & (gradient > 0)
    at_high = (plans >= problem.high - 1e-9).reshape(batch, -1) & (gradient < 0)
    free = ~(at_low | at_high | (problem.high <= problem.low).reshape(-1))
    hessian = np.where(free[:, :, None] & free[:, None, :], hessian, 0.0)
    scale = np.trace(hessian, axis1=1, axis2=2) / variables + 1e-12
    diagonal = np.where(free, (damping * scale)[:, None], 1.0)
    hessian[:, np.arange(variables), np.arange(variables)] += diagonal
    step = np.linalg.solve(hessian, np.where(free, -0.5 * gradient, 0.0)[..., None])[..., 0]
    return step.reshape(batch, steps, prices)


def _move_curvature(weight: np.ndarray, prices: int) -> np.ndarray:
    """Half the Hessian of Σ w_i (u_i - u_{i-1})², (N·L, N·L)."""
    steps = len(weight)
    small = np.diag(weight + np.append(weight[1:], 0.0))
    off = np.arange(steps - 1)
    small[off, off + 1] = small[off + 1, off] = -weight[1:]
    return np.kron(small, np.eye(prices))


def _pick(q: Quadratic, rows: np.ndarray) -> Quadratic:
    return Quadratic(
        q.value[rows], q.by_cpu[rows], q.by_unit[rows], q.level_weight[rows], q.rise_weight[rows], q.move_weight
    )
