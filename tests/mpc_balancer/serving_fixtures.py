"""A balancer to start, to crash and to feed, for the tests of serving."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from mpc_fixtures import trained_model

from marca_common.protocols import Measurement
from mpc_balancer.config import ControllerConfig, MpcConfig, PiConfig, SolverConfig
from mpc_balancer.serve import Balancer, ServeConfig
from mpc_balancer.testbed.scenarios import Scenario, start_scenario

START, MINUTE = np.datetime64("2026-03-09T00:00", "s"), np.timedelta64(60, "s")
QUICK = MpcConfig(solver=SolverConfig(deadline_ms=None, iterations=1, constants=4))
PI = PiConfig(kp=0.15, ki=0.15, down_factor=0.7, feedforward=0.6)


def config(name: str = "mpc", **more: Any) -> ServeConfig:
    own = ControllerConfig(name=name, mpc=QUICK, pi=PI)
    return ServeConfig(model="a model in memory", controller=own, **more)


def start(out: Path, name: str = "mpc", now: Any = None, **more: Any) -> Balancer:
    clock = {} if now is None else {"now": now}
    return Balancer(config(name, **more), out, trained_model(), **clock)


def crash(one: Balancer) -> None:
    """What the end of a process leaves: the lock is let go, nothing is closed."""
    os.close(one._lock)
    one._lock = -1


def right(minute: int, **changed: Any) -> Measurement:
    wave = float(np.sin(1.7 * minute))
    one = Measurement(
        minute, START + minute * MINUTE, "reference", 400.0 + 9 * wave, np.array([62.0 + 2 * wave, 63.0 - 1.5 * wave]),
        0.0, np.array([1e-4, 1e-4]), np.full(6, 4000.0) + wave, {"q_sum": 1.0, "q_mean": 1.0},
    )  # fmt: skip
    return replace(one, **changed)


def loop(out: Path, crashes: Any = (), minutes: int = 90, seed: int = 5, **more: Any) -> tuple[np.ndarray, Balancer]:
    """Prices of a closed loop; after the given minutes the process dies and a new one takes over."""
    drawn = start_scenario(Scenario(days=minutes / 1440, lost_share=0.1), seed)
    plant, one = drawn.plant(), start(out, **more)
    price, prices = one.steered["reference"].lambda_, []
    for t in range(minutes):
        price = one.step(plant.step(price, drawn.arrivals[t]))
        prices.append(price)
        if t in crashes:
            crash(one)
            one = start(out, **more)
    return np.array(prices), one
