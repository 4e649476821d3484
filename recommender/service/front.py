"""The process that answers HTTP: reads requests, hands them to the worker, says what came of them."""

from __future__ import annotations

import json
import os
import time
from collections import Counter, deque
from collections.abc import AsyncIterator, Mapping
from typing import Any

import numpy as np
from aiohttp import web

from recommender.build_parts import Parts
from recommender.service.asked import Reader
from recommender.service.service_config import ServiceConfig
from recommender.service.worker import Answer, Worker

_MOST_BODY = 65536
_REMEMBERED = 100_000  # latest queue times that the summary looks at


class Front:
    """The pages of the service: ``/serve`` (GET or POST), ``/noop``, ``/health``."""

    def __init__(self, config: ServiceConfig, parts: Parts) -> None:
        self.config, self.parts = config, parts
        self.read = Reader(parts.people, parts.space, parts.config.spec)
        self.names = parts.people.ratings.films.tolist()
        self.worker = Worker(config.build)
        self.waiting, self.statuses = 0, Counter[int]()
        self.queue_ms, self.cpu_ms = deque[float](maxlen=_REMEMBERED), np.zeros(2)

    def application(self) -> web.Application:
        """The worker lives as long as the application does."""
        application = web.Application(client_max_size=_MOST_BODY)
        application.router.add_get("/health", self.health)
        application.router.add_post("/noop", self.noop)
        application.router.add_get("/serve", self.serve)
        application.router.add_post("/serve", self.serve)
        application.cleanup_ctx.append(self._worker)
        return application

    async def health(self, request: web.Request) -> web.Response:
        """Process ids by service, and what may be asked; 503 once the worker has ended."""
        services = {"http": os.getpid(), "cascade": self.worker.process.pid}
        known = {"visits": len(self.parts.people.visits), "joint_actions": len(self.parts.space.distinct)}
        return web.json_response({"services": services, **known}, status=200 if self.worker.alive else 503)

    async def noop(self, request: web.Request) -> web.Response:
        """A request without work."""
        return web.json_response({})

    async def serve(self, request: web.Request) -> web.Response:
        """A page and what it cost; 400 for a bad request, 503 where too many wait or the worker has ended."""
        came = time.monotonic()
        content, status = await self._answer(request, came)
        self.statuses[status] += 1
        return web.json_response(content, status=status)

    async def _answer(self, request: web.Request, came: float) -> tuple[dict[str, Any], int]:
        try:
            visit, setting = self.read(await _fields(request))
        except ValueError as error:
            return {"error": str(error)}, 400
        if self.waiting >= self.config.most_waiting:  # better a quick no than an answer that nobody waits for any more
            return {"error": f"busy: {self.waiting} requests are waiting"}, 503
        self.waiting += 1
        try:
            return self._said(visit, await self.worker.ask(visit, setting), came), 200
        except ConnectionError as error:
            return {"error": str(error)}, 503
        finally:
            self.waiting -= 1

    def _said(self, visit: int, answer: Answer, came: float) -> dict[str, Any]:
        queue_ms = 1000 * max(answer.began - came, 0.0)
        self.cpu_ms += (answer.retrieval_ms, answer.ranking_ms)
        self.queue_ms.append(queue_ms)
        return {
            "visit": visit,
            "page": [self.names[film] for film in answer.films],
            "retrieved": answer.retrieved,
            "preranked": answer.preranked,
            "cpu_ms": {"retrieval": answer.retrieval_ms, "ranking": answer.ranking_ms},
            "queue_ms": queue_ms,
        }

    def summary(self) -> dict[str, Any]:
        """What happened until now: answers by HTTP status, core-seconds, milliseconds in the queue."""
        waits = np.array(self.queue_ms or [np.nan])
        return {
            "answered": self.statuses[200],
            "bad_requests": self.statuses[400],
            "refused_busy": self.statuses[503],
            "cpu_s": {
                "retrieval": self.cpu_ms[0] / 1000,
                "ranking": self.cpu_ms[1] / 1000,
                "http": time.process_time(),
            },
            "queue_ms": {"p50": float(np.quantile(waits, 0.5)), "p99": float(np.quantile(waits, 0.99))},
        }

    async def _worker(self, application: web.Application) -> AsyncIterator[None]:
        try:
            await self.worker.open(self.config.start_timeout_s)
            yield
        finally:
            self.worker.close()


async def _fields(request: web.Request) -> Mapping[str, Any]:
    """Fields of the query (GET) or of the JSON object in the body (POST); a ValueError where there is none."""
    if request.method == "GET":
        return request.query
    try:
        content = json.loads(await request.read())
    except web.HTTPRequestEntityTooLarge:
        raise ValueError(f"body: got more than {_MOST_BODY} bytes; expected the fields of one request") from None
    except (ValueError, RecursionError):
        raise ValueError("body: got no JSON; expected an object with the fields of a request") from None
    if not isinstance(content, dict):
        raise ValueError(f"body: got {type(content).__name__}; expected an object with the fields of a request")
    return content
