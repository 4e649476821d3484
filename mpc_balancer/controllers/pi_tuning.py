"""Tuning of the PI controllers on the same table that MPC learns from: closed loop against the system model, many at once."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from marca_common.errors import UserError
from marca_common.seeding import numpy_generator
from mpc_balancer.controllers.pi_law import CostCurve, pi_step
from mpc_balancer.forecasting.traffic_forecast import TrafficForecast, one_step_forecasts
from mpc_balancer.system_model.minute_table import SystemData
from mpc_balancer.system_model.model import SystemModel
from mpc_balancer.system_model.tuned import PiGains

OVER_PRICE = 8.0  # a point above the budget costs this many points below: E(over)/E(under) near that of ν = 0.64 %
LEAST_CPU = 0.5  # percent; a service that rests still shows this much
_ROUNDS, _PER_ROUND = 3, 20

PI_KINDS = ("pi", "pi_feedforward", "pi_forecast")
Score = Callable[[Sequence[PiGains]], np.ndarray]


def search_gains(
    score: Score, feedforward: bool, seed: int, rounds: int = _ROUNDS, per_round: int = _PER_ROUND
) -> PiGains:
    """Random search narrowing around the best: ``score`` maps gains to costs (lower is better)."""
    generator = numpy_generator(seed, "mpc_balancer", "pi_gains", int(feedforward))
    best, best_cost, width = PiGains(0.3, 0.3, 1.0, 0.9 if feedforward else 0.0), np.inf, 1.0
    for number in range(rounds):
        tried = [best, *(_near(best, width, feedforward, generator) for _ in range(per_round - 1))]
        costs = score(tried)
        i = int(np.argmin(np.where(np.isnan(costs), np.inf, costs)))
        if costs[i] < best_cost:
            best, best_cost = tried[i], float(costs[i])
        width = 0.5 ** (number + 1)
    return best


def tune_on_model(
    model: SystemModel,
    data: SystemData,
    kind: str,
    target: np.ndarray,
    seed: int = 0,
    days: float = 1.0,
    delay: int = 0,
    reading_noise: float = 0.0,
    candidates: int = _PER_ROUND,
) -> PiGains:
    """Gains of one of PI_KINDS for the last ``days`` of each group's table, simulated with the model, its noise and that
    traffic; ``delay`` steps until a price acts, and readings noisier by ``reading_noise`` points."""
    scenes = [
        _Scene(model, data.take(np.flatnonzero(data.group == g)), g, kind, target, seed, days, delay, reading_noise)
        for g in range(len(data.groups))
        if (data.group == g).sum() > 50
    ]
    if not scenes:
        raise UserError(
            f"system table: got {len(data)} rows; tuning expects more than 50 of one group (or tune_pi: false)"
        )
    return search_gains(
        lambda gains: np.mean([scene.costs(gains) for scene in scenes], axis=0),
        kind != "pi",
        seed,
        per_round=candidates,
    )


def _near(best: PiGains, width: float, feedforward: bool, generator: np.random.Generator) -> PiGains:
    factor = np.exp(width * generator.uniform(-2.2, 1.6, 2))
    down = float(np.clip(best.down_factor * np.exp(width * generator.uniform(-1.2, 0.6)), 0.15, 1.5))
    ff = float(np.clip(best.feedforward + width * generator.uniform(-0.5, 0.3), 0, 1.2)) if feedforward else 0.0
    return PiGains(float(best.kp * factor[0]), float(best.ki * factor[1]), down, ff)


class _Scene:
    """One group's days: traffic, forecasts and noise drawn once, so that all gains meet the same luck."""

    def __init__(
        self,
        model: SystemModel,
        data: SystemData,
        group: int,
        kind: str,
        target: np.ndarray,
        seed: int,
        days: float,
        delay: int,
        reading_noise: float,
    ) -> None:
        feedforward = kind != "pi"
        rows = int(days * 86_400 / model.step_seconds)
        data = data.take(np.arange(max(0, len(data) - rows), len(data)))
        self.model, self.target, self.delay = model, target, delay
        count = len(data)
        before = np.concatenate([data.qps[:1], data.qps[:-1]])
        times = data.timestamps - data.step
        self.inputs = model.features.rows(np.full(count, group), before, data.qps, times, data.extras, np.zeros(count))
        self.traffic = data.qps / model.features.traffic_mean[group]
        generator = numpy_generator(seed, "mpc_balancer", "tune", group)
        self.noise = model.noise[generator.integers(0, len(model.noise), count)]  # (T, D)
        self.blur = reading_noise * generator.standard_normal(self.noise.shape)
        self.curve = CostCurve.from_model(model, group) if feedforward else CostCurve.identity(model.prices.size)
        self.push = self._pushes(data, group, kind) if feedforward else np.zeros(count)
        self.feedforward = feedforward

    def _pushes(self, data: SystemData, group: int, kind: str) -> np.ndarray:
        fitted = TrafficForecast.persistence(1, self.model.step_seconds)
        if kind == "pi_forecast":
            fitted = self.model.traffic_forecast(self.model.features.groups[group])
        coming = one_step_forecasts(fitted, data.timestamps, data.qps, data.arrivals)
        return np.diff(np.log(np.maximum(coming, 1e-9)), prepend=np.log(max(coming[0], 1e-9)))

    def costs(self, gains: Sequence[PiGains]) -> np.ndarray:
        """Mean under-use plus OVER_PRICE times mean over-use, relative to the target, per gains (P,); best of some offsets."""
        offsets = np.array([0.0, -0.015, -0.035])
        table = np.array([[g.kp, g.ki, g.down_factor, g.feedforward] for g in gains])  # (P, 4)
        every = np.repeat(table, len(offsets), axis=0)[:, :, None]  # (P·O, 4, 1)
        aim = np.tile(1 + offsets, len(gains))[:, None] * self.target  # (P·O, D)
        cpu = self._simulate(every, aim)  # (T, P·O, D)
        under = np.maximum(self.target - cpu, 0).mean(axis=(0, 2)) / self.target.mean()
        over = np.maximum(cpu - self.target, 0).mean(axis=(0, 2)) / self.target.mean()
        return np.asarray((under + OVER_PRICE * over).reshape(len(gains), -1).min(axis=1))

    def _simulate(self, gains: np.ndarray, aim: np.ndarray) -> np.ndarray:
        """CPU (T, P, D) of P closed loops side by side."""
        count, prices = len(aim), self.model.prices.size
        state = self.curve.to_relief(np.full((count, prices), 0.5))
        cpu, last = aim.copy(), np.full((count, prices), np.nan)
        out = np.empty((len(self.traffic), count, aim.shape[1]))
        queue = [self.curve.to_unit(state)] * (self.delay + 1)
        one = np.ones((count, 1), np.float32)
        for t in range(len(self.traffic)):
            cpu = self.model.step_rows(cpu, queue[0], one * self.inputs[t], one[:, 0] * self.traffic[t])
            cpu = np.maximum(cpu + self.noise[t], LEAST_CPU)
            out[t] = cpu
            error = np.log(np.clip(cpu + self.blur[t], LEAST_CPU, 100) / aim)
            error = error if prices == error.shape[1] else np.repeat(error.max(axis=1, keepdims=True), prices, axis=1)
            low = np.minimum(error, 0) if self.feedforward else 0.0
            state = pi_step(
                state,
                error,
                last,
                gains[:, 0],
                gains[:, 1],
                gains[:, 2],
                gains[:, 3] * self.push[t],
                self.curve.top,
                low,
            )
            last = error
            queue = [*queue[1:], self.curve.to_unit(state)]
        return out
