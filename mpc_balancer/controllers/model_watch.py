"""Does the system model agree with the plant? While it does not, a rule that needs no model must steer.

The test asks what matters to control: does the model foretell the next reading better than a forecast without a model? That
forecast is the better of two: CPU stays, or CPU follows traffic. No size of errors has to be known beforehand, so that noisy readings or a
restless day raise no alarm. A second test asks whether λ's moves do what the model says: its errors are regressed on the effects that it
foretold of them. A model that makes too little of λ moves it too far, and the loop swings. Then even a forecast without a model is poor.
A third asks whether errors are white: those of a right model change their sign every other time. It only says so and takes nothing away.

A model that lost may return once it has led for a while; each time it loses again, that while doubles.
"""

from __future__ import annotations

from collections import deque

import numpy as np

from mpc_balancer.config import WatchConfig
from mpc_balancer.stateful import Stateful

_ERROR = 1.0  # log errors count as no more than this
_DOUBT, _FEWEST = 2.5, 12  # standard errors, intervals
_FEWEST_SIGNS = 40  # intervals


class ModelWatch(Stateful):
    """Follows one-step log errors of the model and of forecasts without one, (D,) per interval."""

    STATE = ["agrees", "_errors", "_seen", "_good", "_wrong", "_wait", "_last_cpu", "_last_qps", "_past", "_moments"]
    STATE += ["effects_wrong", "_last_sign"]

    def __init__(self, services: int, config: WatchConfig) -> None:
        self.config = config
        self.agrees = True
        self.effects_wrong = False  # it lost for what it says of λ, and did not return since
        self._errors = np.zeros((4, services))  # smoothed: squared log errors, model and two plain forecasts; log error
        self._moments = np.zeros(
            (6, services)
        )  # smoothed: effect, error, effect², effect·error, error², sign·sign before
        self._last_sign = np.zeros(services)  # of the model's last error
        self._seen = 0
        self._good, self._wrong = 0, 0  # intervals in a row in which the model led, or was wrong and had just erred
        self._wait = config.return_steps
        self._last_cpu, self._last_qps = np.full(services, np.nan), np.nan
        self._past: deque[np.ndarray] = deque(maxlen=30)  # _errors, _moments and whether it agreed, (11, D)

    def forget(self, services: np.ndarray, steps: np.ndarray) -> None:
        """Undo what the last ``steps`` (D,) readings of ``services`` (D,) did: they turned out to be of a stuck sensor."""
        for j in np.flatnonzero(services):
            if len(self._past):
                then = self._past[-min(int(steps[j]), len(self._past))][:, j]
                self._errors[:, j], self._moments[:, j] = then[:4], then[4:10]
                self.agrees = self.agrees or bool(then[10])

    def update(self, cpu: np.ndarray, predicted: np.ndarray, qps: float, effect: np.ndarray | float = 0.0) -> None:
        """Take in an interval's CPU (D,), NaN where lost, what the model had said of it, its traffic, and the log effect (D,) on it that the
        model foretold of the last move of λ."""
        self._past.append(np.vstack([self._errors, self._moments, np.full(len(cpu), self.agrees)]))
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
        self._take_effect(np.where(known, np.nan_to_num(effect), 0.0), every[0], known)
        self._judge(np.abs(every[0]))

    def _take_effect(self, effect: np.ndarray, error: np.ndarray, known: np.ndarray) -> None:
        share = np.where(known, max(self.config.effect_memory, 1 / self._seen), 0.0)
        sign = np.where(known, np.sign(error), self._last_sign)
        products = [effect, error, effect**2, effect * error, error**2, sign * self._last_sign]
        self._moments += share * (np.array(products) - self._moments)
        self._last_sign = sign

    @property
    def excess(self) -> tuple[np.ndarray, np.ndarray]:
        """What λ's moves do beyond what the model says, as a share of that (D,), and its standard error (D,)."""
        effect, error, squares, product, errors = self._moments[:5]
        spread = np.maximum(squares - effect**2, 1e-12)
        slope = (product - effect * error) / spread
        left = np.maximum(errors - error**2 - slope**2 * spread, 1e-12)
        count = min(self._seen, (2 - self.config.effect_memory) / self.config.effect_memory)
        return slope, np.sqrt(left / (spread * max(count - 2, 1)))

    @property
    def underrates(self) -> np.ndarray:
        """Where λ's moves do so much more than the model says (D,) that it moves λ too far."""
        slope, deviation = self.excess
        return np.asarray((slope - _DOUBT * deviation > self.config.too_strong) & (self._seen >= _FEWEST))

    @property
    def one_sided(self) -> np.ndarray:
        """Where errors keep their sign (D,): the mean product of successive signs is far from the 0 of white errors."""
        return np.asarray((self._moments[5] > self.config.one_sided) & (self._seen >= _FEWEST_SIGNS))

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
        off |= self.underrates
        led = not off.any() and bool(((self.ratio < 1) | (self.error < own.least_error / 2)).all())
        if self.effects_wrong:  # then it must be shown right, not only no longer shown wrong
            slope, deviation = self.excess
            led = led and bool((slope + _DOUBT * deviation < own.too_strong).all())
        self._good = self._good + 1 if led else 0
        self._wrong = self._wrong + 1 if (off & ((last > own.least_error / 2) | self.underrates)).any() else 0
        self.effects_wrong |= bool(self.underrates.any())
        if self.agrees and self._wrong >= own.patience:
            self.agrees = False
        elif not self.agrees and self._good >= self._wait:
            self.agrees, self.effects_wrong = True, False
            self._wait = min(2 * self._wait, own.longest_return_steps)
