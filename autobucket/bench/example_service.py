"""The example target: a cascade of two services in two processes, `python -m autobucket.bench.example_service --port 8080`.

The first process answers HTTP and does retrieval; the second does pre-ranking and ranking. Request fields: ``user``,
``value``, ``channels`` (joined by ``+``), ``queue_a`` (length of similar and behaviour), ``queue_b`` (of popular and
graph), ``model`` (light, heavy), ``truncation``, ``degradation``. It answers ``retrieved``, ``preranked`` and ``items``.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import signal
import socket
import struct
import subprocess
import sys
from collections.abc import AsyncIterator, Mapping
from typing import Any

import numpy as np
from aiohttp import web

from autobucket.bench.example_models import CHANNELS, DIMENSIONS, Ranking, Retrieval

QUEUE_OF = {"similar": "queue_a", "behaviour": "queue_a", "popular": "queue_b", "graph": "queue_b"}
_CALL = struct.Struct("<IqIId")  # request number, user, items, truncation, degradation
_ANSWER = struct.Struct("<III")  # request number, items ranked, items shown
_MOST_BODY = 65536


class RankingClient:
    """Calls the ranking process over a socket pair; answers come back in any order."""

    def __init__(self) -> None:
        here, there = socket.socketpair()
        self.process = subprocess.Popen(
            [sys.executable, "-m", "autobucket.bench.example_service", "--ranking-fd", str(there.fileno())],
            pass_fds=[there.fileno()],
        )
        there.close()
        self.socket = here
        self.waiting: dict[int, asyncio.Future[tuple[int, list[int]]]] = {}
        self.number = 0

    async def open(self) -> None:
        """Wait until the other process is ready, then listen to it."""
        self.reader, self.writer = await asyncio.open_connection(sock=self.socket)
        await self.reader.readexactly(1)
        self.listener = asyncio.create_task(self._listen())

    async def rank(self, user: int, ids: np.ndarray, truncation: int, degradation: float) -> tuple[int, list[int]]:
        """(items ranked, page)."""
        self.number = (self.number + 1) % (1 << 32)
        future = self.waiting[self.number] = asyncio.get_running_loop().create_future()
        call = _CALL.pack(self.number, user, len(ids), truncation, degradation)
        self.writer.write(call + ids.astype("<i4").tobytes())
        answer: tuple[int, list[int]] = await future
        return answer

    async def _listen(self) -> None:
        try:
            while True:
                number, ranked, shown = _ANSWER.unpack(await self.reader.readexactly(_ANSWER.size))
                page = np.frombuffer(await self.reader.readexactly(4 * shown), "<i4")
                self.waiting.pop(number).set_result((ranked, page.tolist()))
        except (asyncio.IncompleteReadError, OSError):
            for future in self.waiting.values():
                future.set_exception(ConnectionError("the ranking process has ended"))


class Service:
    """HTTP front and retrieval."""

    def __init__(self, most_waiting: int) -> None:
        self.retrieval, self.ranking = Retrieval(), RankingClient()
        self.waiting, self.most_waiting = 0, most_waiting

    def application(self) -> web.Application:
        """The pages of the service; the ranking process lives as long as they do."""
        application = web.Application(client_max_size=_MOST_BODY)
        application.router.add_get("/health", self.health)
        application.router.add_post("/noop", self.noop)
        application.router.add_post("/serve", self.serve)
        application.cleanup_ctx.append(self._ranking_process)
        return application

    async def health(self, request: web.Request) -> web.Response:
        """Process ids of the two services."""
        return web.json_response({"services": {"retrieval": os.getpid(), "ranking": self.ranking.process.pid}})

    async def noop(self, request: web.Request) -> web.Response:
        """A request without work."""
        return web.json_response({})

    async def serve(self, request: web.Request) -> web.Response:
        """The cascade's results; 400 for a bad request, 503 when too many wait or the ranking process has ended."""
        body = await request.read()
        if self.waiting >= self.most_waiting:  # better a quick no than an answer that nobody waits for any more
            return web.json_response({"error": f"busy: {self.waiting} requests are waiting"}, status=503)
        self.waiting += 1
        try:
            return web.json_response(await self.cascade(json.loads(body)))
        except (ValueError, TypeError, KeyError) as error:
            return web.json_response({"error": f"{type(error).__name__}: {error}"}, status=400)
        except ConnectionError as error:
            return web.json_response({"error": str(error)}, status=503)
        finally:
            self.waiting -= 1

    async def cascade(self, fields: Mapping[str, Any]) -> dict[str, Any]:
        """Run the cascade for one request; ValueError, TypeError or KeyError for one that it refuses."""
        user, model = int(fields.get("user", 0)), str(fields["model"])
        names = [name for name in str(fields["channels"]).split("+") if name]
        if model not in DIMENSIONS or not names or set(names) - set(CHANNELS):
            raise ValueError(
                f"model {model!r} or channels {names} unknown; known are {list(DIMENSIONS)}, {list(CHANNELS)}"
            )
        lengths = {name: int(fields[QUEUE_OF[name]]) for name in names}
        truncation, degradation = int(fields["truncation"]), float(fields.get("degradation", 0))
        if min([*lengths.values(), truncation]) < 1 or max([*lengths.values(), truncation]) > 10_000 or user < 0:
            raise ValueError("queue lengths and truncation must be from 1 to 10000, user at least 0")
        ids, _ = self.retrieval(user, str(fields.get("value", "")), lengths, model)
        ranked, page = await self.ranking.rank(user, ids, truncation, degradation)
        return {"retrieved": len(ids), "preranked": ranked, "items": page}

    async def _ranking_process(self, application: web.Application) -> AsyncIterator[None]:
        try:
            await self.ranking.open()
            yield
        finally:
            self.ranking.process.kill()
            self.ranking.process.wait()


def serve_ranking(descriptor: int) -> None:
    """The ranking process: one call after the other until the socket closes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the front decides when to end
    ranking = Ranking()
    with socket.socket(fileno=descriptor) as connection, connection.makefile("rb") as stream:
        connection.sendall(b"+")
        while len(head := stream.read(_CALL.size)) == _CALL.size:
            number, user, n, truncation, degradation = _CALL.unpack(head)
            ids = np.frombuffer(stream.read(4 * n), "<i4")
            page, ranked = ranking(user, ids, truncation, degradation)
            connection.sendall(_ANSWER.pack(number, ranked, len(page)) + page.astype("<i4").tobytes())


def main() -> None:
    """Parse the command line and serve."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, default=8080)
    parser.add_argument("--address", default="127.0.0.1")
    parser.add_argument(
        "--most-waiting", type=int, default=48, help="requests in work before new ones are refused (503)"
    )
    parser.add_argument("--ranking-fd", type=int, default=None, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.ranking_fd is not None:
        serve_ranking(arguments.ranking_fd)
        return
    try:
        web.run_app(
            Service(arguments.most_waiting).application(),
            host=arguments.address,
            port=arguments.port,
            access_log=None,
            print=None,
            shutdown_timeout=1.0,
        )
    except OSError as error:
        sys.exit(f"cannot listen on {arguments.address}:{arguments.port}: {error.strerror}")


if __name__ == "__main__":
    main()
