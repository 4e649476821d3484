"""Utilisation and over-utilisation (Eqs. 21, 22), recovery times and λ moves of a run."""

from __future__ import annotations

from typing import Any

import numpy as np


def utilisation(cpu: np.ndarray, budget: np.ndarray | float) -> float | np.ndarray:
    """μ = mean min(C_t, C_m) / C_m over minutes (axis 0), Eq. 21; NaN minutes are left out. Per service for (T, D)."""
    return _mean(np.minimum(cpu, budget) / budget)


def over_utilisation(cpu: np.ndarray, budget: np.ndarray | float) -> float | np.ndarray:
    """ν = mean (max(C_t, C_m) - C_m) / C_m over minutes (axis 0), Eq. 22; NaN minutes are left out."""
    return _mean((np.maximum(cpu, budget) - budget) / budget)


def _mean(values: np.ndarray) -> float | np.ndarray:
    values = np.asarray(values, np.float64)
    if not np.isfinite(values).any():
        raise ValueError("no known CPU in the run")
    mean = np.nanmean(values, axis=0)
    return float(mean) if np.ndim(mean) == 0 else mean


def recoveries(cpu: np.ndarray, budget: np.ndarray, alarm: float = 88.0, tolerance: float = 3.0) -> list[int]:
    """Minutes from each time that any CPU (T, D) reaches ``alarm`` percent until all are within budget + ``tolerance``."""
    found, since = [], None
    for minute, row in enumerate(cpu):
        if since is None and np.nanmax(row, initial=-np.inf) >= alarm:
            since = minute
        elif since is not None and np.all(row <= budget + tolerance):
            found.append(minute - since)
            since = None
    return found if since is None else [*found, len(cpu) - since]


def per_minute(cpu: np.ndarray, steps_per_minute: int) -> np.ndarray:
    """CPU of shorter control steps (T·n, D) as means over minutes (T, D), so that all runs are judged alike."""
    whole = len(cpu) // steps_per_minute * steps_per_minute
    return np.asarray(cpu[:whole].reshape(-1, steps_per_minute, cpu.shape[1]).mean(axis=1))


def run_metrics(
    cpu: np.ndarray,
    prices: np.ndarray,
    budget: np.ndarray,
    step_seconds: np.ndarray | None = None,
    clairvoyant_cpu: np.ndarray | None = None,
) -> dict[str, Any]:
    """All metrics of a run: cpu (T, D) true percent, prices (T, L), wall seconds per controller step (T,)."""
    budget = np.broadcast_to(np.asarray(budget, np.float64), cpu.shape[1:])
    mu, nu = np.atleast_1d(utilisation(cpu, budget)), np.atleast_1d(over_utilisation(cpu, budget))
    times = recoveries(cpu, budget)
    out: dict[str, Any] = {
        "mu": float(mu.mean()),
        "nu": float(nu.mean()),
        "mu_per_service": mu.tolist(),
        "nu_per_service": nu.tolist(),
        "recoveries": len(times),
        "recovery_minutes_max": int(max(times, default=0)),
        "lambda_move_mean": float(np.abs(np.diff(prices, axis=0)).mean()) if len(prices) > 1 else 0.0,
    }
    if step_seconds is not None and len(step_seconds):
        p50, p99 = np.percentile(np.asarray(step_seconds) * 1000, [50, 99])
        out |= {"solve_ms_p50": float(p50), "solve_ms_p99": float(p99)}
    if clairvoyant_cpu is not None:
        bound = np.atleast_1d(utilisation(clairvoyant_cpu, budget))
        out["mu_of_clairvoyant"] = float((mu / bound).mean())
    return out
