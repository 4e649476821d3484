"""Model predictive control on a real service: ``python -m marca_loop.live_mpc --config configs/live_mpc.yaml``.

``commission`` drives the service under a dithered price; ``model`` learns g from those intervals; ``live`` steers a compressed
day. A price in [0, 1] stands for λ: the dearer, the shorter all queues, on the scale of the loop's own controllers.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
from pydantic import Field, model_validator

import mpc_balancer.config
import mpc_balancer.train
from autobucket.bench.bench_config import LiveConfig
from autobucket.bench.live.queue_controllers import Brake, Lengths, Observation, QueueScale
from autobucket.live import LiveResult, live
from marca_common.cli import run_cli
from marca_common.compute import set_threads
from marca_common.config import Config, replaced, to_dict
from marca_common.files import read_json
from marca_common.protocols import Controller, Measurement
from marca_common.run_folder import RunFolder
from marca_common.stages import Stage, Stages
from marca_common.system import system_table
from marca_common.tables import write_table
from marca_loop.dithered_price import DitheredPrice
from mpc_balancer.config import ControllerConfig, MpcConfig
from mpc_balancer.controllers import make_controller
from mpc_balancer.price_scale import PriceScale
from mpc_balancer.system_model.model import SystemModel
from mpc_balancer.system_model.observer import FEWEST_ROWS

GROUP, SERVICE = "bench", "service"
PRICES = PriceScale(np.zeros(1), np.ones(1), np.full(1, 0.1))


class LiveMpc(Config):
    """A day of traffic on a real service under MPC."""

    live: LiveConfig = Field(
        description="autobucket.live: service, traffic, target, queue lengths; its controller is not used"
    )
    commission_s: float = Field(
        default=180, ge=1, le=3600, description="seconds of dithered prices that g is learned from"
    )
    commission_seed: int = Field(default=0, ge=0, description="traffic and dither of the commissioning")
    dither: float = Field(
        default=0.15, gt=0, description="spread of the price around the slow controller's, share of its box"
    )
    training: mpc_balancer.config.SystemModelConfig = Field(
        description="mpc_balancer.train; table and services are filled in"
    )
    mpc: MpcConfig = Field(
        default_factory=MpcConfig, description="the controller; its budget is live.controller.target_percent"
    )

    @model_validator(mode="after")
    def _long_enough(self) -> LiveMpc:
        rows = int(self.commission_s / self.live.interval_s)
        least = int(np.ceil((FEWEST_ROWS + 1) / self.training.validation_share)) + self.training.rollout_steps
        if rows < least:
            raise ValueError(
                f"commission_s: got {self.commission_s:g} seconds, {rows} intervals; expected at least {least * self.live.interval_s:g}"
                f" seconds, since {self.training.validation_share:g} of the intervals must hold more than {FEWEST_ROWS} rows"
            )
        return self


def live_mpc(config: LiveMpc, out: str | Path) -> LiveResult:
    """Commission a real service, learn its system model, and steer a compressed day with MPC.

    Stages: ``commission``, ``model``, ``live`` (live.csv, live.png, summary.json). A finished commissioning and its model
    are reused while their settings are the same; the day is driven anew each time.
    """
    with RunFolder(out, config) as run:
        model = commissioned(config, run.out)
        config = with_peak(config, run.out)
        result = live(config.live, run.path / "live", Priced(config, model))
        run.write_summary(result.summary)
        return result


def commissioned(config: LiveMpc, out: Path) -> SystemModel:
    """The system model of the service, from ``out`` if it stands there, else measured and learned."""
    set_threads(1)
    stages = Stages(out)
    drive = config.live.model_copy(update={"seed": config.commission_seed, "seconds": config.commission_s})
    stages.run(Stage("commission", partial(commission, drive, config.dither), [to_dict(drive), config.dither]))
    training = replaced(config.training, {"table": str(out / "commission/system.csv"), "services": [SERVICE]})
    stages.run(Stage("model", partial(mpc_balancer.train.train, training), to_dict(training), ("commission",)))
    return SystemModel.load(out / "model/system_model.pt")


def with_peak(config: LiveMpc, out: Path) -> LiveMpc:
    """The config whose day has the peak rate that was calibrated for the commissioning: g knows no other traffic."""
    peak = read_json(out / "commission/live/summary.json")["peak_qps"]
    return config.model_copy(update={"live": config.live.model_copy(update={"peak_qps": peak})})


def commission(config: LiveConfig, dither: float, folder: Path) -> None:
    """Drive the service under a slow controller with a dithered price; leaves system.csv."""
    excite = Commissioning(config, dither)
    live(config, folder / "live", excite)
    write_table(system_table(excite.controller.measurements, [SERVICE]), folder / "system.csv")


class Commissioning:
    """A dithered price on the live loop; ``controller.measurements`` keeps what was seen."""

    def __init__(self, config: LiveConfig, dither: float) -> None:
        settings = config.controller
        self.config = config
        self.controller = DitheredPrice(PRICES, settings.target_percent, dither, config.seed, 1 - settings.level)

    def __call__(self, seen: Observation) -> Lengths:
        """Queue lengths of the next interval."""
        return lengths_of(self.config, self.controller.step(measurement(seen, self.controller.lambda_)))


class Priced:
    """MPC on the live loop, with the same brake as the loop's own controllers."""

    __name__ = "mpc"

    def __init__(self, config: LiveMpc, model: SystemModel) -> None:
        chosen = ControllerConfig(name="mpc", budget=config.live.controller.target_percent, mpc=config.mpc)
        self.config = config.live
        self.controller: Controller = make_controller(chosen, GROUP, model)
        self.brake, self.price = Brake(config.live), _first_price(config.live)

    def __call__(self, seen: Observation) -> Lengths:
        """Queue lengths of the next interval."""
        self.price = self.controller.step(measurement(seen, self.price))
        return lengths_of(self.config, self.price, self.brake(seen))


def measurement(seen: Observation, price: np.ndarray) -> Measurement:
    """The whole service as one CPU under one price; an interval stands for a minute. Clocks may read a little over 100 %."""
    return replace(seen.measurement(price, GROUP), cpu=np.array([min(seen.cpu_percent, 100.0)]))


def lengths_of(config: LiveConfig, price: np.ndarray, cap: float = 1.0) -> Lengths:
    """The dearer, the shorter: price 0 gives the longest queues."""
    return QueueScale(config.lengths).lengths(min(1.0 - float(PRICES.to_unit(price)[0]), cap))


def _first_price(config: LiveConfig) -> np.ndarray:
    return PRICES.from_unit(np.full(1, 1 - config.controller.level))


if __name__ == "__main__":
    run_cli(live_mpc, LiveMpc, default_config="configs/live_mpc.yaml", default_out="runs/live-mpc")
