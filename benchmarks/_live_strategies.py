"""Who decides in the live run: mixtures by the hour or by feedback, or argmax Q − λC under a controller of λ."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

import mpc_balancer.train
from benchmarks._live_blocks import GROUP, SERVICE, measurement
from benchmarks._live_traffic import Day
from marca_common.config import load_config, replaced
from marca_common.protocols import Controller, Measurement
from marca_common.seeding import numpy_generator
from marca_common.system import system_table
from marca_common.tables import write_table
from marca_loop.dithered_price import DitheredPrice
from marca_loop.live_mpc import LiveMpc
from marca_measures.hull import chain
from marca_measures.static_mixture import static_mixture
from mpc_balancer.config import ControllerConfig, MpcConfig, ObjectiveConfig
from mpc_balancer.controllers import make_controller
from mpc_balancer.price_scale import PriceScale
from mpc_balancer.system_model.model import SystemModel

# The CPU target is a mean to be held, not a limit: as much is lost above it as below, and no margin is kept.
_INTERVALS = 144  # of a commissioned day
MPC = MpcConfig(objective=ObjectiveConfig(over_weight=1.0), backoff_quantile=None, over_use=None)


class Priced:
    """argmax Q(visit, a) − λ C(a) over distinct actions, λ by a controller."""

    def __init__(self, q: np.ndarray, cost: np.ndarray, controller: Controller) -> None:
        self.q, self.cost, self.controller = q, cost, controller  # (V, D), (D,)
        self._charge = cost * controller.lambda_[0]

    @property
    def price(self) -> np.ndarray:
        """λ in force, (1,), money per core-ms."""
        return self.controller.lambda_

    def choose(self, visit: int, share: float) -> int:
        """The action that is worth most at the present price."""
        return int(np.argmax(self.q[visit] - self._charge))

    def step(self, measurement: Measurement) -> None:
        """The controller sets the next price."""
        self._charge = self.cost * self.controller.step(measurement)[0]


class Hourly:
    """A mixture of fixed actions for every hour of the day, sized beforehand for the traffic that hour used to have."""

    price = np.zeros(1)

    def __init__(self, profile: np.ndarray, cost: np.ndarray, budgets: np.ndarray, day: Day, seed: int) -> None:
        """``budgets`` (H,): core-ms per request that each hour's traffic leaves."""
        cheapest = 1.001 * float(cost.min())
        self.mixtures = [static_mixture(profile, cost, max(float(one), cheapest)) for one in budgets]
        self.day, self.generator = day, numpy_generator(seed, "live", "static_hourly")

    def choose(self, visit: int, share: float) -> int:
        """An action drawn from the hour's mixture, whoever asks."""
        return int(self.mixtures[int(self.day.hour(share))].draw(self.generator.random(1))[0])

    def step(self, measurement: Measurement) -> None:
        """It never looks."""


class Blended:
    """The best mixture of fixed actions, the same for every request; its mean cost falls with λ (``Response.of_mixtures``)."""

    def __init__(
        self, profile: np.ndarray, cost: np.ndarray, response: Response, controller: Controller, seed: int
    ) -> None:
        self.actions = chain(profile, cost)  # two neighbours on the hull are the best mixture of their mean cost
        self.cost, self.response, self.controller = cost[self.actions], response, controller
        self.generator = numpy_generator(seed, "live", "static_feedback")
        self._place = self._on_hull()

    @property
    def price(self) -> np.ndarray:
        """λ in force, (1,): the share of what can be saved that is saved."""
        return self.controller.lambda_

    def choose(self, visit: int, share: float) -> int:
        """One of the two actions, drawn whoever asks."""
        first = int(self._place)
        return int(self.actions[first + (self.generator.random() < self._place - first)])

    def step(self, measurement: Measurement) -> None:
        """The controller sets the next mixture."""
        self.controller.step(measurement)
        self._place = self._on_hull()

    def _on_hull(self) -> float:
        """Place on the hull: 1.25 is three quarters of its action 1 and a quarter of its action 2."""
        mean = np.interp(self.price[0], self.response.prices, self.response.cost)
        return float(np.interp(mean, self.cost, np.arange(len(self.cost))))


