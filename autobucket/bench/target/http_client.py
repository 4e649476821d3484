"""A small non-blocking HTTP/1.1 client: kept-alive connections, JSON in and out, every outcome a Reply."""

from __future__ import annotations

import asyncio
import json
import time
from collections import deque
from collections.abc import Mapping
from typing import Any

from autobucket.bench.target.interface import Reply

_MOST_BYTES = 8 << 20


class _Connection(asyncio.Protocol):
    """One connection: at most one request on the way."""

    def __init__(self) -> None:
        self.transport: asyncio.Transport | None = None
        self.buffer = bytearray()
        self.waiting: asyncio.Future[tuple[int, bytes]] | None = None
        self.keep = True

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.buffer += data
        try:
            answer = parse_response(self.buffer)
        except ValueError as error:
            self._fail(str(error))
            return
        if answer is not None and self.waiting is not None and not self.waiting.done():
            status, body, self.keep = answer
            self.buffer.clear()
            self.waiting.set_result((status, body))

    def connection_lost(self, error: Exception | None) -> None:
        self.keep = False
        self._fail(f"connection closed{f': {error}' if error else ''}")

    def _fail(self, reason: str) -> None:
        self.keep = False
        if self.waiting is not None and not self.waiting.done():
            self.waiting.set_exception(ConnectionError(reason))


def parse_response(buffer: bytes | bytearray) -> tuple[int, bytes, bool] | None:
    """(status, body, keep-alive) of a complete response, None while more bytes are needed, ValueError when it is none."""
    if len(buffer) > _MOST_BYTES:
        raise ValueError(f"a reply of more than {_MOST_BYTES} bytes")
    head, blank, rest = bytes(buffer).partition(b"\r\n\r\n")
    if not blank:
        if len(buffer) > 65536 or (len(buffer) >= 5 and not buffer.startswith(b"HTTP/")):
            raise ValueError(f"not an HTTP reply: {bytes(buffer[:40])!r}")
        return None
    first, *lines = head.decode("latin-1").split("\r\n")
    words = first.split(" ", 2)
    if len(words) < 2 or not words[0].startswith("HTTP/") or not words[1].isdigit():
        raise ValueError(f"not an HTTP reply: {first[:40]!r}")
    headers = {name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    keep = headers.get("connection", "").lower() != "close" and words[0] != "HTTP/1.0"
    if headers.get("transfer-encoding", "").lower() == "chunked":
        body = _chunked(rest)
        return None if body is None else (int(words[1]), body, keep)
    length = headers.get("content-length")
    if length is None or not length.isdigit():
        raise ValueError("a reply without Content-Length")
    return (int(words[1]), rest[: int(length)], keep) if len(rest) >= int(length) else None


def _chunked(rest: bytes) -> bytes | None:
    body = bytearray()
    while True:
        size, line_end, rest = rest.partition(b"\r\n")
        if not line_end:
            return None
        try:
            n = int(size.split(b";")[0], 16)
        except ValueError:
            raise ValueError(f"not a chunk size: {size[:20]!r}") from None
        if n == 0:
            return bytes(body)
        if len(rest) < n + 2:
            return None
        body += rest[:n]
        rest = rest[n + 2 :]


class HttpClient:
    """Sends JSON requests over at most ``connections`` connections; beyond that they wait here, with their clocks running."""

    def __init__(self, address: str, port: int, *, connections: int, timeout_s: float) -> None:
        self.address, self.port, self.most, self.timeout_s = address, port, connections, timeout_s
        self._idle: deque[_Connection] = deque()
        self._slots = asyncio.Semaphore(connections)
        self._tasks: set[asyncio.Task[Reply]] = set()

    def send(self, method: str, path: str, content: Mapping[str, Any] | None = None) -> asyncio.Task[Reply]:
        """Start a request at once; the task ends with a Reply, whatever happens."""
        body = b"" if content is None else json.dumps(content).encode()
        head = f"{method} {path} HTTP/1.1\r\nHost: {self.address}\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        task = asyncio.ensure_future(self._exchange(head.encode() + body))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def close(self) -> None:
        """Drop everything that is on the way."""
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        while self._idle:
            _close(self._idle.pop())

    async def _exchange(self, data: bytes) -> Reply:
        try:
            async with asyncio.timeout(self.timeout_s):
                status, body = await self._attempt(data)
        except TimeoutError:
            return Reply("lost", time.perf_counter(), detail=f"no answer within {self.timeout_s:g} s")
        except OSError as error:
            return Reply("error", time.perf_counter(), detail=str(error) or type(error).__name__)
        finished = time.perf_counter()
        if status != 200:
            return Reply("error", finished, detail=f"HTTP {status}: {body[:120].decode(errors='replace')}")
        try:
            results = json.loads(body) if body else {}
        except ValueError:
            return Reply("error", finished, detail=f"the answer is not JSON: {body[:60]!r}")
        if not isinstance(results, dict):
            return Reply("error", finished, detail="the answer is not a JSON object")
        return Reply("ok", finished, results)

    async def _attempt(self, data: bytes) -> tuple[int, bytes]:
        async with self._slots:
            connection = await self._connect()
            try:
                connection.waiting = asyncio.get_running_loop().create_future()
                assert connection.transport is not None
                connection.transport.write(data)
                answer = await connection.waiting
            except BaseException:
                _close(connection)
                raise
            if connection.keep:
                self._idle.append(connection)
            else:
                _close(connection)
            return answer

    async def _connect(self) -> _Connection:
        while self._idle:
            connection = self._idle.pop()
            if connection.keep and connection.transport is not None and not connection.transport.is_closing():
                return connection
        _, made = await asyncio.get_running_loop().create_connection(_Connection, self.address, self.port)
        return made


def _close(connection: _Connection) -> None:
    connection.keep = False
    if connection.transport is not None:
        connection.transport.abort()
