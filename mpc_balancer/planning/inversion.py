"""One-step inversion: the prices that put CPU on its target in the first step they can act in. No objective, no horizon."""

from __future__ import annotations

import numpy as np

from mpc_balancer.planning.control_problem import Problem

_ITERATIONS = 12
_CLOSE = 2e-4  # log error of CPU that is on the target
_LONGEST = 0.3  # of the box, in one Newton step
_LEAST_SLOPE = 0.05  # log CPU per box; a model that says less is not believed


def invert(problem: Problem, price_of: np.ndarray) -> np.ndarray:
    """Prices (L,) of the last step, price coordinate, that put its CPU on the target, as near as its reach allows."""
    plan = problem.clip(np.broadcast_to(problem.start.unit, problem.shape).copy())
    low, high = problem.low.copy(), problem.high.copy()
    low[:-1] = high[:-1] = plan[:-1]
    if problem.reach is not None:
        before = plan[-2] if len(plan) > 1 else problem.start.unit
        low[-1] = np.maximum(low[-1], before - problem.reach[-1])
        high[-1] = np.minimum(high[-1], before + problem.reach[-1])
    return np.asarray(_newton(problem, plan, low, high, price_of)[-1])


def invert_ahead(problem: Problem, price_of: np.ndarray, first: int) -> np.ndarray:
    """Least prices (L,) of step ``first`` from which those that every later step calls for can still be reached.

    Each step's call is its own inversion, whatever the limits on moves; a rule of thumb that looks ahead without an objective.
    """
    called = _newton(problem, problem.clip(problem.low), problem.low, problem.high, price_of)[first:]
    later = np.zeros(len(called)) if problem.reach is None else np.append(0.0, np.cumsum(problem.reach[first + 1 :]))
    plan = problem.clip(np.broadcast_to(problem.start.unit, problem.shape).copy())
    plan[first] = (called - later[:, None]).max(axis=0)
    return np.asarray(problem.clip(plan)[first])


def _newton(problem: Problem, plan: np.ndarray, low: np.ndarray, high: np.ndarray, price_of: np.ndarray) -> np.ndarray:
    """The plan (N, L) that puts each step's CPU on the target: projected Newton steps in log CPU, each step by its own price.

    ``price_of`` (D,): which price each service pays. Of the services that pay one price, the one furthest above (or least
    below) its target decides. Where the box (N, L) ends first, so does the price. NaN where the model says NaN.
    """
    plan = np.clip(plan, low, high)
    prices = np.arange(plan.shape[1])
    for _ in range(_ITERATIONS):
        path, tape = problem.model.rollout_with_tape(
            problem.start.cpu, plan[None], problem.exogenous, problem.traffic, problem.gain
        )
        cpu = np.maximum(path[0].astype(np.float64), 0.1)  # (N, D)
        if not np.isfinite(cpu).all():
            return np.full(plan.shape, np.nan)
        _, by_price = problem.model.jacobians(tape, problem.gain)
        error = np.log(cpu / problem.target)
        deciding = np.stack([np.where(price_of == j, error, -np.inf).argmax(axis=1) for j in prices], axis=1)  # (N, L)
        wanted = -np.take_along_axis(error, deciding, axis=1)
        slope = np.take_along_axis(by_price[0] / cpu[..., None], deciding[..., None], axis=1)  # (N, L, L)
        slope[:, prices, prices] = np.minimum(slope[:, prices, prices], -_LEAST_SLOPE)
        held = ((plan <= low) & (wanted > 0)) | ((plan >= high) & (wanted < 0)) | (low >= high)
        wanted = np.where(held, 0.0, wanted)
        if np.abs(wanted).max() < _CLOSE:
            break
        slope = np.where(held[:, :, None] | held[:, None, :], 0.0, slope)
        slope[:, prices, prices] = np.where(held, 1.0, slope[:, prices, prices])
        move = np.linalg.solve(slope, wanted[..., None])[..., 0]
        plan = np.clip(plan + np.clip(move, -_LONGEST, _LONGEST), low, high)
    return plan
