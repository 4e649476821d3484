"""Where the plant is now: the model's state corrected by measurements, and its gain κ.

Two numbers decide how fast measurements are believed: ``rate`` (share of a log error that κ absorbs) and ``trust`` (share of
a CPU reading's surprise that enters the state; the rest is taken for noise). A bank of pairs runs side by side, in back-tests
and online, and the pair that predicted best of late is the one in use: noisier readings or a drifting cost need no retuning.
"""

from __future__ import annotations

from collections import deque

import numpy as np

from marca_common.errors import UserError
from mpc_balancer.config import GainConfig
from mpc_balancer.stateful import Stateful
from mpc_balancer.system_model.minute_table import SystemData
from mpc_balancer.system_model.model import SystemModel
from mpc_balancer.system_model.training_windows import make_windows
from mpc_balancer.system_model.tuned import ObserverTuning

RATES = (0.02, 0.05, 0.1, 0.2, 0.3, 0.45)
TRUSTS = (1.0, 0.7, 0.4, 0.2)
FEWEST_ROWS = 20  # rows a back-test can say anything from
_JUMP = 3.0  # times the usual size of errors; beyond it the plant moved, it is not noise
_LEAST = 0.002  # usual size of errors, log scale, is never taken for less: a quiet hour must not make all noise a jump
_MEMORY = 400  # intervals over which the bank's errors are compared online
_PAST = 30  # intervals that can be undone
_OUTLIER = 8.0  # CPU points beyond which an error says nothing more about a pair


class GainTracker(Stateful):
    """log κ: the online multiplicative correction of g, clipped, for any number of parallel rows.

    Each usable reading moves log κ by a share of its log error. The share is the tuned ``rate`` while errors alternate. It
    grows towards ``config.fast_rate`` while they keep one sign, as after a cost that stepped. The measure is Trigg and
    Leach's tracking signal |E|/A, E the smoothed error and A the smoothed size of errors. Readings that are missing, or so
    far off that they are a fault, change nothing. Saturated ones may raise κ, since the load was at least what was read.
    """

    STATE = ["log_gain", "_error", "_size"]

    def __init__(self, shape: tuple[int, ...], rate: float | np.ndarray, config: GainConfig) -> None:
        self.rate, self.config = rate, config
        self.log_gain = np.zeros(shape)
        self._error, self._size = np.zeros(shape), np.full(shape, 0.02)

    def copy(self) -> np.ndarray:
        """All that is known (3, …), for ``put_back``."""
        return np.array([self.log_gain, self._error, self._size])

    def put_back(self, copied: np.ndarray, service: int) -> None:
        """One service's column as it was when ``copied``."""
        for now, then in zip((self.log_gain, self._error, self._size), copied):
            now[..., service] = then[..., service]

    def update(self, measured: np.ndarray, predicted: np.ndarray) -> np.ndarray:
        """Take in one interval's CPU and what g with the present κ said of it, broadcastable to the shape; return where the
        error is beyond what noise explains (_JUMP times its usual size)."""
        config = self.config
        with np.errstate(invalid="ignore", divide="ignore"):
            error = np.log(np.maximum(measured, 0.1) / np.maximum(predicted, 0.1))
            usable = np.isfinite(error) & (np.abs(error) <= config.freeze_log_error)
            usable &= (measured < config.saturated_cpu) | (error > 0)
        error = np.where(usable, error, 0.0)
        jump = np.abs(error) > _JUMP * self._size
        memory = np.where(usable, config.tracking_memory, 0.0)
        self._error = self._error + memory * (error - self._error)
        moved = self._size + memory * (np.minimum(np.abs(error), _JUMP * self._size) - self._size)
        self._size = np.maximum(moved, _LEAST)
        signal = np.minimum(np.abs(self._error) / self._size, 1.0)
        rate = np.where(np.asarray(self.rate) > 0, np.maximum(self.rate, config.fast_rate * signal**4), 0.0)
        self.log_gain = np.clip(self.log_gain + rate * error, np.log(config.low), np.log(config.high))
        return jump


def bank(config: GainConfig) -> np.ndarray:
    """The (rate, trust) pairs (P, 2) that are compared; one rate where the config fixes it."""
    return np.array([(r, t) for r in (RATES if config.rate is None else (config.rate,)) for t in TRUSTS])


def tune_observer(model: SystemModel, data: SystemData, config: GainConfig, limit: int = 3000) -> ObserverTuning:
    """Back-test the bank on ``data``, the actual traffic known."""
    pairs = bank(config)
    errors = []
    for g in range(len(data.groups)):
        part = data.take(np.flatnonzero(data.group == g)[-limit:])
        if len(part) > FEWEST_ROWS:
            errors.append(run_observers(model, part, pairs, config))
    if not errors:
        raise UserError(
            f"system table: got {len(data)} validation rows; expected more than {FEWEST_ROWS} of at least one group"
        )
    every = np.concatenate(errors)  # (n, P, D)
    scores = np.nanmean(np.minimum(every**2, _OUTLIER**2), axis=(0, 2))
    best = int(np.argmin(scores))
    return ObserverTuning(float(pairs[best, 0]), float(pairs[best, 1]), scores, every[:, best])


