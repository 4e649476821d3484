"""Where the plant is now: the model's state corrected by measurements, and its gain κ."""

from __future__ import annotations

import numpy as np

from mpc_balancer.config import GainConfig
from mpc_balancer.system_model import SystemModel
from mpc_balancer.table import SystemData
from mpc_balancer.windows import make_windows

RATES = (0.02, 0.05, 0.1, 0.2, 0.3, 0.45)
TRUSTS = (1.0, 0.7, 0.4)


def gain_step(
    log_gain: np.ndarray, measured: np.ndarray, predicted: np.ndarray, rate: float | np.ndarray, config: GainConfig
) -> np.ndarray:
    """log κ after one measurement: absorb ``rate`` of the log error, clipped; untouched where the reading is missing,
    saturated, or so far off that it is a fault rather than a gain. Broadcasts over leading axes."""
    with np.errstate(invalid="ignore", divide="ignore"):
        error = np.log(np.maximum(measured, 0.1) / np.maximum(predicted, 0.1))
        usable = np.isfinite(error) & (np.abs(error) <= config.freeze_log_error) & (measured < config.saturated_cpu)
    moved = log_gain + rate * np.where(usable, error, 0.0)
    return np.clip(moved, np.log(config.low), np.log(config.high))


def tune_observer(
    model: SystemModel, data: SystemData, config: GainConfig, limit: int = 3000
) -> tuple[float, float, np.ndarray]:
    """Back-test rates and trusts on ``data``; return the best pair and its one-step errors (n, S), actual traffic known.

    ``trust`` is the share of a CPU reading's surprise that enters the state; the rest is taken for measurement noise.
    """
    pairs = np.array([(rate, trust) for rate in RATES for trust in TRUSTS])  # (P, 2)
    errors = []
    for g in range(len(data.groups)):
        part = data.take(np.flatnonzero(data.group == g)[-limit:])
        if len(part) > 20:
            errors.append(run_observers(model, part, pairs, config))
    every = np.concatenate(errors)  # (n, P, S)
    score = np.nanmean(every**2, axis=(0, 2))
    best = int(np.argmin(score))
    return float(pairs[best, 0]), float(pairs[best, 1]), every[:, best]


def run_observers(model: SystemModel, data: SystemData, pairs: np.ndarray, config: GainConfig) -> np.ndarray:
    """One-step errors measured - predicted (n, P, S) of P (rate, trust) pairs run side by side over one group's rows."""
    windows = make_windows(data, model.features, model.prices, 1)
    count, size = len(pairs), len(model.services)
    rate, trust = pairs[:, :1], pairs[:, 1:]
    log_gain = np.zeros((count, size))
    state = np.tile(windows.cpu[0], (count, 1)).astype(np.float64)
    errors = np.full((len(windows), count, size), np.nan)
    for i in range(len(windows)):
        if i and windows.row[i] != windows.row[i - 1] + 1:
            state = np.tile(windows.cpu[i], (count, 1)).astype(np.float64)
        kappa = np.exp(log_gain)
        one = np.ones((count, 1), np.float32)
        predicted = kappa * model.step_rows(
            state / kappa, one * windows.unit[i, 0], one * windows.exogenous[i, 0], one[:, 0] * windows.traffic[i, 0]
        )
        measured = np.where(windows.mask[i, 0] > 0, windows.target[i, 0], np.nan)
        errors[i] = measured - predicted
        log_gain = gain_step(log_gain, measured, predicted, rate, config)
        state = np.where(np.isfinite(measured), predicted + trust * (measured - predicted), predicted)
    return errors[min(60, len(errors) // 2) :]


class Observer:
    """The online form for one controller."""

    def __init__(self, model: SystemModel, config: GainConfig) -> None:
        tuned = model.tuned.get("observer", {})
        self.model, self.config = model, config
        self.rate = config.rate if config.rate is not None else float(tuned.get("rate", 0.1))
        self.trust = float(tuned.get("trust", 1.0))
        self.log_gain = np.zeros(len(model.services))
        self.cpu = np.full(len(model.services), np.nan)
        self.cpu_before = self.cpu

    @property
    def gain(self) -> np.ndarray:
        """κ (S,)."""
        return np.exp(self.log_gain)

    def update(self, measured: np.ndarray, unit: np.ndarray, exogenous: np.ndarray, traffic: float) -> np.ndarray:
        """Take in one interval's CPU (S,) (NaN: lost), under the price in force and its traffic; return the prediction."""
        self.cpu_before = self.cpu
        known = np.isfinite(self.cpu)
        start = np.where(known, self.cpu, np.where(np.isfinite(measured), measured, 50.0))
        kappa = self.gain
        predicted = kappa * self.model.step_rows(
            (start / kappa)[None], unit[None], exogenous[None], np.array([traffic])
        )[0].astype(np.float64)
        if not np.all(np.isfinite(predicted)):
            self.cpu = np.where(np.isfinite(measured), measured, start)
            return predicted
        if known.all():
            self.log_gain = gain_step(self.log_gain, measured, predicted, self.rate, self.config)
        trusted = np.where(known, self.trust, 1.0)
        self.cpu = np.clip(
            np.where(np.isfinite(measured), predicted + trusted * (measured - predicted), predicted), 0, 200
        )
        return predicted
