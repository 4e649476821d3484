"""Serve a policy: python -m examples.decision_service.serve --config configs/decision_service/serve.yaml --out DIR"""

from __future__ import annotations

import gc
import logging
import signal
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from examples.decision_service.app import App
from examples.decision_service.config import DecisionServiceConfig
from examples.decision_service.decision_log import DecisionLog
from examples.decision_service.served_policy import ServedPolicy
from examples.decision_service.service import RULES, DecisionService
from marca_common.cli import run_cli
from marca_common.config import dump_yaml
from marca_common.errors import UserError
from marca_common.files import write_text

log = logging.getLogger(__name__)
_SWITCH_S = 0.0005  # how long a thread may keep the interpreter: one that reads a policy must not hold up requests


@dataclass
class Served:
    """What happened until the server was stopped."""

    summary: dict[str, Any]


def serve(config: DecisionServiceConfig, out: str | Path) -> Served:
    """Decide at the price that is in force, until SIGTERM or Ctrl-C; requests under way are answered first.

    ``out`` keeps the config and the decision log. Addresses: GET and POST /decide, POST /lambda (where ``mpc_balancer.serve``
    posts to), POST /reload (reads ``policy`` again), GET /metrics and GET /health.
    """
    uvicorn = _uvicorn()
    out = Path(out)
    policy = ServedPolicy(config)
    listening = _listen(config)
    decisions = DecisionLog(out / "log")
    decisions.keep_states(policy.version, policy.states)
    write_text(out / "config.yaml", dump_yaml(config))
    service = DecisionService(config, policy, decisions)
    sys.setswitchinterval(_SWITCH_S)
    gc.collect()
    gc.freeze()  # what was loaded lives as long as the server: no collection needs to look at it again
    settings = uvicorn.Config(
        App(service),
        loop="uvloop",
        http="httptools",
        lifespan="on",
        access_log=False,
        log_config=None,
        log_level="warning",
    )
    log.info("listening at http://%s:%d", *listening.getsockname()[:2])
    with listening, _ends_quietly():
        uvicorn.Server(settings).run([listening])
    return Served(_summary(service))


@contextmanager
def _ends_quietly() -> Iterator[None]:
    """uvicorn raises the signal that ended it once more; having answered everything, we end as usual."""
    before = {one: signal.signal(one, lambda *_: None) for one in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for one, handler in before.items():
            signal.signal(one, handler)


def _uvicorn() -> Any:
    try:
        import httptools  # noqa: F401
        import uvicorn
        import uvloop  # noqa: F401
    except ImportError as error:
        raise UserError(f"{error.name}: not installed; expected: pip install '.[serving]'") from None
    return uvicorn


def _listen(config: DecisionServiceConfig) -> socket.socket:
    try:
        return socket.create_server((config.host, config.port), backlog=2048)
    except OSError as error:
        raise UserError(f"host, port: cannot listen at {config.host}:{config.port}: {error.strerror}") from None


def _summary(service: DecisionService) -> dict[str, Any]:
    return {
        "decisions": dict(zip(RULES, service.decided)),
        "explored": service.explored,
        "refused_pushes": dict(service.refused),
        **service.counts,
        "lost_log_rows": service.log.lost,
    }


if __name__ == "__main__":
    run_cli(
        serve,
        DecisionServiceConfig,
        default_config="configs/decision_service/serve.yaml",
        default_out="runs/decision_service",
    )
