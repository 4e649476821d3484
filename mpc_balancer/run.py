"""Simulate days of minutes in closed loop: ``python -m mpc_balancer.run [--plant reference|model] [--traffic F.csv]``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
from pydantic import Field

from marca_common.cli import run_cli
from marca_common.column_values import Zone
from marca_common.compute import set_threads
from marca_common.config import Config, replaced, to_dict
from marca_common.protocols import Controller
from marca_common.run_folder import RunFolder
from marca_common.stages import Stage, Stages
from marca_common.tables import write_table
from mpc_balancer.config import ControllerConfig, MovesConfig, SystemModelConfig
from mpc_balancer.controllers import find_controller, make_controller
from mpc_balancer.controllers.price_controller import budget_of
from mpc_balancer.forecasting.event_calendar import Calendar
from mpc_balancer.system_model.model import SystemModel
from mpc_balancer.testbed.control_loop import LoopResult, closed_loop
from mpc_balancer.testbed.model_plant import ModelPlant
from mpc_balancer.testbed.reference_plant import ReferenceConfig, ReferencePlant
from mpc_balancer.testbed.run_figures import plot_run
from mpc_balancer.testbed.run_metrics import run_metrics
from mpc_balancer.testbed.scenarios import Scenario, ScenarioRun, start_scenario
from mpc_balancer.testbed.trace_traffic import TraceConfig
from mpc_balancer.train import train


class ClosedLoopConfig(Config):
    """A closed-loop simulation."""

    controller: ControllerConfig = Field(default_factory=ControllerConfig, description="who steers λ")
    plant: Literal["reference", "model"] = Field("reference", description="reference plant, or the model itself")
    reference: ReferenceConfig = Field(default_factory=ReferenceConfig, description="parameters of the reference plant")
    scenario: Scenario = Field(default_factory=Scenario, description="what happens; nominal where left out")
    traffic: TraceConfig | None = Field(None, description="recorded traffic in place of synthetic; null = none")
    calendar: str | None = Field(None, description="calendar CSV; null = the scenario's own announcements")
    capacity: str | None = Field(
        None, description="CSV of planned capacity (start, end, share); null = the scenario's own"
    )
    timezone: Zone = Field("UTC", description="IANA zone of times without an offset, in traffic and calendar")
    model: str | None = Field(None, description="system model checkpoint; null = train one into the run folder first")
    train: SystemModelConfig = Field(default_factory=SystemModelConfig, description="how to train where model is null")
    group: str | None = Field(None, description="data centre to run as; null = the model's first")
    clairvoyant: bool = Field(True, description="reference plant: also run the clairvoyant, for the reachable μ")
    zoom_minutes: int = Field(90, ge=10, description="minutes shown around an event")
    threads: int = Field(1, ge=1, description="torch threads")
    seed: int = Field(100, ge=0, description="seed of traffic and plant")


@dataclass
class ClosedLoopRun:
    """A simulated run."""

    frame: pd.DataFrame  # one row per control interval
    controller: Controller
    loop: LoopResult
    summary: dict[str, Any]


def run(config: ClosedLoopConfig, out: str | Path) -> ClosedLoopRun:
    """Train a model where none is given, run the controller in closed loop; write run.csv, summary.json and figures."""
    set_threads(config.threads)
    find_controller(config.controller)
    with RunFolder(out, config) as folder:
        drawn = start_scenario(config.scenario, config.seed, config.reference, config.traffic, config.timezone)
        calendar = Calendar.read(config.calendar, config.timezone) if config.calendar else drawn.calendar
        calendar = calendar.with_capacity(config.capacity, config.timezone) if config.capacity else calendar
        model = _model(config, folder.out)
        controller, loop, truth = simulate(config, drawn, model, calendar)
        bound = _clairvoyant(config, drawn, model) if config.clairvoyant and config.plant == "reference" else None
        budget = budget_of(config.controller, model.services, model)
        summary = run_metrics(truth, loop.prices, budget, np.array(loop.step_seconds), bound)
        summary |= {
            "controller": config.controller.name,
            "minutes": len(loop),
            "rungs": {k: v for k, v in loop.rungs.items() if v},
            "refused": {k: v for k, v in loop.refused.items() if v},
            "alarms": {k: v for k, v in loop.alarms.items() if v},
        }
        if config.traffic is not None:
            summary["traffic_scale"] = drawn.traffic.scale
        frame = run_frame(loop, truth, model.services)
        write_table(frame, folder.path / "run.csv")
        budgets = dict(zip(model.services, budget))
        plot_run(frame, config.controller.name, budgets, drawn, config.zoom_minutes, folder.path)
        folder.write_summary(summary)
    return ClosedLoopRun(frame, controller, loop, summary)


def simulate(
    config: ClosedLoopConfig, drawn: ScenarioRun, model: SystemModel, calendar: Calendar, progress: bool = True
) -> tuple[Controller, LoopResult, np.ndarray]:
    """One closed loop; returns controller, loop and the true CPU (T, D)."""
    group = config.group or model.features.groups[0]
    own = config.controller
    if drawn.scenario.deadline_ms is not None:
        own = replaced(own, {"mpc.solver.deadline_ms": drawn.scenario.deadline_ms})
    if drawn.scenario.moves != MovesConfig():
        own = own.model_copy(update={"moves": drawn.scenario.moves})
    deployed = broken(model) if drawn.scenario.broken_model else model
    controller = make_controller(own, group, deployed, calendar)
    plant: ModelPlant | ReferencePlant
    if config.plant == "model":
        plant = ModelPlant(model, group, config.seed, drawn.traffic.timestamps[0])
    else:
        plant = drawn.plant(delay_minutes=0 if own.name == "clairvoyant" else None)
    parts = 60 // model.step_seconds
    loop = closed_loop(plant, controller, drawn.arrivals, steps_per_minute=parts, what=own.name if progress else None)
    return controller, loop, np.array(plant.truth)


def broken(model: SystemModel) -> SystemModel:
    """The model as a damaged file would leave it: NaN weights."""
    return replace(model, weights=[np.full_like(w, np.nan) for w in model.weights])


def run_frame(loop: LoopResult, truth: np.ndarray, services: Sequence[str]) -> pd.DataFrame:
    """One row per control interval."""
    prices = loop.prices  # (T, L)
    names = services if prices.shape[1] == len(services) else range(prices.shape[1])
    frame = pd.DataFrame({"timestamp": [one.timestamp for one in loop], "qps": [one.qps for one in loop]})
    frame["forecast_qps"] = [float("nan"), *loop.forecasts[:-1]]
    for j, name in enumerate(services):
        frame[f"cpu_{name}"] = truth[:, j]
        frame[f"measured_cpu_{name}"] = loop.measured_cpu[:, j]
    for j, price in enumerate(names):
        frame[f"lambda_{price}"] = prices[:, j]
    frame["step_ms"] = np.array(loop.step_seconds) * 1000
    return frame


def _model(config: ClosedLoopConfig, out: Path) -> SystemModel:
    """The given model, or one trained in the stage ``train`` of ``out``, which other runs into the same folder reuse."""
    if config.model is not None:
        return SystemModel.load(config.model)
    Stages(out).run(Stage("train", partial(train, config.train), to_dict(config.train)))
    return SystemModel.load(out / "train" / "system_model.pt")


def _clairvoyant(config: ClosedLoopConfig, drawn: ScenarioRun, model: SystemModel) -> np.ndarray:
    own = config.controller.model_copy(update={"name": "clairvoyant", "offset": 0.0})
    return simulate(config.model_copy(update={"controller": own}), drawn, model, drawn.calendar)[2]


if __name__ == "__main__":
    run_cli(
        run,
        ClosedLoopConfig,
        default_config="configs/mpc_balancer/run.yaml",
        default_out="runs/mpc_run",
        flags={
            "--plant": ("plant", "reference, or model: the system model as its own plant"),
            "--traffic": ("traffic.path", "timestamp,value file that replaces the synthetic traffic"),
        },
    )
