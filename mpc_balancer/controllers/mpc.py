"""The model predictive controller and the degradation ladder around it.

Each interval: check the reading → correct state and gain → forecast traffic → search a plan → apply its first price. Where moves
of λ are not limited, a plan of one step says all, and its price is found by inversion of the model: no objective is needed.
When a rung fails the next one answers: solver → grid → PI → hold → λ max (CPU was high and readings are stale). A solver whose
time is up before it improved on its seeds has failed, and then there is no time for a grid. The PI (with feed-forward where
the model allows) runs along every interval, from the price that was given. So does a plain one for a model that makes too little of λ: the
other's gain schedule comes from that model. Its gains are the tuned ones and at most the untuned, since λ does more than either was made for.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from mpc_balancer.config import SolverConfig
from mpc_balancer.controllers.checked_reading import Reading
from mpc_balancer.controllers.delay_detector import DelayDetector
from mpc_balancer.controllers.margin import Margin
from mpc_balancer.controllers.model_watch import ModelWatch
from mpc_balancer.controllers.pi import PiController
from mpc_balancer.controllers.pi_feedforward import PiFeedforwardController
from mpc_balancer.controllers.pi_law import knows_prices
from mpc_balancer.controllers.price_controller import PriceController
from mpc_balancer.forecasting.traffic_forecast import Forecaster, TrafficForecast
from mpc_balancer.planning.control_problem import Problem
from mpc_balancer.planning.inversion import invert
from mpc_balancer.planning.objective import Start
from mpc_balancer.planning.solvers import find_solver, solve
from mpc_balancer.planning.solvers.seeds import shifted
from mpc_balancer.system_model.observer import Observer
from mpc_balancer.system_model.tuned import PiGains

log = logging.getLogger(__name__)


class MpcController(PriceController):
    """Receding-horizon control with the learned system model g."""

    STATE = [
        "observer",
        "forecaster",
        "delay",
        "backup",
        "cautious",
        "margin",
        "watch",
        "_generator",
        "_warm",
        "_stale",
        "_blind",
    ]
    STATE += ["_lost", "_stuck", "_extras", "_qps", "_last_cpu", "_acted"]

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        own, model = self.config.mpc, self.system_model
        find_solver(own.solver.name)  # a bad name is told at once; later the ladder would hide it
        self.objective = own.objective.resolved(self.config.moves, own.solver.name)
        self.now: Callable[[], float] = time.perf_counter
        self.group_index = model.features.group_index(self.group)
        self.observer = Observer(model, own.gain)
        self.forecaster = Forecaster(self._fitted_forecast(), self.calendar)
        self.delay = DelayDetector(self.scale, own.max_delay, own.delay)
        self.delay.command(self.lambda_)
        self.backup = PiFeedforwardController(
            self.config, self.group, self.services, self.scale, self.model, self.calendar
        )
        self.cautious = PiController(self.config, self.group, self.services, self.scale, self.model, self.calendar)
        self.cautious.gains = self.cautious.gains.smaller(PiGains())
        wanted = None if own.backoff_quantile is None else own.over_use
        rate = own.margin_rate * model.step_seconds / 60
        self.margin = Margin(model.backoff(own.backoff_quantile), self.target, wanted, rate)
        self.knows_prices = knows_prices(model, self.group_index)
        self._acted = self._unit(self.lambda_)  # the price in force in the last interval
        self.watch = ModelWatch(len(self.services), own.watch)
        self._generator = np.random.default_rng(own.solver.seed)
        self._warm: np.ndarray | None = None
        self._stale, self._blind = 0, 0  # control steps without CPU, without CPU and traffic
        self._lost = np.zeros(len(self.services))  # control steps without this service's CPU
        self._stuck = np.zeros(len(self.services), bool)
        self._extras = model.features.extras_mean.copy()
        self._qps = float("nan")
        self._last_cpu = np.full(len(self.services), np.nan)
        self.last_error: str | None = None

    def decide(self, reading: Reading) -> np.ndarray:
        """Climb down the ladder until a rung answers with finite prices."""
        self._take_in(reading)
        self._raise_alarms()
        rules = self.backup.decide(reading), self.cautious.decide(reading)  # both run along
        standby, price = rules[int(self.watch.effects_wrong)], None
        if self._may_use_model():
            late = self.rungs["timeout"]
            price = self._attempt("solver", self.config.mpc.solver)
            if price is None:
                self._warm = None  # a plan that led to a failure is no good start
            if price is None and self.rungs["timeout"] == late:
                grid = self.config.mpc.solver.model_copy(update={"name": "grid", "deadline_ms": None})
                price = self._attempt("grid", grid)
        if price is None:
            price = self._without_model(standby)
        return price

    def applied(self, lambda_: np.ndarray) -> None:
        """The PIs that run along go on from the price that was set; the delay detector notes it."""
        self.backup.follow(lambda_)
        self.cautious.follow(lambda_)
        self.delay.command(lambda_)

    def follow(self, lambda_: np.ndarray) -> None:
        """As the base's; the PI that runs along follows, and the last command was another one."""
        super().follow(lambda_)
        self.backup.follow(self.lambda_)
        self.cautious.follow(self.lambda_)
        self.delay.replace(self.lambda_)

    # -- taking in a measurement ------------------------------------------------------------------------------------
    def _take_in(self, reading: Reading) -> None:
        model, known = self.system_model, np.isfinite(reading.cpu)
        self._stale = 0 if known.any() else self._stale + 1
        self._blind = 0 if known.any() or np.isfinite(reading.qps) else self._blind + 1
        self._lost = np.where(known, 0, self._lost + 1)
        self._last_cpu = np.where(known, reading.cpu, self._last_cpu)
        self.delay.observe(reading.lambda_)
        before, self._qps = self._qps, reading.qps if np.isfinite(reading.qps) else self._qps
        self.forecaster.update(reading.timestamp, reading.qps, reading.arrivals)
        if np.isfinite(self._qps):
            step = np.timedelta64(model.step_seconds, "s")
            inputs = self._inputs(
                np.array([before if np.isfinite(before) else self._qps]),
                np.array([self._qps]),
                np.array([reading.timestamp - step]),
            )
            traffic = model.relative_traffic(np.array(self._qps), self.group_index) * self.calendar.load(
                reading.timestamp
            )
            self._correct(reading, inputs[0], float(traffic))
        values = [reading.extras.get(name, np.nan) for name in model.tuned.extras]
        self._extras = np.where(np.isfinite(values), values, self._extras) if values else self._extras

    def _correct(self, reading: Reading, inputs: np.ndarray, traffic: float) -> None:
        """State, κ and delay from one interval's CPU; then judge the model by what it had said of it."""
        stuck = self.checks.stuck.stuck
        for follower in (self.observer, self.watch):
            follower.forget(stuck & ~self._stuck, self.checks.stuck.run + 1)
        self._stuck = stuck
        tried = self.delay.candidates()
        if len(tried) and np.isfinite(self.observer.cpu).all() and np.isfinite(reading.cpu).all():
            foretold = self.observer.foretold(self._unit(self.scale.from_unit(tried)), inputs, traffic)
            self.delay.compare((np.log(np.maximum(reading.cpu, 0.1) / np.maximum(foretold, 0.1)) ** 2).max(axis=1))
        unit = self._unit(self.delay.acting(reading.lambda_))
        foretold = self.observer.foretold(np.array([unit, self._acted]), inputs, traffic)
        self._acted = unit
        self.observer.update(reading.cpu, unit, inputs, traffic)
        full = reading.cpu >= self.config.mpc.gain.saturated_cpu
        # a machine that is full can't do as much as was foretold, nor would a margin have kept it from filling
        judged = np.where(full & (reading.cpu < self.observer.predicted), np.nan, reading.cpu)
        self.watch.update(judged, self.observer.predicted, reading.qps, np.log(foretold[0] / foretold[1]))
        inside = (self.lambda_ > self.scale.low) & (self.lambda_ < self.scale.high) & ~self.moves.held
        inside &= self.watch.agrees
        known = np.isfinite(reading.cpu) & ~full
        self.margin.update(np.where(known, self.observer.cpu, np.nan), inside[self.price_of])

    def _raise_alarms(self) -> None:
        gain, error = self.observer.gain, 100 * self.watch.error.max()
        if not self.knows_prices:
            self.alarms.raise_(
                "prices_not_learnt", "the system model knows of no effect of λ; PI steers. Commission, then train"
            )
        if self.watch.underrates.any():
            times = 1 + self.watch.excess[0].max()
            self.alarms.raise_(
                "price_effect", f"λ's moves do {times:.1f} times what the system model says. Commission, then train"
            )
        if not self.watch.agrees:
            self.alarms.raise_(
                "model", f"the system model is off by {error:.0f} percent of CPU; PI steers. Train it again"
            )
        if self.watch.one_sided.any():
            self.alarms.raise_("one_sided", "the system model's errors keep their sign: it misses something that lasts")
        own = self.config.mpc.gain
        if ((gain <= own.low * 1.001) | (gain >= own.high * 0.999)).any():
            self.alarms.raise_(
                "gain", f"requests cost {gain.round(2)} times what the system model says, the most that is believed"
            )
        if self.delay.inferred and not self.delay.reported:
            self.alarms.raise_(
                "delay", f"prices act {self.delay.inferred} control steps late, though λ is reported as in force"
            )

    def _may_use_model(self) -> bool:
        ladder = self.config.mpc.ladder
        collapsed = self._stale > ladder.bridge_minutes and np.nanmax(self._last_cpu, initial=0.0) >= ladder.high_cpu
        right = self.knows_prices and self.watch.agrees and not self.odd_traffic
        return right and self._blind <= ladder.bridge_minutes and not collapsed

    def _unit(self, lambda_: np.ndarray) -> np.ndarray:
        prices = self.system_model.prices
        return prices.to_unit(np.clip(lambda_, prices.low, prices.high))

    def _inputs(self, qps: np.ndarray, next_qps: np.ndarray, timestamps: np.ndarray) -> np.ndarray:
        count = len(qps)
        return self.system_model.features.rows(
            np.full(count, self.group_index),
            qps,
            next_qps,
            timestamps,
            np.tile(self._extras, (count, 1)),
            np.arange(count, dtype=np.float64),
        )

    # -- the rungs ---------------------------------------------------------------------------------------------------
    def _attempt(self, rung: str, solver: SolverConfig) -> np.ndarray | None:
        """One solver's price, or None where it failed; whatever goes wrong must not stop the loop."""
        try:
            price = self._solve(solver)
        except Exception as error:  # the ladder exists for failures nobody foresaw
            self.last_error = f"{type(error).__name__}: {error}"
            log.warning("%s: %s failed: %s", self.group, rung, self.last_error)
            price = np.array([np.nan])
        if not np.all(np.isfinite(price)):
            self.rungs[f"{rung}_failed"] += 1
            return None
        self.rungs[rung] += 1
        return price

    def _solve(self, solver: SolverConfig) -> np.ndarray:
        problem, delay = self.problem()
        warm = self._warm if self._warm is not None and self._warm.shape == problem.shape else None
        if self.objective.horizon is None:
            return self.system_model.prices.from_unit(invert(problem, self.price_of))
        solution = solve(problem, solver, warm, self._generator)
        self.rungs["timeout"] += int(solution.timed_out)
        if not np.isfinite(solution.value) or (solution.timed_out and solution.iterations == 0):
            return np.array([np.nan])
        self._warm = shifted(solution.plan)
        return self.system_model.prices.from_unit(solution.plan[delay])

    def problem(self) -> tuple[Problem, int]:
        """The control problem of this moment, and how many leading steps are fixed by commands already given."""
        if not np.all(np.isfinite(self.observer.cpu)) or not np.isfinite(self._qps):
            raise ValueError("no measurement yet")
        model = self.system_model
        pending = self._pending()
        steps = (self.objective.horizon or 1) + len(pending)
        ahead = self.forecast(steps)
        self.expected_qps = float(ahead[0])
        step = np.timedelta64(model.step_seconds, "s")
        times = self.forecaster.time + step * np.arange(steps)
        low = np.tile(self._unit(self.scale.low), (steps, 1))
        high = np.tile(self._unit(self.scale.high), (steps, 1))
        low[: len(pending)] = high[: len(pending)] = np.clip(pending, low[: len(pending)], high[: len(pending)])
        start = Start(self.observer.cpu, self.observer.cpu_before, model.prices.to_unit(self.lambda_))
        load = self.calendar.load(times + step)
        return Problem(
            model,
            self.objective,
            self._target_now(),
            start,
            self._inputs(np.concatenate([[self._qps], ahead[:-1]]), ahead, times),
            (model.relative_traffic(ahead, self.group_index) * load).astype(np.float32),
            low,
            high,
            self.observer.gain,
            self.moves.reach(len(pending), steps),
            self.now,
        ), len(pending)

    def _target_now(self) -> np.ndarray:
        """The target (D,), lower where a service's CPU has not been read for long."""
        age = np.minimum(self._lost * self.system_model.step_seconds / 3600, 1.0)
        return np.asarray(self.target - self.margin.points - self.config.mpc.ladder.stale_margin * age)

    def _pending(self) -> np.ndarray:
        held = self.delay.pending()
        return self._unit(self.scale.from_unit(held)) if len(held) else held

    def forecast(self, steps: int) -> np.ndarray:
        """Traffic of the coming steps, requests per second (steps,)."""
        return self.forecaster.predict(steps)

    def _without_model(self, standby: np.ndarray) -> np.ndarray:
        ladder = self.config.mpc.ladder
        if self._stale == 0:
            self.rungs["pi"] += 1
            return standby
        high = np.nanmax(self._last_cpu) if np.isfinite(self._last_cpu).any() else 100.0
        if self._stale >= ladder.stale_minutes and high >= ladder.high_cpu:
            self.rungs["max"] += 1
            return self.scale.high
        self.rungs["hold"] += 1
        return self.lambda_

    def _fitted_forecast(self) -> TrafficForecast:
        model, horizon = self.system_model, self.objective.horizon or 1
        if self.config.mpc.forecast == "persistence":
            return TrafficForecast.persistence(horizon, model.step_seconds)
        return model.traffic_forecast(self.group, horizon)
