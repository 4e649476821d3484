"""Traffic of the coming minutes: persistence, seasonal-naive, AR and early-signal forecasts, back-tested before use.

Every candidate is a linear model of the log change log q(t+h) - log q(t). It is fitted per horizon on the earlier part of
the history and judged on the later part. One is used at a horizon only where it beats persistence there.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from mpc_balancer.forecasting.event_calendar import Calendar
from mpc_balancer.stateful import Stateful

_LAGS = 3  # log differences used by AR
_EARLY = 3  # last sub-intervals used by the early signal
_WINDOW_SECONDS = 900  # over which the local level is averaged; AR learns how fast traffic returns to it
_CLIP = 0.3  # log changes beyond this are events, not the habits an AR learns; the local level starts anew after one
_GAIN = 0.99  # a candidate must have less than this share of persistence's RMSE
CANDIDATES = ("persistence", "seasonal_naive", "ar", "early")


@dataclass
class TrafficForecast:
    """Fitted forecasts of one group; ``chosen`` names the candidate per horizon."""

    season: np.ndarray  # (P,) log traffic by step of the day
    step_seconds: int
    chosen: list[str]  # (H,)
    weights: np.ndarray  # (H, F) weights of all features; zero where a candidate does not use them
    rmse: dict[str, list[float]]  # back-tested RMSE of log traffic per candidate and horizon

    @classmethod
    def persistence(cls, horizon: int, step_seconds: int = 60) -> TrafficForecast:
        """The forecast that traffic stays as it is."""
        size = _LAGS + 2 + _EARLY
        return cls(np.zeros(1), step_seconds, ["persistence"] * horizon, np.zeros((horizon, size)), {})

    def to_dict(self) -> dict[str, Any]:
        """Plain values for a checkpoint."""
        return {**vars(self), "season": self.season.tolist(), "weights": self.weights.tolist()}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> TrafficForecast:
        """The forecast that ``to_dict`` described."""
        return cls(**{**values, "season": np.array(values["season"]), "weights": np.array(values["weights"])})

    def whole(self) -> bool:
        """Whether all parts have the sizes that fitting gives them."""
        return (
            isinstance(self.step_seconds, int)
            and self.step_seconds > 0
            and isinstance(self.rmse, dict)
            and self.season.ndim == 1
            and len(self.season) > 0
            and self.weights.shape == (len(self.chosen), _LAGS + 2 + _EARLY)
            and len(self.chosen) > 0
            and all(name in CANDIDATES for name in self.chosen)
        )

    @property
    def window(self) -> int:
        """Steps of history that the local level is averaged over."""
        return max(_LAGS + 1, _WINDOW_SECONDS // self.step_seconds)

    def phase(self, timestamp: np.datetime64 | np.ndarray) -> np.ndarray:
        """Position in the season, an index into ``season``."""
        seconds = np.asarray(timestamp).astype("datetime64[s]").astype(np.int64)
        return np.asarray((seconds // self.step_seconds) % len(self.season))

    def predict(self, history: np.ndarray, arrivals: np.ndarray | None, timestamp: np.datetime64) -> np.ndarray:
        """Traffic of the next H steps (H,), from the latest values (oldest first), the last of the step at ``timestamp``."""
        log = np.log(np.maximum(history, 1e-6))
        changes = np.diff(log)[::-1]
        lags = np.zeros(_LAGS)
        lags[: len(changes)] = _habit(changes[:_LAGS])
        events = np.flatnonzero(np.abs(changes[: self.window - 1]) > _CLIP)
        since = int(events[0]) + 1 if len(events) else self.window
        early = _early(arrivals[None])[0] if arrivals is not None else np.zeros(_EARLY)
        phase = int(self.phase(timestamp))
        now = self.season[phase]
        ahead = self.season[(phase + np.arange(1, len(self.chosen) + 1)) % len(self.season)]
        deviation = log - self.season[(phase - np.arange(len(log))[::-1]) % len(self.season)]
        excess = np.clip(deviation[-1] - deviation[-since:].mean(), -_CLIP / 2, _CLIP / 2)
        features = np.empty((len(ahead), self.weights.shape[1]))  # (H, F)
        features[:, :_LAGS], features[:, _LAGS] = lags, ahead - now
        features[:, _LAGS + 1], features[:, _LAGS + 2 :] = excess, early
        change = (features * self.weights).sum(axis=1)
        return np.asarray(history[-1] * np.exp(np.clip(change, -1.0, 1.0)))


def fit_forecast(
    qps: np.ndarray,
    timestamps: np.ndarray,
    arrivals: np.ndarray | None,
    horizon: int,
    step_seconds: int = 60,
    holdout: float = 0.3,
) -> TrafficForecast:
    """Fit and back-test all candidates on one group's contiguous history (T,); see the module text."""
    result = TrafficForecast.persistence(horizon, step_seconds)
    cut = int(len(qps) * (1 - holdout))
    if cut < 200 or len(qps) - cut < 100:
        return result
    log = np.log(np.maximum(qps, 1e-6))
    result.season = _season(log[:cut], timestamps[:cut], step_seconds)
    result.rmse = {name: [] for name in CANDIDATES if name != "early" or arrivals is not None}
    for h in range(1, horizon + 1):
        features, change = _design(result, log, timestamps, arrivals, h)
        past = np.arange(len(change)) + result.window - 1 < cut - h
        tried = {name: _candidate(name, features, change, past) for name in result.rmse}
        errors = {
            name: float(np.sqrt(np.mean((features[~past] @ w - change[~past]) ** 2))) for name, w in tried.items()
        }
        for name, error in errors.items():
            result.rmse[name].append(error)
        best = min(errors, key=lambda name: errors[name])
        if errors[best] >= _GAIN * errors["persistence"]:
            best = "persistence"
        result.chosen[h - 1] = best
        result.weights[h - 1] = tried[best]
    return result


