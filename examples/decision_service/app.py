"""The service over HTTP, as a plain ASGI application: paths, bodies and status codes."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import sys
import threading
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any

import pyarrow as pa

from examples.decision_service.metrics_text import metrics_text
from examples.decision_service.price_push import Refused
from examples.decision_service.served_policy import ServedPolicy
from examples.decision_service.service import DecisionService
from marca_common.errors import UserError

log = logging.getLogger(__name__)
ARROW, JSON, TEXT = b"application/vnd.apache.arrow.stream", b"application/json", b"text/plain; version=0.0.4"
Receive = Callable[[], Awaitable[dict[str, Any]]]
Send = Callable[[dict[str, Any]], Awaitable[None]]
Answer = tuple[int, bytes, bytes]  # status, content type, body


class App:
    """GET /decide?column=value…, POST /decide (Arrow or JSON), POST /lambda, POST /reload, GET /metrics, GET /health."""

    def __init__(self, service: DecisionService) -> None:
        self.service = service
        self._aside = ThreadPoolExecutor(1, initializer=_step_back)  # reads policies and writes the log, one at a time
        self._most = int(service.config.body_mb * 1e6)
        self._routes = {
            ("POST", "/decide"): self._many,
            ("POST", "/lambda"): self._push,
            ("POST", "/reload"): self._reload,
            ("GET", "/metrics"): self._metrics,
            ("GET", "/health"): self._health,
        }

    async def __call__(self, scope: dict[str, Any], receive: Receive, send: Send) -> None:
        """One request, or the start and the end of the server."""
        if scope["type"] == "lifespan":
            await self._live(receive, send)
            return
        if scope["path"] == "/decide" and scope["method"] == "GET":
            status, kind, body = self._one(scope["query_string"])
        else:
            status, kind, body = await self._other(scope, receive)
        headers = [(b"content-type", kind), (b"content-length", b"%d" % len(body))]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    def _one(self, query: bytes) -> Answer:
        try:
            return 200, JSON, self.service.one(query)
        except UserError as error:
            return self._bad(400, str(error))

    async def _other(self, scope: dict[str, Any], receive: Receive) -> Answer:
        route = self._routes.get((scope["method"], scope["path"]))
        if route is None:
            return self._bad(404, f"{scope['method']} {scope['path']}: no such address")
        body = await self._body(receive)
        if body is None:
            return self._bad(413, f"body: more than {self._most} bytes")
        try:
            return await route(scope, body)
        except (Refused, UserError) as error:
            return self._bad(400, str(error))

    async def _body(self, receive: Receive) -> bytes | None:
        """The whole body; None where it is too large."""
        parts, size, more = [], 0, True
        while more:
            message = await receive()
            part, more = message.get("body", b""), message.get("more_body", False)
            size += len(part)
            if size <= self._most:
                parts.append(part)
        return b"".join(parts) if size <= self._most else None

    async def _many(self, scope: dict[str, Any], body: bytes) -> Answer:
        if dict(scope["headers"]).get(b"content-type") == ARROW:
            return 200, ARROW, _arrow(self.service.many(_from_arrow(body)))
        rows = self.service.many(_from_json(body)).to_pylist()
        names = self.service.config.spec.sub_actions
        answers = [
            {**{k: v for k, v in row.items() if k not in names}, "actions": {k: row[k] for k in names}} for row in rows
        ]
        return 200, JSON, json.dumps(answers).encode()

    async def _push(self, scope: dict[str, Any], body: bytes) -> Answer:
        return 200, JSON, json.dumps(self.service.push(body)).encode()

    async def _reload(self, scope: dict[str, Any], body: bytes) -> Answer:
        """The new policy is read beside the requests and takes over between two of them; a bad one changes nothing."""
        try:
            policy = await asyncio.get_running_loop().run_in_executor(self._aside, self._read_policy)
        except UserError:
            self.service.counts["failed_reloads"] += 1
            raise
        self.service.swap(policy)
        self.service.counts["reloads"] += 1
        return 200, JSON, json.dumps({"policy": policy.version}).encode()

    def _read_policy(self) -> ServedPolicy:
        policy = ServedPolicy(self.service.config)
        self.service.log.keep_states(policy.version, policy.states)
        return policy

    async def _metrics(self, scope: dict[str, Any], body: bytes) -> Answer:
        return 200, TEXT, metrics_text(self.service).encode()

    async def _health(self, scope: dict[str, Any], body: bytes) -> Answer:
        content = {"policy": self.service.policy.version, "states": len(self.service.policy.states)}
        return 200, JSON, json.dumps(content | self.service.prices(), ensure_ascii=False).encode()

    def _bad(self, status: int, text: str) -> Answer:
        self.service.counts["bad_requests"] += 1
        return status, JSON, json.dumps({"error": text}, ensure_ascii=False).encode()

    async def _live(self, receive: Receive, send: Send) -> None:
        """Write the log while the server lives, and its rest at the end."""
        await receive()
        writer = asyncio.create_task(self._write_log())
        await send({"type": "lifespan.startup.complete"})
        await receive()
        writer.cancel()
        with suppress(asyncio.CancelledError):
            await writer  # a part that is being written is finished first
        self._aside.shutdown()
        self.service.log.write(self.service.log.take())
        self.service.log.close()
        await send({"type": "lifespan.shutdown.complete"})

    async def _write_log(self) -> None:
        loop, log = asyncio.get_running_loop(), self.service.log
        while True:
            await asyncio.sleep(self.service.config.log_s)
            await asyncio.shield(loop.run_in_executor(self._aside, log.write, log.take()))


def _step_back() -> None:
    """The thread gives way to the one that answers."""
    if sys.platform == "linux":  # elsewhere priorities belong to processes
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), 10)


def _from_arrow(body: bytes) -> pa.Table:
    try:
        table = pa.ipc.open_stream(body).read_all()
        table.validate(full=True)  # offsets and indices that point outside would end the process
        _ = table.column_names  # may be no UTF-8
        return table
    except (pa.ArrowException, OSError, ValueError) as error:
        raise UserError(f"body: not an Arrow stream: {str(error).partition(chr(10))[0][:120]}") from None


def _from_json(body: bytes) -> pa.Table:
    try:
        rows = json.loads(body)
        if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
            raise ValueError("no list of objects")
        names = list(dict.fromkeys(name for row in rows for name in row))
        texts = {name: [None if row.get(name) is None else str(row[name]) for row in rows] for name in names}
        return pa.table({name: pa.array(column, pa.string()) for name, column in texts.items()})
    except (ValueError, RecursionError) as error:
        raise UserError(f"body: expected a JSON list of states, each an object: {str(error)[:120]}") from None


def _arrow(table: pa.Table) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return sink.getvalue().to_pybytes()  # type: ignore[no-any-return]
