"""iCEM (Pinneri et al. 2020): the cross-entropy method plus coloured noise, kept elites and a decaying population."""

from __future__ import annotations

import numpy as np

from mpc_balancer.config import SolverConfig
from mpc_balancer.planning.control_problem import Problem, Search, Solution
from mpc_balancer.planning.solvers.seeds import seed_plans

_ELITES, _KEPT, _DECAY, _MOMENTUM, _COLOUR, _SPREAD = 10, 0.3, 1.25, 0.1, 2.5, 0.3


def icem(problem: Problem, config: SolverConfig, warm: np.ndarray | None, generator: np.random.Generator) -> Solution:
    """``iterations`` rounds; the first draws ``samples`` plans around the best constant plan or the warm start."""
    search = Search(problem, config)
    search.attempt(seed_plans(problem, config, warm))
    mean, spread = search.plan.copy(), np.full(problem.shape, _SPREAD) * (problem.high - problem.low)
    elites, elite_values = search.plan[None], np.array([search.value])
    done = 0
    for k in range(config.iterations):
        if search.over():
            break
        count = max(int(config.samples * _DECAY**-k), 2 * _ELITES)
        plans = problem.clip(mean + spread * _coloured(generator, count, problem.shape))
        if k == config.iterations - 1:
            plans[0] = mean
        values = problem.values(plans)
        plans, values = np.concatenate([plans, elites]), np.concatenate([values, elite_values])
        order = np.argsort(np.where(np.isnan(values), np.inf, values))[:_ELITES]
        search.offer(plans, values)
        mean = _MOMENTUM * mean + (1 - _MOMENTUM) * plans[order].mean(axis=0)
        spread = _MOMENTUM * spread + (1 - _MOMENTUM) * plans[order].std(axis=0)
        kept = order[: max(1, int(_KEPT * _ELITES))]
        elites, elite_values = plans[kept], values[kept]
        done = k + 1
    return search.solution(done)


def _coloured(generator: np.random.Generator, count: int, shape: tuple[int, int]) -> np.ndarray:
    """Noise (count, N, L) with power falling as frequency^-colour along the horizon, unit variance."""
    steps, prices = shape
    frequency = np.fft.rfftfreq(steps)
    frequency[0] = frequency[1] if steps > 1 else 1.0
    scale = frequency ** (-_COLOUR / 2)
    size = (count, prices, len(frequency))
    spectrum = (generator.standard_normal(size) + 1j * generator.standard_normal(size)) * scale
    noise = np.fft.irfft(spectrum, n=steps, axis=-1)
    noise /= noise.std() + 1e-12
    return noise.transpose(0, 2, 1)