def _design(
    result: TrafficForecast, log: np.ndarray, timestamps: np.ndarray, arrivals: np.ndarray | None, h: int
) -> tuple[np.ndarray, np.ndarray]:
    """Features (n, D) and log changes (n,) of horizon h, at rows _LAGS … T-h."""
    rows = np.arange(result.window - 1, len(log) - h)
    change = np.diff(log)
    lags = np.column_stack([_habit(change[rows - 1 - k]) for k in range(_LAGS)])
    phase = result.phase(timestamps)
    now = result.season[phase[rows]]
    ahead = result.season[(phase[rows] + h) % len(result.season)]
    deviation = log - result.season[phase]
    level = pd.Series(deviation).rolling(result.window).mean().to_numpy()
    excess = np.clip(deviation - level, -_CLIP / 2, _CLIP / 2)
    early = _early(arrivals[rows]) if arrivals is not None else np.zeros((len(rows), _EARLY))
    return np.column_stack([lags, ahead - now, excess[rows], early]), log[rows + h] - log[rows]


def _habit(change: np.ndarray) -> np.ndarray:
    """Log changes, events left out."""
    return np.where(np.abs(change) <= _CLIP, change, 0.0)


def _candidate(name: str, features: np.ndarray, change: np.ndarray, past: np.ndarray) -> np.ndarray:
    """Weights (F,) of one candidate; ridge on the past rows with events clipped away."""
    size = features.shape[1]
    weights = np.zeros(size)
    if name == "seasonal_naive":
        weights[_LAGS] = 1.0
    if name in ("persistence", "seasonal_naive"):
        return weights
    used = np.arange(size) if name == "early" else np.arange(_LAGS + 2)
    x = features[past][:, used]
    y = np.clip(change[past], -_CLIP, _CLIP)
    weights[used] = np.linalg.solve(x.T @ x + 1e-3 * len(x) * 1e-3 * np.eye(len(used)), x.T @ y)
    return weights


def _early(arrivals: np.ndarray) -> np.ndarray:
    """Log ratio of the last sub-intervals to their minute's mean (n, _EARLY), newest first; 0 where there is none."""
    mean = arrivals.mean(axis=1, keepdims=True)
    out = np.zeros((len(arrivals), _EARLY))
    take = min(_EARLY, arrivals.shape[1])
    ratio = np.log(np.maximum(arrivals[:, ::-1][:, :take], 0.5) / np.maximum(mean, 0.5))
    out[:, :take] = np.clip(np.nan_to_num(ratio), -1, 1)
    return out


def _season(log: np.ndarray, timestamps: np.ndarray, step_seconds: int) -> np.ndarray:
    """Median log traffic per step of the day, smoothed over a quarter of an hour; empty steps are interpolated."""
    period = 86_400 // step_seconds
    phase = (timestamps.astype("datetime64[s]").astype(np.int64) // step_seconds) % period
    by_phase = pd.Series(log).groupby(phase).median()
    values = np.interp(np.arange(period), by_phase.index.to_numpy(), by_phase.to_numpy(), period=period)
    width = max(1, 900 // step_seconds)
    wrapped = np.concatenate([values[-width:], values, values[:width]])
    return np.convolve(wrapped, np.ones(width) / width, mode="same")[width:-width]


class Forecaster(Stateful):
    """Runs a fitted forecast online, with the calendar of planned events on top."""

    STATE = ["_history", "_arrivals", "time"]

    def __init__(self, fitted: TrafficForecast, calendar: Calendar | None) -> None:
        self.fitted = fitted
        self.calendar = calendar or Calendar([])
        self._history: list[float] = []
        self._arrivals: np.ndarray | None = None
        self.time = np.datetime64("1970-01-01", "s")

    def update(self, timestamp: np.datetime64, qps: float, arrivals: Sequence[float] | np.ndarray | None) -> None:
        """Take in the interval just ended; a lost (NaN) reading repeats the last one."""
        self.time = np.datetime64(str(timestamp), "s")
        lost = not np.isfinite(qps) or qps < 0
        if lost and not self._history:
            return
        planned = float(self.calendar.factor(self.time, self.fitted.step_seconds))
        self._history.append(self._history[-1] if lost else qps / planned)
        del self._history[: -self.fitted.window]
        usable = arrivals is not None and not lost and np.all(np.isfinite(np.asarray(arrivals, np.float64)))
        self._arrivals = np.asarray(arrivals, np.float64) if usable else None

    def predict(self, steps: int) -> np.ndarray:
        """Requests per second of the next ``steps`` intervals; beyond the fitted horizon the last value is held."""
        if not self._history:
            return np.zeros(steps)
        base = self.fitted.predict(np.array(self._history), self._arrivals, self.time)
        base = np.concatenate([base, np.full(max(steps - len(base), 0), base[-1])])[:steps]
        ahead = self.time + np.timedelta64(self.fitted.step_seconds, "s") * np.arange(1, steps + 1)
        return np.asarray(base * self.calendar.factor(ahead, self.fitted.step_seconds))


def one_step_forecasts(
    fitted: TrafficForecast, timestamps: np.ndarray, qps: np.ndarray, arrivals: np.ndarray | None
) -> np.ndarray:
    """What would have been forecast of the step after each row (T,), rows taken in one by one; no planned events."""
    forecaster = Forecaster(fitted, None)
    coming = np.empty(len(qps))
    for t in range(len(qps)):
        forecaster.update(timestamps[t], qps[t], None if arrivals is None else arrivals[t])
        coming[t] = forecaster.predict(1)[0]
    return coming
