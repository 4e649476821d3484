"""The process that computes: one request after the other, so that its clock is that of the request in work.

It answers over a socket: a call is a visit and a setting, an answer the page, what it took, and when it began.
"""

from __future__ import annotations

import asyncio
import signal
import socket
import struct
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from marca_common.compute import set_threads
from marca_common.errors import UserError
from recommender.build_parts import Parts
from recommender.cascade.accounting import serve_accounted
from recommender.service.finished_build import open_build
from recommender.truth.page_table import shown

_CALL = struct.Struct("<III")  # number of the call, visit, setting
_ANSWER = struct.Struct("<IIIIddd")  # number, retrieved, preranked, films, began, core-ms of retrieval and of ranking


@dataclass(frozen=True)
class Answer:
    """What came back."""

    films: list[int]
    retrieved: int
    preranked: int
    began: float  # on the clock of time.monotonic(), which all processes share
    retrieval_ms: float
    ranking_ms: float


class Worker:
    """The other end: starts the process, sends calls, hands out answers."""

    def __init__(self, build: Path) -> None:
        here, there = socket.socketpair()
        command = [sys.executable, "-m", "recommender.service.worker", str(build), str(there.fileno())]
        self.process = subprocess.Popen(command, pass_fds=[there.fileno()])
        there.close()
        self._socket, self._number = here, 0
        self._waiting: dict[int, asyncio.Future[Answer]] = {}

    async def open(self, timeout_s: float) -> None:
        """Wait until the models are loaded, then listen; a UserError where that fails."""
        self._reader, self._writer = await asyncio.open_connection(sock=self._socket)
        try:
            await asyncio.wait_for(self._reader.readexactly(1), timeout_s)
        except TimeoutError:
            raise UserError(f"start_timeout_s: the cascade was not ready within {timeout_s:g} s") from None
        except asyncio.IncompleteReadError:
            raise UserError("the cascade's process ended before it was ready; its own line says why") from None
        self._listener = asyncio.create_task(self._listen())

    def ask(self, visit: int, setting: int) -> asyncio.Future[Answer]:
        """Send a call; the future fails with ConnectionError where the process has ended."""
        self._number = (self._number + 1) % (1 << 32)
        future: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        if self._listener.done():
            future.set_exception(ConnectionError("the cascade's process has ended"))
        else:
            self._waiting[self._number] = future
            self._writer.write(_CALL.pack(self._number, visit, setting))
        return future

    @property
    def alive(self) -> bool:
        """Whether it answers."""
        return not self._listener.done()

    def close(self) -> None:
        """End the process."""
        self.process.kill()
        self.process.wait()

    async def _listen(self) -> None:
        with suppress(asyncio.IncompleteReadError, OSError):
            while True:
                number, *results = _ANSWER.unpack(await self._reader.readexactly(_ANSWER.size))
                retrieved, preranked, films, began, retrieval_ms, ranking_ms = results
                page = np.frombuffer(await self._reader.readexactly(4 * films), "<i4").tolist()
                future = self._waiting.pop(number)
                if not future.done():  # whoever asked may have gone
                    future.set_result(Answer(page, retrieved, preranked, began, retrieval_ms, ranking_ms))
        for future in self._waiting.values():
            if not future.done():
                future.set_exception(ConnectionError("the cascade's process has ended"))


def work(parts: Parts, descriptor: int) -> None:
    """Serve calls until the socket closes."""
    people, kept, cascade = parts.people, parts.pages.kept, parts.cascade
    with socket.socket(fileno=descriptor) as connection, connection.makefile("rb") as stream:
        connection.sendall(b"+")
        while len(head := stream.read(_CALL.size)) == _CALL.size:
            began = time.monotonic()
            number, visit, setting = _CALL.unpack(head)
            request = people.request(people.visits, visit, shown(kept[people.visits.user[visit]]))
            one = serve_accounted(cascade, request, parts.space.settings[setting])
            answer = _ANSWER.pack(number, one.retrieved, one.preranked, len(one.page), began, *one.cpu_ms)
            connection.sendall(answer + one.page.astype("<i4").tobytes())


def main() -> None:
    """Load the build named on the command line and work."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the front decides when to end
    set_threads(1)
    try:
        parts = open_build(Path(sys.argv[1]))
        parts.cascade, parts.pages  # noqa: B018 - read now, not at the first request
    except UserError as error:
        sys.exit(f"error: {error}")
    with suppress(BrokenPipeError, ConnectionResetError):  # the front is gone
        work(parts, int(sys.argv[2]))


if __name__ == "__main__":
    main()