def run_observers(model: SystemModel, data: SystemData, pairs: np.ndarray, config: GainConfig) -> np.ndarray:
    """One-step errors measured - predicted (n, P, D) of P (rate, trust) pairs run side by side over one group's rows."""
    windows = make_windows(data, model.features, model.prices, 1)
    state = _Bank(model, pairs, config)
    errors = np.full((len(windows), len(pairs), len(model.services)), np.nan)
    for i in range(len(windows)):
        if i == 0 or windows.row[i] != windows.row[i - 1] + 1:
            state.restart(windows.cpu[i])
        measured = np.where(windows.mask[i, 0] > 0, windows.target[i, 0], np.nan)
        predicted = state.step(measured, windows.unit[i, 0], windows.exogenous[i, 0], float(windows.traffic[i, 0]))
        errors[i] = measured - predicted
    return errors[min(60, len(errors) // 2) :]


class _Bank(Stateful):
    """P observers of one plant, one per (rate, trust) pair."""

    STATE = ["tracker", "cpu"]

    def __init__(self, model: SystemModel, pairs: np.ndarray, config: GainConfig) -> None:
        self.model, self.trust = model, pairs[:, 1:]
        self.tracker = GainTracker((len(pairs), len(model.services)), pairs[:, :1], config)
        self.cpu = np.full((len(pairs), len(model.services)), np.nan)

    def restart(self, cpu: np.ndarray) -> None:
        """Take the state from a reading."""
        self.cpu = np.tile(cpu, (len(self.trust), 1)).astype(np.float64)

    def step(self, measured: np.ndarray, unit: np.ndarray, exogenous: np.ndarray, traffic: float) -> np.ndarray:
        """Take in one interval's CPU (D,) (NaN: lost), under the price in force and its traffic; return what each
        observer said of it (P, D)."""
        known = np.isfinite(self.cpu).all(axis=0)
        reading = np.isfinite(measured)
        start = np.where(known, self.cpu, np.where(reading, measured, 50.0))
        kappa = np.exp(self.tracker.log_gain)
        one = np.ones((len(self.trust), 1), np.float32)
        predicted = kappa * self.model.step_rows(
            start / kappa, one * unit, one * exogenous, one[:, 0] * np.float32(traffic)
        ).astype(np.float64)
        if not np.isfinite(predicted).all():
            self.cpu = np.where(reading, measured, start)
            return np.full_like(predicted, np.nan)
        trusted = np.where(known, self.trust, 1.0)
        if known.all():
            jump = self.tracker.update(measured, predicted)
            trusted = np.where(jump, 1.0, trusted)
        self.cpu = np.clip(np.where(reading, predicted + trusted * (measured - predicted), predicted), 0, 200)
        return predicted


class Observer(Stateful):
    """The online form for one controller; the bank's best pair of late gives state and gain."""

    STATE = ["_scores", "_bank", "_seen", "_best", "cpu_before", "_past", "predicted"]

    def __init__(self, model: SystemModel, config: GainConfig) -> None:
        pairs = bank(config)
        prior = model.tuned.observer
        usable = prior is not None and len(prior.scores) == len(pairs)
        self._scores = prior.scores if prior is not None and usable else np.zeros(len(pairs))
        self._bank = _Bank(model, pairs, config)
        self._seen = _MEMORY // 4 if usable else 0  # the back-test counts as that many intervals
        self._best = int(np.argmin(self._scores))
        self.cpu_before = self.cpu
        self._past: deque[np.ndarray] = deque(maxlen=_PAST)
        self.predicted = np.full(len(model.services), np.nan)  # (D,) what was expected of the last interval, percent

    @property
    def model(self) -> SystemModel:
        """The system model in use."""
        return self._bank.model

    @model.setter
    def model(self, model: SystemModel) -> None:
        self._bank.model = model

    @property
    def cpu(self) -> np.ndarray:
        """CPU now (D,), percent; NaN before the first reading."""
        return np.asarray(self._bank.cpu[self._best])

    @property
    def gain(self) -> np.ndarray:
        """κ (D,)."""
        return np.asarray(np.exp(self._bank.tracker.log_gain[self._best]))

    @property
    def trust(self) -> float:
        """Trust of the pair in use."""
        return float(self._bank.trust[self._best, 0])

    def foretold(self, units: np.ndarray, exogenous: np.ndarray, traffic: float) -> np.ndarray:
        """CPU (n, D) of the coming interval under n prices in force (n, L), price coordinate."""
        one = np.ones((len(units), 1), np.float32)
        start = one * self.cpu / self.gain
        rows = self.model.step_rows(start, units, one * exogenous, one[:, 0] * np.float32(traffic))
        return np.asarray(self.gain * rows)

    def forget(self, services: np.ndarray, steps: np.ndarray) -> None:
        """Undo what the last ``steps`` (D,) readings of ``services`` (D,) did to κ: they turned out to be of a stuck sensor."""
        for j in np.flatnonzero(services):
            if len(self._past):
                self._bank.tracker.put_back(self._past[-min(int(steps[j]), len(self._past))], int(j))

    def update(self, measured: np.ndarray, unit: np.ndarray, exogenous: np.ndarray, traffic: float) -> None:
        """Take in one interval's CPU (D,) (NaN: lost), under the price in force and its traffic."""
        self._past.append(self._bank.tracker.copy())
        before = self.cpu
        predicted = self._bank.step(measured, unit, exogenous, traffic)  # (P, D)
        self.predicted = np.asarray(predicted[self._best])
        error = measured - predicted
        if np.isfinite(error).any() and np.isfinite(before).all():
            self._seen = min(self._seen + 1, _MEMORY)
            surprise = np.nanmean(np.minimum(error**2, _OUTLIER**2), axis=1)
            self._scores = self._scores + (surprise - self._scores) / self._seen
            self._best = int(np.argmin(self._scores))
        self.cpu_before = before
