"""Scenarios as data: what happens to traffic, plant, readings and controller in one simulated day."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import yaml
from pydantic import Field

from marca_common.config import Config, load_config
from marca_common.errors import UserError
from marca_common.files import shipped
from marca_common.seeding import numpy_generator
from mpc_balancer.config import MovesConfig
from mpc_balancer.forecasting.event_calendar import Calendar, PlannedCapacity
from mpc_balancer.testbed.reference_plant import Disturbances, ReferenceConfig, ReferencePlant
from mpc_balancer.testbed.reference_traffic import (
    Surge,
    SyntheticTrafficConfig,
    TrafficRun,
    calendar_frame,
    synthetic_traffic,
)
from mpc_balancer.testbed.trace_traffic import TraceConfig, trace_traffic


class CostStep(Config):
    """A lasting change of the cost per request that g was not trained on."""

    minute: int = Field(ge=0, description="minute of the run at which it sets in")
    factor: float = Field(gt=0, description="cost is multiplied by this")


class CapacityChange(Config):
    """A planned stretch of minutes with fewer (or more) machines; the calendar knows it."""

    minute: int = Field(ge=0, description="first minute")
    minutes: int = Field(ge=1, description="length")
    share: float = Field(gt=0, description="share of the usual machines that serve")


class MinuteSpan(Config):
    """A stretch of minutes."""

    minute: int = Field(ge=0, description="first minute")
    minutes: int = Field(ge=1, description="length")


class WrongSensor(Config):
    """A sensor that reports a constant."""

    service: int = Field(ge=0, description="number of the service, from 0")
    value: float = Field(ge=0, description="what it reports, percent")
    minute: int = Field(0, ge=0, description="first minute")


class Scenario(Config):
    """One day's script; everything left out is nominal."""

    title: str = Field("", description="what happens, for tables and figures")
    days: float | None = Field(
        None, gt=0, description="most days of the run; null = a recorded trace as long as it is, else one day"
    )
    traffic: SyntheticTrafficConfig = Field(default_factory=SyntheticTrafficConfig, description="synthetic traffic")
    surges: list[Surge] = Field([], description="flash sales and failovers")
    cost_factor: float = Field(1.0, gt=0, description="cost mismatch against the commissioning days")
    cost_drift_per_day: float = Field(0.0, gt=-1, description="growth of the cost over a day, spread evenly")
    cost_steps: list[CostStep] = Field([], description="lasting jumps of the cost")
    capacity: list[CapacityChange] = Field([], description="planned changes of capacity")
    queue_seconds: float | None = Field(None, ge=0, description="most work that waits; null = the plant's own")
    degrade_relief: float | None = Field(
        None, ge=0, lt=1, description="share of the cost that full elastic degradation removes; null = the plant's own"
    )
    degrade_recovery: float | None = Field(
        None, gt=0, le=1, description="share of it that ends per sub-interval; null = the plant's own"
    )
    price_effect: float = Field(1.0, gt=0, description="λ acts as if it were multiplied by this")
    delay_minutes: int = Field(0, ge=0, description="actuation delay")
    moves: MovesConfig = Field(
        default_factory=MovesConfig, description="how λ may move; the controller's own where left out"
    )
    reading_noise: float | None = Field(None, ge=0, description="sd of CPU readings, points; null = the plant's own")
    lost_share: float = Field(0.0, ge=0, lt=1, description="share of minutes whose CPU readings are lost")
    frozen: list[MinuteSpan] = Field([], description="readings repeat")
    blind: list[MinuteSpan] = Field([], description="nothing is measured (NaN)")
    stuck: list[MinuteSpan] = Field([], description="the commanded λ is not applied")
    wrong_sensors: list[WrongSensor] = Field([], description="CPU sensors that report a constant")
    qps_factor: float = Field(1.0, gt=0, description="traffic is reported multiplied by this")
    echoed: bool = Field(False, description="the λ reported as being in force is the last command, whenever it acts")
    deadline_ms: float | None = Field(None, gt=0, description="the solver's deadline; null = the controller's own")
    broken_model: bool = Field(False, description="the deployed model's weights are NaN")


@dataclass(frozen=True)
class ScenarioRun:
    """A scenario with its luck drawn: run as many controllers on it as you like, all meet the same."""

    scenario: Scenario
    traffic: TrafficRun
    calendar: Calendar
    reference: ReferenceConfig
    disturbances: Disturbances
    seed: int

    @property
    def arrivals(self) -> np.ndarray:
        """(minutes, sub-intervals)."""
        return self.traffic.arrivals

    def plant(self, delay_minutes: int | None = None) -> ReferencePlant:
        """A fresh plant at the start of the run."""
        config = self.reference
        if delay_minutes is not None:
            config = config.model_copy(update={"delay_minutes": delay_minutes})
        return ReferencePlant(
            config, self.seed, len(self.arrivals), start=self.traffic.timestamps[0], disturbances=self.disturbances
        )


