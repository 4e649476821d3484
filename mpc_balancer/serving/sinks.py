"""Where λ goes: a file, an HTTP address, or any function. A sink that fails is counted and said; the loop goes on."""

from __future__ import annotations

import json
import logging
import urllib.request
from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

from marca_common.dotted_path import load_by_path
from marca_common.errors import UserError
from marca_common.files import write_json
from mpc_balancer.serving.answering import Answering
from mpc_balancer.serving.serve_config import SinkConfig, UnitsConfig

log = logging.getLogger(__name__)
Prices = dict[str, dict[str, float]]  # data centre → name of the price → λ in the declared unit


class Sink:
    """Hands λ of all data centres over, each time: one that missed a call has them all after the next."""

    def __init__(self, function: Callable[[dict[str, Any]], Any], seconds: float, unit: str) -> None:
        self._call, self.unit = Answering(function, seconds), unit
        self.failures, self.failing = 0, False

    def __call__(self, prices: Prices) -> None:
        """Deliver; what goes wrong is counted, and said once until it works again."""
        try:
            self._call({"unit": self.unit, "decided": datetime.now(UTC).isoformat(), "lambda": prices})
        except Exception as error:  # somebody's function, a network, a disk
            self.failures += 1
            if not self.failing:
                log.warning("sink: λ not delivered, tried again each time: %s: %s", type(error).__name__, error)
            self.failing = True
            return
        if self.failing:
            log.warning("sink: λ delivered again")
        self.failing = False


def make_sink(config: SinkConfig, units: UnitsConfig, out: Path) -> Sink | None:
    """The configured sink; None for none."""
    if config.kind == "none":
        return None
    if config.kind == "file":
        function: Callable[[dict[str, Any]], Any] = partial(write_json, config.path or out / "lambda.json")
    elif config.kind == "http":
        if not str(config.url).startswith(("http://", "https://")):
            raise UserError(f"sink.url: got {config.url!r}; expected http://host:port/path")
        function = partial(_post, str(config.url), config.timeout_s)
    else:
        function = load_by_path(str(config.function), "sink.function")
    return Sink(function, config.timeout_s, units.price)


def _post(url: str, seconds: float, content: dict[str, Any]) -> None:
    headers = {"Content-Type": "application/json"}
    request = urllib.request.Request(url, json.dumps(content).encode(), headers, method="POST")
    with urllib.request.urlopen(request, timeout=seconds) as reply:  # a status of 400 or more raises
        reply.read()
