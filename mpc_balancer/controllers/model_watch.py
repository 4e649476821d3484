"""Does the system model agree with the plant? While it does not, a rule that needs no model must steer.

The test asks what matters to control: does the model foretell the next reading better than a forecast without a model? That
forecast is the better of two: CPU stays, or CPU follows traffic. No size of errors has to be known beforehand, so that noisy readings or a
restless day raise no alarm. A model that lost may return once it has led for a while; each time it loses again, that while doubles.
"""

from __future__ import annotations

from collections import deque

import numpy as np

from mpc_balancer.config import WatchConfig

_ERROR = 1.0  # log errors count as no more than this


class ModelWatch:
    """Follows one-step log errors of the model and of forecasts without one, (D,) per interval."""

    def __init__(self, services: int, config: WatchConfig) -> None:
        self.config = config
        self.agrees = True
        self._errors = np.zeros(
            (4, services)
        )  # smoothed: squared log errors of the model, of two plain forecasts; log error
        self._seen = 0
        self._good, self._wrong = 0, 0  # intervals in a row in which the model led, or was wrong and had just erred
        self._wait = config.return_steps
        self._last_cpu, self._last_qps = np.full(services, np.nan), np.nan
        self._past: deque[tuple[np.ndarray, bool]] = deque(maxlen=30)

    def forget(self, services: np.ndarray, steps: np.ndarray) -> None:
        """Undo what the last ``steps`` (D,) readings of ``services`` (D,) did: they turned out to be of a stuck sensor."""
        for j in np.flatnonzero(services):
            if len(self._past):
                then, agreed = self._past[-min(int(steps[j]), len(self._past))]
                self._errors[:, j] = then[:, j]
                self.agrees = self.agrees or agreed

    def update(self, cpu: np.ndarray, predicted: np.ndarray, qps: float) -> None:
        """Take in an interval's CPU (D,), NaN where lost, what the model had said of it, and its traffic."""
        self._past.append((self._errors.copy(), self.agrees))
        with np.errstate(invalid="ignore", divide="ignore"):
            model = np.log(cpu / predicted)
            stays = np.log(cpu / self._last_cpu)
            follows = stays - np.log(np.float64(qps) / self._last_qps)
        self._last_cpu, self._last_qps = np.where(np.isfinite(cpu), cpu, self._last_cpu), qps
        every = np.array([model, stays, follows])
        known = np.isfinite(every).all(axis=0) & (cpu > 0)
        if not known.any():
            return
        every = np.clip(np.where(known, every, 0.0), -_ERROR, _ERROR)
        self._seen += 1
        share = np.where(known, max(self.config.memory, 1 / self._seen), 0.0)
        self._errors += share * (np.concatenate([every**2, every[:1]]) - self._errors)
        self._judge(np.abs(every[0]))

    @property
    def error(self) -> np.ndarray:
        """Smoothed size of the model's log errors (D,)."""
        return np.asarray(np.sqrt(self._errors[0]))

    @property
    def ratio(self) -> np.ndarray:
        """The model's error over that of the better forecast without a model (D,)."""
        return np.asarray(self.error / np.maximum(np.sqrt(self._errors[1:3].min(axis=0)), 1e-4))

    def _judge(self, last: np.ndarray) -> None:
        own = self.config
        off = (self.error > own.least_error) & ((self.ratio > own.worse) | (np.abs(self._errors[3]) > own.bias))
        led = not off.any() and bool(((self.ratio < 1) | (self.error < own.least_error / 2)).all())
        self._good = self._good + 1 if led else 0
        self._wrong = self._wrong + 1 if (off & (last > own.least_error / 2)).any() else 0
        if self.agrees and self._wrong >= own.patience:
            self.agrees = False
        elif not self.agrees and self._good >= self._wait:
            self.agrees = True
            self._wait = min(2 * self._wait, own.longest_return_steps)
