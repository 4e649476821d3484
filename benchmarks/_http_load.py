"""Load for an HTTP server from one thread: as fast as it answers, or at a given rate whatever it does."""

from __future__ import annotations

import selectors
import socket
import time
from collections import deque
from dataclasses import dataclass, field

import numpy as np

_STATUS, _GOOD = b"HTTP/1.1 ", b"HTTP/1.1 200"
_PATIENCE = 10.0  # seconds without any answer until what is open counts as lost


@dataclass
class Loaded:
    """What came back."""

    seconds: float = 0.0
    sent: int = 0
    good: int = 0  # answered by 200
    latencies: list[float] = field(default_factory=list)  # seconds from when a request was due to its answer

    @property
    def lost(self) -> int:
        """Requests without an answer, or with another one than 200."""
        return self.sent - self.good

    def quantile_ms(self, share: float) -> float:
        """Quantile of the latencies, milliseconds."""
        return 1e3 * float(np.quantile(self.latencies, share))


class Links:
    """Connections that are kept open, each with the due times of the requests it has not answered."""

    def __init__(self, port: int, count: int) -> None:
        self.selector, self.open = selectors.DefaultSelector(), 0
        self.links: list[tuple[socket.socket, deque[float]]] = []
        self.loaded = Loaded()
        self._tails: dict[int, bytes] = {}
        for _ in range(count):
            link = socket.create_connection(("127.0.0.1", port))
            link.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self.links.append((link, deque()))
            self.selector.register(link, selectors.EVENT_READ, self.links[-1])

    def send(self, place: int, request: bytes, due: float, times: int = 1) -> None:
        """Write a request ``times`` times to one connection."""
        link, waiting = self.links[place % len(self.links)]
        link.sendall(request * times)
        waiting.extend([due] * times)
        self.open += times
        self.loaded.sent += times

    def receive(self, timeout: float) -> list[int]:
        """Take what has come; places of connections that wait for nothing any more. A status line may come in two parts."""
        idle = []
        for key, _ in self.selector.select(timeout):
            link, waiting = key.data
            data = self._tails.pop(link.fileno(), b"") + link.recv(1 << 20)
            if not data:
                raise ConnectionError("the server closed a connection")
            cut = len(data) - len(_GOOD) + 1
            count, good = data.count(_STATUS, 0, cut + len(_STATUS) - 1), data.count(_GOOD)
            self._tails[link.fileno()] = data[max(cut, 0) :]
            now = time.perf_counter()
            self.loaded.latencies += [now - waiting.popleft() for _ in range(count)]
            self.loaded.good += good
            self.open -= count
            if not waiting:
                idle.append(next(i for i, one in enumerate(self.links) if one[0] is link))
        return idle

    def close(self) -> None:
        """Wait for what is open, then close."""
        end = time.perf_counter() + _PATIENCE
        while self.open and time.perf_counter() < end:
            self.receive(0.1)
        for link, _ in self.links:
            link.close()
        self.selector.close()


def as_fast_as_answered(port: int, requests: list[bytes], seconds: float, connections: int, depth: int) -> Loaded:
    """Keep ``depth`` requests open on each connection for ``seconds``."""
    links, turn = Links(port, connections), 0
    start = time.perf_counter()
    idle = list(range(connections))
    while time.perf_counter() - start < seconds:
        for place in idle:
            links.send(place, requests[turn % len(requests)], time.perf_counter(), depth)
            turn += 1
        idle = links.receive(_PATIENCE)
    links.loaded.seconds = time.perf_counter() - start
    links.close()
    return links.loaded


def at_a_rate(port: int, requests: list[bytes], seconds: float, per_s: float, connections: int, seed: int) -> Loaded:
    """Send requests at the times of a Poisson process; latencies count from when each was due, so that queues show."""
    due = np.cumsum(np.random.default_rng(seed).exponential(1 / per_s, int(per_s * seconds))).tolist()
    links, place = Links(port, connections), 0
    start = time.perf_counter()
    while place < len(due):
        now = time.perf_counter() - start
        while place < len(due) and due[place] <= now:
            links.send(place, requests[place % len(requests)], start + due[place])
            place += 1
        if place < len(due):
            links.receive(max(due[place] - (time.perf_counter() - start), 0.0))
    links.loaded.seconds = time.perf_counter() - start
    links.close()
    return links.loaded