@dataclass(frozen=True)
class Response:
    """What a price does to the mean cost of a request under one Q, by the cost maps."""

    prices: np.ndarray  # (G,) rising
    cost: np.ndarray  # core-ms per request, (G,)

    @classmethod
    def of(cls, q: np.ndarray, cost: np.ndarray) -> Response:
        """``q`` (V, D), ``cost`` (D,): of every visit the action that is worth most at each price."""
        slope = np.ptp(q.mean(axis=0)) / np.ptp(cost)
        prices = np.append(0.0, np.geomspace(1e-3, 1e3, 121) * slope)
        return cls(prices, np.array([cost[np.argmax(q - price * cost, axis=1)].mean() for price in prices]))

    @classmethod
    def of_mixtures(cls, profile: np.ndarray, cost: np.ndarray) -> Response:
        """``profile`` and ``cost`` (D,): a mixture's mean cost falls in a straight line, from the best action at 0 to the cheapest at 1."""
        ends = cost[chain(profile, cost)]
        prices = np.linspace(0.0, 1.0, 122)
        return cls(prices, ends[-1] + prices * (ends[0] - ends[-1]))

    def scale(self) -> PriceScale:
        """From no price to where nearly all that can be saved is saved; logarithmic from where a little of it is."""
        saved = (self.cost[0] - self.cost) / max(self.cost[0] - self.cost[-1], 1e-12)
        most, middle = (float(self.prices[int(np.argmax(saved >= share))]) for share in (0.98, 0.3))
        return PriceScale(np.zeros(1), np.array([most]), np.array([max(middle, 1e-3 * most) / 2]))


@dataclass(frozen=True)
class Simulated:
    """Days as they used to be, under one Q, by the maps: what controllers are prepared on."""

    response: Response
    day: Day
    mean_qps: float
    noise: float  # of an interval's core-ms per request, log points, as seen in calibration
    interval_s: float
    cores: int

    def drive(self, controller: Controller, intervals: int, name: str) -> list[Measurement]:
        """Measurements under a controller; CPU is the traffic drawn times the mean cost, with noise."""
        generator, seen = numpy_generator(0, "live", name), []
        share = np.arange(intervals) / _INTERVALS % 1
        rate = self.mean_qps * self.day.rate(share, self.day.past) * self.interval_s
        for k, qps in enumerate(generator.poisson(rate) / self.interval_s):
            cost = np.interp(controller.lambda_[0], self.response.prices, self.response.cost)
            percent = qps * cost / 10 / self.cores * np.exp(self.noise * generator.standard_normal())
            seen.append(measurement(k, qps, percent, controller.lambda_))
            controller.step(seen[-1])
        return seen


@dataclass(frozen=True)
class Learned:
    """The system model under one Q, and where the price stood in the end."""

    model: SystemModel
    start: list[float]
    days: Simulated

    def controller(self, name: str, target: float) -> Controller:
        """A fresh controller of λ with the gains that were tuned on the model, whose mean CPU in simulated days is the target."""
        offset = 0.0
        for _ in range(3):
            reached = np.mean(
                [one.cpu[0] for one in self.days.drive(self._made(name, target, offset), 3 * _INTERVALS, "offset")]
            )
            offset = float(np.clip((100 + offset) * target / max(reached, 1.0) - 100, -40, 40))
        return self._made(name, target, offset)

    def _made(self, name: str, target: float, offset: float) -> Controller:
        config = ControllerConfig(name=name, budget=target, offset=offset, mpc=MPC, start=self.start)
        return make_controller(config, GROUP, self.model)


def commissioned(days: Simulated, target: float, rows: int, folder: Path) -> Learned:
    """Learn what the price does in ``rows`` intervals of simulated days under a dithered price."""
    scale = days.response.scale()
    seen = days.drive(DitheredPrice(scale, target, 0.15, 0), rows, "commission")
    write_table(system_table(seen, [SERVICE]), folder / "system.csv")
    base = load_config(LiveMpc, "configs/live_mpc.yaml", ["training.epochs=150", "training.patience=25"]).training
    known = {
        "table": str(folder / "system.csv"),
        "services": [SERVICE],
        "price_high": scale.high.tolist(),
        "tune_pi": True,
    }
    model = mpc_balancer.train.train(replaced(base, known), folder / "model").model
    unit = np.mean([scale.to_unit(one.lambda_) for one in seen[rows // 2 :]], axis=0)
    return Learned(model, scale.from_unit(unit).tolist(), days)
