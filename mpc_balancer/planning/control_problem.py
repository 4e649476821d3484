"""One control problem, as every solver sees it: values, gradients and linearisations of plans inside a box."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from mpc_balancer.config import ObjectiveConfig, SolverConfig
from mpc_balancer.planning.objective import Quadratic, Start, objective
from mpc_balancer.system_model.model import SystemModel


@dataclass
class Problem:
    """Find the plan u (N, L) in [low, high] that minimises J of the model's rollout."""

    model: SystemModel
    config: ObjectiveConfig
    target: np.ndarray  # (D,) percent
    start: Start
    exogenous: np.ndarray  # (N, F) float32
    traffic: np.ndarray  # (N,) relative to its training mean
    low: np.ndarray  # (N, L) price coordinate
    high: np.ndarray  # (N, L)
    gain: np.ndarray | float = 1.0  # κ (D,)
    reach: np.ndarray | None = None  # (N,) largest move into each step, price coordinate; null = any
    now: Callable[[], float] = time.perf_counter  # seconds; what deadlines are read off
    evaluations: int = 0

    @property
    def shape(self) -> tuple[int, int]:
        """(N, L)."""
        return self.low.shape[0], self.low.shape[1]

    def values(self, plans: np.ndarray) -> np.ndarray:
        """J of each plan (B, N, L) → (B,)."""
        self.evaluations += len(plans)
        path = self.model.rollout(self.start.cpu, plans, self.exogenous, self.traffic, self.gain)
        return objective(self.config, self.target, self.start, path, plans).value

    def path(self, plan: np.ndarray) -> np.ndarray:
        """Predicted CPU (N, D) under one plan (N, L)."""
        return np.asarray(self.model.rollout(self.start.cpu, plan[None], self.exogenous, self.traffic, self.gain)[0])

    def trace(self, plans: np.ndarray) -> tuple[Quadratic, list[np.ndarray]]:
        """J with its local weights, and the tape for ``chain``."""
        self.evaluations += len(plans)
        path, tape = self.model.rollout_with_tape(self.start.cpu, plans, self.exogenous, self.traffic, self.gain)
        return objective(self.config, self.target, self.start, path, plans), tape

    def chain(self, tape: list[np.ndarray]) -> np.ndarray:
        """∂C_i/∂u_j for all steps (B, N, D, N, L) where ``tape`` was recorded."""
        return self.model.sensitivities(*self.model.jacobians(tape, self.gain))

    def gradient(self, plan: np.ndarray) -> tuple[float, np.ndarray]:
        """J and ∂J/∂u (N, L) of one plan by the adjoint recursion a_i = ∂J/∂C_i + A_{i+1}ᵀ a_{i+1}."""
        quadratic, tape = self.trace(plan[None])
        by_cpu, by_price = self.model.jacobians(tape, self.gain)
        adjoint = np.zeros(len(self.target))
        out = quadratic.by_unit[0].copy()
        for i in range(len(plan) - 1, -1, -1):
            adjoint = quadratic.by_cpu[0, i] + (by_cpu[0, i + 1].T @ adjoint if i + 1 < len(plan) else 0.0)
            out[i] += by_price[0, i].T @ adjoint
        return float(quadratic.value[0]), out

    def below_budget(self, q: Quadratic, gap: float) -> Quadratic:
        """Eq. 17 with CPU held ``gap`` points under the budget, where ΔC costs nothing: a smooth stand-in for the jump at C_m."""
        error = q.path - (self.target - gap)
        return Quadratic(
            q.value, q.path, 2 * q.level_weight * error, q.by_unit, q.level_weight, 0 * q.rise_weight, q.move_weight
        )

    def clip(self, plans: np.ndarray) -> np.ndarray:
        """Plans (…, N, L) moved into the box, and no step further from the one before than it may be."""
        inside = np.clip(plans, self.low, self.high)
        if self.reach is None:
            return np.asarray(inside)
        before = self.start.unit
        for i in np.flatnonzero(np.isfinite(self.reach)):
            before = inside[..., i - 1, :] if i else before
            inside[..., i, :] = np.clip(inside[..., i, :], before - self.reach[i], before + self.reach[i])
        return np.asarray(inside)


@dataclass(frozen=True)
class Solution:
    """The best feasible plan found."""

    plan: np.ndarray  # (N, L) price coordinate, inside the box
    value: float
    iterations: int
    evaluations: int
    timed_out: bool = False


class Search:
    """A solver's progress: the best feasible plan so far, so that it can stop at any moment, and whether time is up."""

    def __init__(self, problem: Problem, config: SolverConfig) -> None:
        self.problem = problem
        self.plan = problem.clip(np.broadcast_to(problem.start.unit, problem.shape).copy())
        self.value = np.inf
        self._end = np.inf if config.deadline_ms is None else problem.now() + config.deadline_ms / 1000

    def over(self) -> bool:
        """Whether the deadline has passed."""
        return self.problem.now() >= self._end

    def offer(self, plans: np.ndarray, values: np.ndarray) -> None:
        """Take the best of B plans, whose J are ``values``, if it beats what is held; NaN never does."""
        i = int(np.argmin(np.where(np.isnan(values), np.inf, values)))
        if values[i] < self.value:
            self.plan, self.value = plans[i].copy(), float(values[i])

    def attempt(self, plans: np.ndarray) -> np.ndarray:
        """Evaluate B plans (B, N, L), offer them, return their J (B,)."""
        values = self.problem.values(plans)
        self.offer(plans, values)
        return values

    def solution(self, iterations: int) -> Solution:
        """What is held, as a Solution."""
        return Solution(self.problem.clip(self.plan), self.value, iterations, self.problem.evaluations, self.over())
