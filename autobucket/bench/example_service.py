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
from collections.abc import Mapping
from typing import Any

import numpy as np

from autobucket.bench.example_models import CHANNELS, DIMENSIONS, Ranking, Retrieval

QUEUE_OF = {"similar": "queue_a", "behaviour": "queue_a", "popular": "queue_b", "graph": "queue_b"}
_CALL = struct.Struct("<IqIId")  # request number, user, items, truncation, degradation
_ANSWER = struct.Struct("<III")  # request number, items ranked, items shown
_REASONS = {200: "OK", 400: "Bad Request", 404: "Not Found", 413: "Payload Too Large", 503: "Service Unavailable"}
_MOST_BODY = 65536


class BadRequest(Exception):
    """A request that the service refuses."""


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
        return await future

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

    def __init__(self, ranking: RankingClient, most_waiting: int) -> None:
        self.retrieval, self.ranking = Retrieval(), ranking
        self.waiting, self.most_waiting = 0, most_waiting

    async def answer(self, method: str, path: str, body: bytes) -> tuple[int, Mapping[str, Any]]:
        """(status, content) of one request."""
        if path == "/health":
            return 200, {"services": {"retrieval": os.getpid(), "ranking": self.ranking.process.pid}}
        if path == "/noop":
            return 200, {}
        if path != "/serve" or method != "POST":
            return 404, {"error": f"no such page: {method} {path}"}
        if self.waiting >= self.most_waiting:  # better a quick no than an answer that nobody waits for any more
            return 503, {"error": f"busy: {self.waiting} requests are waiting"}
        self.waiting += 1
        try:
            return 200, await self.serve(json.loads(body))
        except (BadRequest, ValueError, TypeError, KeyError) as error:
            return 400, {"error": f"{type(error).__name__}: {error}"}
        except ConnectionError as error:
            return 503, {"error": str(error)}
        finally:
            self.waiting -= 1

    async def serve(self, fields: Mapping[str, Any]) -> dict[str, Any]:
        """Run the cascade for one request."""
        user, model = int(fields.get("user", 0)), str(fields["model"])
        names = [name for name in str(fields["channels"]).split("+") if name]
        if model not in DIMENSIONS or not names or set(names) - set(CHANNELS):
            raise BadRequest(
                f"model {model!r} or channels {names} unknown; known are {list(DIMENSIONS)}, {list(CHANNELS)}"
            )
        lengths = {name: int(fields[QUEUE_OF[name]]) for name in names}
        truncation, degradation = int(fields["truncation"]), float(fields.get("degradation", 0))
        if min([*lengths.values(), truncation]) < 1 or max([*lengths.values(), truncation]) > 10_000 or user < 0:
            raise BadRequest("queue lengths and truncation must be from 1 to 10000, user at least 0")
        ids, _ = self.retrieval(user, str(fields.get("value", "")), lengths, model)
        ranked, page = await self.ranking.rank(user, ids, truncation, degradation)
        return {"retrieved": len(ids), "preranked": ranked, "items": page}

    async def connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer requests of one connection until it closes."""
        try:
            while (request := await _read_request(reader)) is not None:
                method, path, body, keep = request
                status, content = (
                    (413, {"error": "too large"}) if body is None else await self.answer(method, path, body)
                )
                writer.write(_response(status, content))
                await writer.drain()
                if not keep or body is None:
                    break
        except (asyncio.IncompleteReadError, asyncio.LimitOverrunError, ConnectionError, ValueError):
            pass
        finally:
            writer.close()


async def _read_request(reader: asyncio.StreamReader) -> tuple[str, str, bytes | None, bool] | None:
    try:
        head = await reader.readuntil(b"\r\n\r\n")
    except asyncio.IncompleteReadError:
        return None
    first, *lines = head.decode("latin-1").split("\r\n")
    method, path, _ = first.split(" ", 2)
    headers = {name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    length = int(headers.get("content-length", "0"))
    body = await reader.readexactly(length) if 0 <= length <= _MOST_BODY else None
    return method, path, body, headers.get("connection", "").lower() != "close"


def _response(status: int, content: Mapping[str, Any]) -> bytes:
    body = json.dumps(content).encode()
    head = (
        f"HTTP/1.1 {status} {_REASONS[status]}\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


async def serve_http(address: str, port: int, most_waiting: int) -> None:
    """Serve until SIGTERM or SIGINT."""
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    ranking = RankingClient()
    try:
        service = Service(ranking, most_waiting)
        await ranking.open()
        server = await asyncio.start_server(service.connection, address, port)
        async with server:
            await stop.wait()
            server.close()
    finally:
        ranking.process.kill()
        ranking.process.wait()


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
        asyncio.run(serve_http(arguments.address, arguments.port, arguments.most_waiting))
    except OSError as error:
        sys.exit(f"cannot listen on {arguments.address}:{arguments.port}: {error.strerror}")


if __name__ == "__main__":
    main()
