"""Targets that answer in other ways than the example service: accepted rightly, counted as an error, or refused in one line."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import numpy as np
import pytest

from autobucket.bench.bench_config import AccountingConfig, LiveConfig, TargetConfig
from autobucket.bench.live.live_loop import LiveLoop
from autobucket.bench.live.queue_controllers import FixedQueueController
from autobucket.bench.measuring.load import Budget, LoadWindow, drive
from autobucket.bench.measuring.run_async import run_async
from autobucket.bench.target.http_target import HttpTarget, JsonClient
from autobucket.bench.target.interface import Reply
from marca_common.errors import UserError
from tests.autobucket.bench_fakes import MISBEHAVING, virtual_time

Answer = Callable[[asyncio.StreamWriter], Awaitable[None]]


@asynccontextmanager
async def served(answer: Answer) -> AsyncIterator[int]:
    """A server on a free port that reads each request of a connection and answers it as told."""

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
                lengths = [line.partition(":")[2] for line in head.splitlines() if line.startswith("content-length:")]
                await reader.readexactly(int(lengths[0]) if lengths else 0)
                await answer(writer)
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()

    server = await asyncio.start_server(talk, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()


def text(raw: str) -> Answer:
    async def answer(writer: asyncio.StreamWriter) -> None:
        writer.write(raw.replace("\n", "\r\n").encode())

    return answer


async def late_end(writer: asyncio.StreamWriter) -> None:
    writer.write(b'HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n7\r\n{"a":1}\r\n0\r\n')
    await writer.drain()
    await asyncio.sleep(0.005)
    writer.write(b"\r\n")


async def hangs_up(writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}")
    await writer.drain()
    writer.close()


async def drips(writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{")
    await writer.drain()
    await asyncio.sleep(0.5)


async def cuts(writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{")
    await writer.drain()
    writer.close()


def ask(answer: Answer, times: int = 3) -> list[Reply]:
    async def run() -> list[Reply]:
        async with served(answer) as port:
            client = JsonClient("127.0.0.1", port, timeout_s=0.2)
            replies = []
            for _ in range(times):
                replies.append(await client.send("POST", "/serve", {"a": 1}))
                await asyncio.sleep(0.01)
            await client.close()
            return replies

    return asyncio.run(run())


@pytest.mark.parametrize(
    ("answer", "results"),
    [
        (text('HTTP/1.1 200 OK\nContent-Length: 7\n\n{"a":1}'), {"a": 1}),
        (text('HTTP/1.1 201 Created\nContent-Length: 7\n\n{"a":1}'), {"a": 1}),
        (text("HTTP/1.1 202 Accepted\nContent-Length: 0\n\n"), {}),
        (text("HTTP/1.1 204 No Content\n\n"), {}),
        (text('HTTP/1.1 100 Continue\n\nHTTP/1.1 200 OK\nContent-Length: 7\n\n{"a":1}'), {"a": 1}),
        (late_end, {"a": 1}),
        (hangs_up, {}),
        (text('HTTP/1.0 200 OK\nConnection: keep-alive\nContent-Length: 7\n\n{"a":1}'), {"a": 1}),
    ],
)
def test_answers_of_other_forms_count_as_answers(answer: Answer, results: dict[str, int]) -> None:
    replies = ask(answer)
    assert [(one.status, dict(one.results)) for one in replies] == 3 * [("ok", results)], replies[-1].detail


@pytest.mark.parametrize(
    ("answer", "status", "detail"),
    [
        (text("HTTP/1.1 302 Found\nLocation: /elsewhere\nContent-Length: 0\n\n"), "error", "HTTP 302"),
        (text("HTTP/1.1 503 Busy\nContent-Length: 4\n\nbusy"), "error", "HTTP 503: busy"),
        (text("HTTP/1.1 429 Too Many Requests\nContent-Length: 0\n\n"), "error", "HTTP 429"),
        (text("HTTP/1.1 200 OK\nContent-Length: 5\n\nhello"), "error", "not JSON"),
        (text("HTTP/1.1 200 OK\nContent-Length: 2\n\n[]"), "error", "not a JSON object"),
        (text('HTTP/1.1 200 OK\nContent-Length: 9\n\n{"a":NaN}'), "error", "not JSON"),
        (text("HTTP/1.1 200 OK\nContent-Length: many\n\n{}"), "error", "."),
        (text("ICY 200 OK\n\n"), "error", "."),
        (text("HTTP/1.1 200 OK\nX: " + 200_000 * "x" + "\n\n{}"), "error", "."),
        (cuts, "error", "."),
        (drips, "lost", "no answer within 0.2 s"),
    ],
)
def test_what_is_no_answer_is_counted_with_its_reason(answer: Answer, status: str, detail: str) -> None:
    for reply in ask(answer, times=2):
        assert reply.status == status
        assert detail in reply.detail or (detail == "." and reply.detail)


def test_nobody_there_is_an_error_with_its_reason() -> None:
    async def run() -> Reply:
        client = JsonClient("127.0.0.1", 1, timeout_s=1)
        reply = await client.send("POST", "/serve", {})
        await client.close()
        return reply

    assert asyncio.run(run()).status == "error"


@pytest.mark.slow
def test_a_target_whose_processes_are_elsewhere_is_refused(tmp_path: Path) -> None:
    script = tmp_path / "server.py"
    script.write_text(MISBEHAVING)
    served_by = [sys.executable, str(script), "well", "{port}"]
    handed_over = ["sh", "-c", f"(setsid timeout 20 {' '.join(served_by)} >/dev/null 2>&1 &); exec sleep 15"]

    async def load(command: list[str]) -> LoadWindow:
        target = HttpTarget(TargetConfig(command=command, noop_path=None), AccountingConfig())
        await target.start()
        try:
            return await drive(target, [{"a": 1}], np.arange(30) * 0.01, Budget(1000), horizon_s=0.5)
        finally:
            await target.stop()

    assert asyncio.run(load(served_by)).cpu_total > 0
    with pytest.raises(
        UserError, match=r"CPU seconds while 30 requests were answered: the processes that answer are not child"
    ):
        asyncio.run(load(handed_over))


class Clock:
    """Reads what it is told, in order."""

    def __init__(self, *readings: float) -> None:
        self.readings = list(readings)

    def read(self) -> dict[str, float]:
        return {"ranking": self.readings.pop(0)}


class Quick:
    """Answers at once; its clock reads what it is told."""

    def __init__(self, *readings: float) -> None:
        self._clock = Clock(*readings)

    async def start(self) -> dict[str, int]:
        return {}

    def send(self, request: object) -> asyncio.Future[Reply]:
        future: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()
        future.set_result(Reply("ok", asyncio.get_running_loop().time(), {}))
        return future

    def send_noop(self) -> None:
        return None

    def clock(self) -> Clock:
        return self._clock

    def switches(self) -> tuple[int, int]:
        return 0, 0

    def ended(self) -> str | None:
        return None

    async def stop(self) -> None:
        return None


@pytest.mark.parametrize(
    ("readings", "message"),
    [
        ((5.0, 5.0), "0 CPU seconds while 10 requests were answered"),
        ((5.0, 5.000001), "1e-06 CPU seconds while 10 requests"),
        ((5.0, 4.0), "the CPU clock of service 'ranking' fell by 1 s while under load"),
        ((5.0, 5.1), None),
    ],
)
def test_a_clock_that_stands_still_or_falls_is_refused(readings: tuple[float, float], message: str | None) -> None:
    async def load() -> LoadWindow:
        return await drive(Quick(*readings), [{}], np.zeros(10), Budget(100), horizon_s=0.0001)

    if message is None:
        assert asyncio.run(load()).cpu_total == pytest.approx(0.1)
    else:
        with pytest.raises(UserError, match=message):
            asyncio.run(load())


@pytest.mark.parametrize(
    ("readings", "message"),
    [
        ((5.0, 5.0), "0 CPU seconds while [0-9]+ requests were answered"),
        ((5.0, 6.0, 6.0, 6.0), None),  # judged from the start on: an interval without a step of the clock is nothing
        ((5.0, 5.1, 4.0), "the CPU clock of service 'ranking' fell by 1 s while under load"),
    ],
)
def test_the_live_loop_refuses_a_clock_that_stands_still_or_falls(
    readings: tuple[float, ...], message: str | None
) -> None:
    config = LiveConfig(seconds=1.5, interval_s=0.5, peak_qps=40)

    async def run() -> int:
        loop = LiveLoop(config, Quick(*readings), FixedQueueController(config), {"queue_a": 1}, cores=1)
        return len(await loop.run())

    with virtual_time():
        if message is None:
            assert run_async(run) == 3
        else:
            with pytest.raises(UserError, match=message):
                run_async(run)
