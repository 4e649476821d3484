"""For the bench's tests: a target of known cost, an event loop whose time is not the wall's, targets that misbehave."""

from __future__ import annotations

import asyncio
import selectors
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np
import pytest

from autobucket.bench.target.clocks import MachineReading
from autobucket.bench.target.interface import Reply

CHANNEL_MS = {"similar": 0.4, "popular": 0.3, "behaviour": 0.5, "graph": 0.6}
MISBEHAVING = """
import json, os, sys, time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
mode, port = sys.argv[1], int(sys.argv[2])
served = 0
if mode == "exit":
    print("no model file"); sys.exit(3)
if mode == "silent":
    time.sleep(60)
class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def log_message(self, *words): pass
    def reply(self, content, status=200):
        body = json.dumps(content).encode() if isinstance(content, dict) else content
        self.send_response(status); self.send_header("Content-Length", str(len(body))); self.end_headers(); self.wfile.write(body)
    def do_GET(self):
        self.reply({"services": {"other": 1}} if mode == "claims" else {})
    def do_POST(self):
        global served
        served += 1
        self.rfile.read(int(self.headers["Content-Length"]))
        if mode == "noop" and self.path == "/noop": return self.reply({}, 404)
        if mode == "errors": return self.reply({"error": "out of order"}, 500)
        if mode == "hangs": time.sleep(60)
        if mode == "dies" and served > 5: os._exit(9)
        if mode == "text": return self.reply(b"hello")
        self.reply({"retrieved": 3} if mode == "partial" else {"retrieved": 3, "preranked": 2})
ThreadingHTTPServer(("127.0.0.1", port), Handler).serve_forever()
"""


class VirtualTimeLoop(asyncio.SelectorEventLoop):
    """An event loop that jumps to the next timer instead of waiting: what it runs never depends on the machine's speed."""

    def __init__(self) -> None:
        self.now = 1000.0
        super().__init__(_Jump(self))

    def time(self) -> Any:
        return self.now


class _Jump(selectors.SelectSelector):
    def __init__(self, loop: Any) -> None:
        super().__init__()
        self.loop = loop

    def select(self, timeout: Any = None) -> Any:
        if timeout is not None and timeout > 0:
            self.loop.now += timeout
        return super().select(None if timeout is None else 0)


@contextmanager
def virtual_time() -> Iterator[None]:
    """Let bench and live loop run on a virtual clock, on cores that are half busy."""

    def half_busy(cores: Any = None) -> Any:
        now = asyncio.get_running_loop().time()
        return MachineReading(0.5 * now, now)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("asyncio.Runner", partial(asyncio.Runner, loop_factory=VirtualTimeLoop))
        patch.setattr("autobucket.bench.measuring.load.read_machine", half_busy)
        yield


def true_cost_ms(request: Any, retrieved: Any, preranked: Any) -> Any:
    """Core-ms per service (tenths, so that a thousand a second fit on a core), additive and monotone, with a difference by model."""
    heavy = request["model"] == "heavy"
    channels = sum(CHANNEL_MS[name] for name in request["channels"].split("+")) * (1.5 if heavy else 1.0)
    retrieval = 0.8 + channels + retrieved * (0.02 if heavy else 0.01)
    ranking = 0.5 + 0.004 * retrieved + 0.04 * preranked - 0.1 * request.get("degradation", 0)
    return {"retrieval": retrieval / 10, "ranking": ranking / 10}


class FakeTarget:
    """Answers at once, as it were after a tenth of a millisecond; its clock adds the true cost of each request, times the luck of the round."""

    rounds = 0

    def __init__(self, noise: float = 0.0, fail: Any = None, interrupt_after: Any = None) -> None:
        self.noise, self.fail, self.interrupt_after = noise, fail, interrupt_after
        self.used = {"retrieval": 0.0, "ranking": 0.0}
        self.sent = 0
        self.luck = 1.0

    async def start(self) -> Any:
        FakeTarget.rounds += 1
        self.luck = 1 + self.noise * np.random.default_rng(FakeTarget.rounds).normal()
        return {"retrieval": 1, "ranking": 2}

    def send(self, request: Any) -> Any:
        self.sent += 1
        if self.interrupt_after is not None and self.sent > self.interrupt_after:
            raise KeyboardInterrupt
        supply = 60 + request["user"] % 40
        lengths = [("queue_a", ("similar", "behaviour")), ("queue_b", ("popular", "graph"))]
        opened = request["channels"].split("+")
        retrieved = sum(min(request[q], supply) for q, names in lengths for name in names if name in opened)
        preranked = min(retrieved, request["truncation"])
        for name, ms in true_cost_ms(request, retrieved, preranked).items():
            self.used[name] += ms * self.luck / 1000
        loop = asyncio.get_running_loop()
        future = loop.create_future()
        status: Any = self.fail or "ok"
        results = {"retrieved": retrieved, "preranked": preranked} if status == "ok" else {}
        future.set_result(Reply(status, loop.time() + 1e-4, results, "" if status == "ok" else "broken"))
        return future

    def send_noop(self) -> Any:
        loop = asyncio.get_running_loop()
        future = loop.create_future()
        self.used["retrieval"] += 0.00002
        future.set_result(Reply("ok", loop.time()))
        return future

    def clock(self) -> Any:
        return self

    def read(self) -> Any:
        return dict(self.used)

    def switches(self) -> Any:
        return 2 * self.sent, self.sent

    def ended(self) -> None:
        return None

    async def stop(self) -> None:
        pass


work = threading.local()  # done: sizes of all requests that ``burn`` has answered in this thread


def burn(request: Any) -> Any:
    """An in-process target: work in proportion to ``size``."""
    total = 0
    for i in range(int(request["size"]) * 300):
        total += i
    work.done = getattr(work, "done", 0) + request["size"]
    if request["size"] == 13:
        raise ValueError("unlucky")
    return {"length": request["size"]}
