"""Run a coroutine from ordinary code, in a notebook (where a loop is running already) as well."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import suppress
from typing import Any, TypeVar

T = TypeVar("T")


def run_async(make: Callable[[], Coroutine[Any, Any, T]]) -> T:
    """The result of ``make()``; where this thread has a running loop, it runs in a thread of its own meanwhile.

    Ctrl-C cancels the coroutine, waits for its clean-up, and goes on as KeyboardInterrupt.
    """
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        with asyncio.Runner() as runner:
            return runner.run(make())
    return _in_thread(make)


def _in_thread(make: Callable[[], Coroutine[Any, Any, T]]) -> T:
    started: list[tuple[asyncio.AbstractEventLoop, asyncio.Task[Any]]] = []
    interrupted = threading.Event()

    async def work() -> T:
        task = asyncio.current_task()
        assert task is not None
        started.append((asyncio.get_running_loop(), task))
        if interrupted.is_set():  # before it began
            raise asyncio.CancelledError
        return await make()

    with ThreadPoolExecutor(1) as pool:  # leaving it waits for the work's clean-up
        pool.submit(int).result()  # makes the thread: an interrupt while it starts finds no work yet
        try:
            future = pool.submit(lambda: asyncio.run(work()))
            while not future.done():  # a Ctrl-C that comes just before an endless wait would be heeded at its end
                wait([future], timeout=0.2)
            return future.result()
        except KeyboardInterrupt:
            interrupted.set()
            for loop, task in started:
                with suppress(RuntimeError):  # it has just ended
                    loop.call_soon_threadsafe(task.cancel)
            raise
