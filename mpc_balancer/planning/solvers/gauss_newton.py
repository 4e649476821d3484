"""Batched projected Gauss-Newton: J is a sum of squares of CPU and λ, so its curvature comes from first derivatives.

All constant-λ seeds and the warm start are rolled out in one batch; the best few are refined together. Each iteration
linearises the rollout, with one backward pass for all steps, and solves the damped normal equations on the free variables.
It tries several step lengths in one batched rollout, whose activations serve the next linearisation.
"""

from __future__ import annotations

import numba
import numpy as np

from mpc_balancer.config import SolverConfig
from mpc_balancer.planning.control_problem import Problem, Search, Solution
from mpc_balancer.planning.objective import Quadratic
from mpc_balancer.planning.solvers.seeds import seed_plans

_STEPS = (1.0, 0.4, 0.1)  # step lengths tried along the Gauss-Newton direction
_BELOW = (0.02, 0.7)  # Eq. 17: points below the budget that are aimed at


def gauss_newton(problem: Problem, config: SolverConfig, warm: np.ndarray | None, _: np.random.Generator) -> Solution:
    """Seeds → best few → damped Gauss-Newton steps with a batched line search."""
    search = Search(problem, config)
    plans = seed_plans(problem, config, warm)
    quadratic, tape = problem.trace(plans)
    search.offer(plans, quadratic.value)
    keep = np.argsort(np.where(np.isnan(quadratic.value), np.inf, quadratic.value), kind="stable")[: config.refine]
    plans, quadratic, tape = plans[keep], quadratic.pick(keep), [layer[:, keep] for layer in tape]
    damping = np.full(len(keep), 1e-3)
    done = 0
    while done < config.iterations and not search.over():
        before = search.value
        plans, quadratic, tape, damping = _iterate(problem, plans, quadratic, tape, damping)
        search.offer(plans, quadratic.value)
        done += 1
        if done == 1 and len(plans) > 1:  # the best of the few goes on alone
            lead = [int(np.argmin(quadratic.value))]
            plans, quadratic, tape, damping = (
                plans[lead],
                quadratic.pick(lead),
                [t[:, lead] for t in tape],
                damping[lead],
            )
        settled = before - search.value < config.tolerance * abs(search.value) and bool((damping < 1).all())
        if settled or not np.isfinite(search.value):
            break
    return search.solution(done)


def _iterate(
    problem: Problem, plans: np.ndarray, quadratic: Quadratic, tape: list[np.ndarray], damping: np.ndarray
) -> tuple[np.ndarray, Quadratic, list[np.ndarray], np.ndarray]:
    """One step of each of B plans; a plan that no step improves stays, with more damping."""
    size = len(plans)
    directions = _directions(problem, plans, quadratic, tape, damping)
    trial = np.concatenate(
        [plans + step * direction for direction, steps in directions for step in steps]
    )  # (T·B, N, L)
    trial = problem.clip(trial)
    new, new_tape = problem.trace(trial)
    value = np.where(np.isnan(new.value), np.inf, new.value).reshape(-1, size)  # (T, B)
    choice = value.argmin(axis=0)
    better = value[choice, np.arange(size)] < quadratic.value
    damping = np.where(better, np.where(choice == 0, damping / 5, damping), damping * 30)
    picked = choice * size + np.arange(size)
    if better.all():
        return trial[picked], new.pick(picked), [layer[:, picked] for layer in new_tape], damping
    both = np.where(better, picked + size, np.arange(size))  # rows of the old plans followed by the trials
    layers = [np.concatenate([old, late], axis=1)[:, both] for old, late in zip(tape, new_tape)]
    return np.concatenate([plans, trial])[both], quadratic.join(new).pick(both), layers, damping


def _directions(
    problem: Problem, plans: np.ndarray, quadratic: Quadratic, tape: list[np.ndarray], damping: np.ndarray
) -> list[tuple[np.ndarray, tuple[float, ...]]]:
    """Damped Gauss-Newton steps (B, N, L) on the variables that the box does not hold, with step lengths to try.

    Eq. 17 jumps where CPU crosses the budget: further directions aim just below it, where ΔC costs nothing.
    """
    chain = problem.chain(tape)  # (B, N, D, N, L)
    found: list[tuple[np.ndarray, tuple[float, ...]]] = [
        (_solve_all(problem, plans, chain, quadratic, damping), _STEPS)
    ]
    if problem.config.mode == "paper" and problem.config.beta:
        found = [(found[0][0], _STEPS[:2])]
        found += [
            (_solve_all(problem, plans, chain, problem.below_budget(quadratic, gap), damping), _STEPS[:1])
            for gap in _BELOW
        ]
    return found


