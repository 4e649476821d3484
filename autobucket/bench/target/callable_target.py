"""A Python function in this process, as a target: one worker thread, accounted by that thread's own CPU clock."""

from __future__ import annotations

import asyncio
import os
import queue
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

from autobucket.bench.bench_config import TargetConfig
from autobucket.bench.target.clocks import WorkerClock
from autobucket.bench.target.interface import Reply
from marca_common.dotted_path import load_by_path

Serve = Callable[[Mapping[str, Any]], Mapping[str, Any]]


class CallableTarget:
    """Calls ``serve(request) -> results`` one request after the other, in the order of sending."""

    def __init__(self, config: TargetConfig, serve: Serve | None = None) -> None:
        self.config = config
        self.serve = serve if serve is not None else load_by_path(config.callable or "", "target.callable")
        self._queue: queue.SimpleQueue[tuple[Mapping[str, Any], asyncio.Future[Reply]] | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._clock = WorkerClock(config.service)

    async def start(self) -> dict[str, int]:
        """Start the worker; its process is this one."""
        self._loop = asyncio.get_running_loop()
        self._thread = threading.Thread(target=self._work, daemon=True, name="bench-target")
        self._thread.start()
        return {self.config.service: os.getpid()}

    def send(self, request: Mapping[str, Any]) -> asyncio.Future[Reply]:
        """Put the request into the worker's queue."""
        assert self._loop is not None
        future: asyncio.Future[Reply] = self._loop.create_future()
        self._queue.put((request, future))
        self._loop.call_later(self.config.request_timeout_s, self._give_up, future)
        return future

    def send_noop(self) -> asyncio.Future[Reply] | None:
        """A function has no request without work."""
        return None

    def clock(self) -> WorkerClock:
        """CPU of the worker thread."""
        return self._clock

    def switches(self) -> tuple[int, int]:
        """Not known per thread."""
        return 0, 0

    def ended(self) -> str | None:
        """The worker only ends when told to."""
        return None

    async def stop(self) -> None:
        """End the worker after the request it is busy with."""
        if self._thread is not None:
            self._queue.put(None)
            await asyncio.to_thread(self._thread.join, self.config.request_timeout_s)
            self._thread = None

    def _give_up(self, future: asyncio.Future[Reply]) -> None:
        seconds = self.config.request_timeout_s
        _resolve(future, Reply("lost", time.monotonic(), detail=f"no answer within {seconds:g} s"))

    def _work(self) -> None:
        assert self._loop is not None
        while (item := self._queue.get()) is not None:
            request, future = item
            if future.done():  # given up on already
                continue
            try:
                results = dict(self.serve(request))
                reply = Reply("ok", time.monotonic(), results)
            except Exception as error:  # whatever the user's function raises is a failed request, not a failed bench
                reply = Reply("error", time.monotonic(), detail=f"{type(error).__name__}: {error}")
            self._clock.note()
            self._loop.call_soon_threadsafe(_resolve, future, reply)


def _resolve(future: asyncio.Future[Reply], reply: Reply) -> None:
    if not future.done():
        future.set_result(reply)
