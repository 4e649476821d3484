"""A small policy and a service over it, with a clock to turn, for the tests of the decision service."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import numpy as np
import pandas as pd

from awrq_mixer.serving import HullPolicy
from examples.decision_service.config import DecisionServiceConfig
from examples.decision_service.decision_log import DecisionLog
from examples.decision_service.metrics_text import metrics_text
from examples.decision_service.served_policy import ServedPolicy
from examples.decision_service.service import DecisionService
from marca_common.requests import RequestSpec

SPEC = RequestSpec(
    state={"user": "category", "idc": "category"}, agents={"one": ["a1"], "two": ["a2"]}, sizes={"a1": 2, "a2": 3}
)
STATES = pd.DataFrame({"user": ["7", "7", "new & old", "8"], "idc": ["north", "south", "north", "south"]})
NOW = datetime(2026, 3, 9, tzinfo=UTC).timestamp()


def tables(seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Values (4, 6) and costs (4, 6, 2) of all joint actions."""
    rng = np.random.default_rng(seed)
    c = 1 + rng.random((4, 6, 2)).cumsum(1)
    return 2 * c.sum(2) ** 0.5 * (1 + 0.02 * rng.random((4, 6))), c


def write_policy(path: Path, seed: int = 0) -> Path:
    q, c = tables(seed)
    HullPolicy.build(STATES, lambda frame: q[frame.index], lambda frame: c[frame.index], quiet=True).save(path)
    return path


class Clock:
    """Seconds that pass when told to."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def __call__(self) -> float:
        return self.seconds

    def wall(self) -> float:
        return NOW + self.seconds


def config(folder: Path, **more: Any) -> DecisionServiceConfig:
    path = folder / "policy.npz"
    if not path.exists():
        write_policy(path)
    settings: dict[str, Any] = {
        "policy": str(path), "spec": SPEC, "prices": ["retrieval", "ranking"], "groups": ["north", "south"],
        "group_column": "idc", "stale_s": 100, "fallback_prices": {"retrieval": 9.0, "ranking": 9.0},
        "fallback_action": {"a1": 1, "a2": 2}, "seed": 0, "port": 0, "log_s": 0.2,
    }  # fmt: skip
    return DecisionServiceConfig.model_validate({**settings, **more})


def start(folder: Path, clock: Clock | None = None, **more: Any) -> DecisionService:
    settings = config(folder, **more)
    policy, log = ServedPolicy(settings), DecisionLog(folder / "log")
    log.keep_states(policy.version, policy.states)
    clock = clock or Clock()
    return DecisionService(settings, policy, log, clock, clock.wall)


def push(lambda_: Any, unit: str = "money per core-ms", **more: Any) -> bytes:
    return json.dumps({"unit": unit, "lambda": lambda_, **more}).encode()


def both(retrieval: float, ranking: float) -> dict[str, dict[str, float]]:
    return {name: {"retrieval": retrieval, "ranking": ranking} for name in ("north", "south")}


def asked(service: DecisionService, **state: str) -> Any:
    return json.loads(service.one(urlencode(state).encode()))


def joint(answer: dict[str, Any]) -> int:
    return int(answer["actions"]["a1"] * 3 + answer["actions"]["a2"])


def metric(service: DecisionService, name: str) -> float:
    line = next(line for line in metrics_text(service).splitlines() if line.startswith(f"decision_service_{name} "))
    return float(line.rpartition(" ")[2])


def flushed(service: DecisionService) -> None:
    service.log.write(service.log.take())
