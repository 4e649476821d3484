"""The real cascade as a service: ``python -m recommender.serve --config configs/recommender/service.yaml``."""

from __future__ import annotations

import errno
import logging
import socket
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aiohttp import web

from marca_common.cli import run_cli
from marca_common.compute import set_threads
from marca_common.errors import UserError
from marca_common.run_folder import RunFolder
from recommender.service.finished_build import open_build
from recommender.service.front import Front
from recommender.service.service_config import ServiceConfig

log = logging.getLogger(__name__)


@dataclass
class Served:
    """What happened until the service was told to end."""

    summary: dict[str, Any]


def serve(config: ServiceConfig, out: str | Path) -> Served:
    """Answer requests for a visit and a joint action from a finished build, until SIGTERM or Ctrl-C; leaves summary.json.

    ``/serve`` takes ``visit``, or ``user`` and ``time``, and ``joint``, or all sub-actions: a query (GET) or a JSON object
    (POST). It answers the page, what was retrieved and passed, core-ms by service and the time in the queue.
    """
    set_threads(1)
    with closing(_listening(config)) as server:
        parts = open_build(config.build)
        with RunFolder(out, config) as folder:
            front = Front(config, parts)
            address, port = server.getsockname()[:2]
            log.info("%d visits on http://%s:%d/serve", len(parts.people.visits), address, port)
            web.run_app(front.application(), sock=server, access_log=None, print=None, shutdown_timeout=1.0)
            summary = front.summary()
            folder.write_summary(summary)
    return Served(summary)


def _listening(config: ServiceConfig) -> socket.socket:
    try:
        return socket.create_server((config.address, config.port))
    except OSError as error:
        name = "port" if error.errno in (errno.EADDRINUSE, errno.EACCES) else "address"
        reason = str(error.strerror).partition(" (while")[0]  # Python adds address and port once more
        raise UserError(f"{name}: cannot listen on {config.address}:{config.port}: {reason}; choose another") from None


if __name__ == "__main__":
    run_cli(
        serve,
        ServiceConfig,
        default_config="configs/recommender/service.yaml",
        default_out="runs/recommender_service",
    )