def load_scenarios(path: str | Path) -> dict[str, Scenario]:
    """Scenarios of a YAML file: a mapping of names to scripts."""
    path = shipped(path)
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError) as error:
        raise UserError(f"{path}: cannot read the scenarios: {error}") from None
    if not isinstance(content, dict) or not content:
        raise UserError(f"{path}: expected a mapping of scenario names to scripts")

    class Suite(Config):
        scenarios: dict[str, Scenario]

    return load_config(
        Suite, None, [f"scenarios={yaml.safe_dump(content, default_flow_style=True, width=10**9)}"]
    ).scenarios


def start_scenario(
    scenario: Scenario,
    seed: int,
    reference: ReferenceConfig | None = None,
    trace: TraceConfig | None = None,
    timezone: str = "UTC",
    start: str = "2026-03-09",
) -> ScenarioRun:
    """Draw traffic and disturbances of a scenario (or follow a recorded trace, naive times in ``timezone``)."""
    reference = reference or ReferenceConfig()
    updates: dict[str, object] = {
        "delay_minutes": scenario.delay_minutes,
        "sub_intervals": scenario.traffic.sub_intervals,
    }
    for name in ("reading_noise", "queue_seconds", "degrade_relief", "degrade_recovery"):
        if getattr(scenario, name) is not None:
            updates[name] = getattr(scenario, name)
    if scenario.price_effect != 1.0:
        updates["half_price"] = [h / scenario.price_effect for h in reference.half_price]
    reference = reference.model_copy(update=updates)
    minutes = None if scenario.days is None else max(int(scenario.days * 1440), 1)
    if trace is None:
        traffic = synthetic_traffic(scenario.traffic, seed, minutes or 1440, start, scenario.surges)
    elif scenario.surges:
        raise UserError(f"scenario.surges: got {len(scenario.surges)}; expected none beside recorded traffic")
    else:
        traffic = trace_traffic(trace, scenario.traffic.sub_intervals, seed, minutes, timezone)
    events = Calendar.from_frame(calendar_frame(scenario.surges, traffic.timestamps[0]), "scenario").events
    calendar = Calendar(events, "scenario", _planned_capacity(scenario, traffic.timestamps[0]))
    disturbances = _disturbances(scenario, seed, len(traffic.arrivals), len(reference.services))
    return ScenarioRun(scenario, traffic, calendar, reference, disturbances, seed)


def _disturbances(scenario: Scenario, seed: int, minutes: int, services: int) -> Disturbances:
    cost = scenario.cost_factor * (1 + scenario.cost_drift_per_day * np.arange(minutes) / 1440)
    for step in scenario.cost_steps:
        cost[step.minute :] *= step.factor
    for change in scenario.capacity:
        cost[change.minute : change.minute + change.minutes] /= change.share
    lost = numpy_generator(seed, "mpc_balancer", "lost").random(minutes) < scenario.lost_share
    garbage = np.full((minutes, services), np.nan)
    for sensor in scenario.wrong_sensors:
        if sensor.service >= services:
            raise UserError(f"scenario.wrong_sensors: got service {sensor.service}; expected a number below {services}")
        garbage[sensor.minute :, sensor.service] = sensor.value
    return Disturbances(
        cost=cost,
        lost=lost,
        blind=_windows(scenario.blind, minutes),
        frozen=_windows(scenario.frozen, minutes),
        stuck=_windows(scenario.stuck, minutes),
        garbage=garbage if scenario.wrong_sensors else None,
        qps_factor=scenario.qps_factor,
        echoed=scenario.echoed,
    )


def _planned_capacity(scenario: Scenario, start: np.datetime64) -> list[PlannedCapacity]:
    minute = np.timedelta64(60, "s")
    spans = [(start + one.minute * minute, one.minutes * minute, one.share) for one in scenario.capacity]
    return [PlannedCapacity(begin, begin + length, share) for begin, length, share in spans]


def _windows(windows: list[MinuteSpan], minutes: int) -> np.ndarray:
    out = np.zeros(minutes, dtype=bool)
    for window in windows:
        out[window.minute : window.minute + window.minutes] = True
    return out