def _solve_all(problem: Problem, plans: np.ndarray, chain: np.ndarray, q: Quadratic, damping: np.ndarray) -> np.ndarray:
    weights = (q.by_cpu, q.by_unit, q.level_weight, q.rise_weight, q.move_weight)
    reach = np.full(len(problem.low), np.inf) if problem.reach is None else problem.reach
    box = (problem.low, problem.high, problem.start.unit, reach)
    return np.asarray(_normal_steps(chain, weights, plans, box, damping))


@numba.njit(cache=True, error_model="numpy")
def _solve(matrix: np.ndarray, right: np.ndarray, out: np.ndarray) -> None:
    """Solve by Cholesky of the lower triangle, which is overwritten; fills ``out``."""
    count = len(right)
    for v in range(count):
        for x in range(v + 1):
            total = matrix[v, x]
            for k in range(x):
                total -= matrix[v, k] * matrix[x, k]
            matrix[v, x] = np.sqrt(max(total, 1e-12)) if v == x else total / matrix[x, x]
    for v in range(count):
        total = right[v]
        for k in range(v):
            total -= matrix[v, k] * out[k]
        out[v] = total / matrix[v, v]
    for v in range(count - 1, -1, -1):
        total = out[v]
        for k in range(v + 1, count):
            total -= matrix[k, v] * out[k]
        out[v] = total / matrix[v, v]


@numba.njit(cache=True, error_model="numpy")
def _normal_steps(
    chain: np.ndarray,
    weights: tuple[np.ndarray, ...],
    plans: np.ndarray,
    box: tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray],
    damping: np.ndarray,
) -> np.ndarray:
    """x (B, N, L) of (H + damping) x = -∇J/2 per plan, H from first derivatives, on free variables only.

    Where moves are limited, the variables are the moves: only then does a bound hold one variable, and a plan can begin to climb early.
    """
    (by_cpu, by_unit, level, rise, move), (low, high, unit, reach) = weights, box
    limited = np.isfinite(reach).any()
    out = np.zeros(plans.shape)
    batch, steps, size = by_cpu.shape
    prices = plans.shape[2]
    count = steps * prices
    for b in range(batch):
        gradient = np.zeros(count)
        hessian = np.zeros((count, count))
        row, last = np.zeros(count), np.zeros(count)
        for s in range(size):
            last[:] = 0.0
            for i in range(steps):
                width = (i + 1) * prices  # later prices can't act on earlier CPU
                for v in range(width):
                    row[v] = chain[b, i, s, v // prices, v % prices]
                    gradient[v] += by_cpu[b, i, s] * row[v]
                w, r = level[b, i, s], rise[b, i, s]
                for v in range(width):
                    a, d = w * row[v], r * (row[v] - last[v])
                    for x in range(v + 1):
                        hessian[v, x] += a * row[x] + d * (row[x] - last[x])
                last[:width] = row[:width]
        for i in range(steps):
            for j in range(prices):
                v = i * prices + j
                gradient[v] += by_unit[b, i, j]
                hessian[v, v] += move[i] + (move[i + 1] if i + 1 < steps else 0.0)
                if i:
                    hessian[v, v - prices] -= move[i]
        if limited:
            _to_moves(hessian, gradient, prices)
        trace = 1e-12
        for v in range(count):
            trace += hessian[v, v] / count
        for v in range(count):
            i, j = v // prices, v % prices
            u, g = plans[b, i, j], gradient[v]
            held = high[i, j] <= low[i, j] or (u <= low[i, j] + 1e-9 and g > 0) or (u >= high[i, j] - 1e-9 and g < 0)
            if np.isfinite(reach[i]):
                moved = u - (plans[b, i - 1, j] if i else unit[j])
                held = held or (moved <= 1e-9 - reach[i] and g > 0) or (moved >= reach[i] - 1e-9 and g < 0)
            if held:
                hessian[v, :v] = 0.0
                for x in range(v + 1, count):
                    hessian[x, v] = 0.0
                hessian[v, v] = 1.0
                gradient[v] = 0.0
            else:
                hessian[v, v] += damping[b] * trace
        _solve(hessian, -0.5 * gradient, row)
        for v in range(count):
            if limited and v >= prices:
                row[v] += row[v - prices]
            out[b, v // prices, v % prices] = row[v]
    return out


@numba.njit(cache=True, error_model="numpy")
def _to_moves(hessian: np.ndarray, gradient: np.ndarray, prices: int) -> None:
    """Derivatives by prices (lower triangle) turned into those by moves: each price is the sum of the moves so far."""
    count = len(gradient)
    for v in range(count):
        for x in range(v):
            hessian[x, v] = hessian[v, x]
    for v in range(count - prices - 1, -1, -1):
        gradient[v] += gradient[v + prices]
        hessian[v] += hessian[v + prices]
    for v in range(count - prices - 1, -1, -1):
        hessian[:, v] += hessian[:, v + prices]
