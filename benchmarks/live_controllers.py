"""MPC on a real service: `python -m benchmarks.live_controllers [--quick]`.

The example service is commissioned for some minutes under a dithered price, the system model is learned from those
intervals, and then PI, feed-forward and MPC each steer days of traffic compressed into a minute, in turns. A price in [0, 1]
stands for λ: it shortens all queues together, as the other two controllers' queue scale does. Writes
``results/live_controllers[_quick].csv`` and a PNG; each run's own figure is under runs/benchmarks/live.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd

from autobucket.bench.config import LiveConfig
from autobucket.bench.controllers import Brake, Lengths, LiveController, Observation, Scale
from autobucket.live import live
from benchmarks._mpc import RESULTS, stamp
from common.config import load_config
from common.figures import COLORS, new_figure, save_figure
from common.protocols import Controller, Measurement
from common.seeding import numpy_generator
from common.system import system_table
from mpc_balancer.config import ColumnsConfig, ControllerConfig, TrainConfig
from mpc_balancer.controllers import make_controller
from mpc_balancer.pricing import PriceScale
from mpc_balancer.system_model import SystemModel
from mpc_balancer.table import from_frame
from mpc_balancer.train import fit_model

GROUP, SERVICE = "bench", "service"
PRICES = PriceScale(np.zeros(1), np.ones(1), np.full(1, 0.1))
FOLDER = Path("runs/benchmarks/live")


def measurement(seen: Observation, price: np.ndarray) -> Measurement:
    """The whole service as one CPU under one price; an interval stands for a minute."""
    return replace(seen.measurement(price, GROUP), cpu=np.array([seen.cpu_percent]))


def lengths_of(config: LiveConfig, price: np.ndarray, cap: float = 1.0) -> Lengths:
    """The dearer, the shorter: price 0 gives the longest queues."""
    return Scale(config.lengths).lengths(min(1.0 - float(PRICES.to_unit(price)[0]), cap))


class Commissioning:
    """A slow PI with a dithered price, so that g can tell cause from effect; keeps what it measured."""

    def __init__(self, config: LiveConfig) -> None:
        self.config, self.measurements = config, list[Measurement]()
        self.generator = numpy_generator(config.seed, "live_controllers", "dither")
        self.unit, self.offset = 0.5, 0.0
        self.price = PRICES.from_unit(np.full(1, 1 - config.controller.level))

    def __call__(self, seen: Observation) -> Lengths:
        """Queue lengths of the next interval."""
        self.measurements.append(measurement(seen, self.price))
        self.unit = float(np.clip(self.unit + 0.1 * (seen.cpu_percent / seen.target_percent - 1), 0, 1))
        if seen.interval % 3 == 0:
            self.offset = 0.15 * self.generator.standard_normal()
        self.price = PRICES.from_unit(np.clip([self.unit + self.offset], 0, 1))
        return lengths_of(self.config, self.price)


class Priced:
    """A controller of prices on the live loop, with the same brake as the loop's own controllers."""

    def __init__(self, config: LiveConfig, controller: Controller) -> None:
        self.config, self.controller, self.brake = config, controller, Brake(config)
        self.price = PRICES.from_unit(np.full(1, 1 - config.controller.level))

    def __call__(self, seen: Observation) -> Lengths:
        """Queue lengths of the next interval."""
        self.price = self.controller.step(measurement(seen, self.price))
        return lengths_of(self.config, self.price, self.brake(seen))


def commission(config: LiveConfig, seconds: float) -> SystemModel:
    """Drive the service for ``seconds`` and learn g from it (development seed)."""
    config = config.model_copy(update={"seed": 0, "seconds": seconds})
    excite = Commissioning(config)
    live(config, FOLDER / "commission", excite)
    settings = TrainConfig(
        services=[SERVICE],
        columns=ColumnsConfig(extras=[]),
        hidden=[16],
        rollout_steps=3,
        epochs=80,
        patience=20,
        price_high=[1.0],
        tune_pi=False,
    )
    table = system_table(excite.measurements, [SERVICE])
    return fit_model(from_frame(table, settings.columns, [SERVICE], "live commissioning"), settings)[0]


def controllers(config: LiveConfig, model: SystemModel) -> dict[str, tuple[LiveConfig, LiveController | None]]:
    """Name → config and callable of the live loop; its own controllers are named by the config alone."""
    own = {
        kind: (config.model_copy(update={"controller": config.controller.model_copy(update={"kind": kind})}), None)
        for kind in ("pi", "feed_forward")
    }
    chosen = ControllerConfig(name="mpc", budget=config.controller.target_percent)
    return {**own, "mpc": (config, Priced(config, make_controller(chosen, GROUP, model)))}


def main() -> None:
    """Commission, run all controllers in turns, write table and figure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="two minutes of commissioning, one run of 20 s each")
    quick = parser.parse_args().quick
    config = load_config(LiveConfig, "configs/autobucket/live.yaml", ["seconds=20"] if quick else [])
    model = commission(config, 120 if quick else 180)
    records, days = [], {}
    for number in range(1 if quick else 3):
        seeded = config.model_copy(update={"seed": 100 + number})
        for name, (settings, controller) in controllers(seeded, model).items():
            result = live(settings, FOLDER / f"{name}-{number}", controller)
            kept = {key: value for key, value in result.summary.items() if isinstance(value, (int, float))}
            records.append({"controller": name, "round": number, "traffic_seed": seeded.seed} | kept)
            days.setdefault(name, result.rows)
    stem = "live_controllers_quick" if quick else "live_controllers"
    table = pd.DataFrame(records).assign(**stamp(0))
    table.to_csv(RESULTS / f"{stem}.csv", index=False, float_format="%.5g", lineterminator="\n")
    draw(days, RESULTS / f"{stem}.png")
    columns = ["mean_cpu", "mean_error_points", "mean_error_5_points", "over_target_points", "p99_ms_median", "lost"]
    print(table.groupby("controller", sort=False)[columns].mean().round(2).to_string())


def draw(days: dict[str, pd.DataFrame], path: Path) -> None:
    """CPU of the first round, five-second means, and the traffic."""
    figure, (top, bottom) = new_figure(2, 1, width=8, height=5)
    for color, (name, rows) in zip(COLORS, days.items()):
        top.plot(rows["second"], rows["cpu"].rolling(5, min_periods=1).mean(), color=color, label=name)
    top.axhline(next(iter(days.values()))["target"].iloc[0], color="k", ls="--", lw=1, label="target")
    top.set(title="CPU of a real service, 5-second means", ylabel="CPU in %", ylim=(0, 100))
    top.legend(ncols=4, loc="lower center")
    bottom.plot(next(iter(days.values()))["second"], next(iter(days.values()))["planned_qps"], color="0.3")
    bottom.set(title="Traffic, a day in a minute", xlabel="seconds", ylabel="requests/s", ylim=(0, None))
    save_figure(figure, path)


if __name__ == "__main__":
    main()
