"""The target interface: start → process ids, send without blocking, an echo of realised results, stop."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from autobucket.bench.target.clocks import CpuClock


@dataclass(frozen=True)
class Reply:
    """What came of one request."""

    status: Literal["ok", "error", "lost"]  # lost: no answer in time
    finished: float  # moment on the event loop's clock, time.monotonic()
    results: Mapping[str, Any] = field(default_factory=dict)  # the echo: realised results by name
    detail: str = ""  # why it failed, one line


class Target(Protocol):
    """A service that can be put under load."""

    async def start(self) -> dict[str, int]:
        """Start it, wait until it answers, return service → root process id. Failure is a UserError."""
        ...

    def send(self, request: Mapping[str, Any]) -> asyncio.Future[Reply]:
        """Send a request at once; the future never raises."""
        ...

    def send_noop(self) -> asyncio.Future[Reply] | None:
        """A request that asks for no work; None where the target knows none."""
        ...

    def clock(self) -> CpuClock:
        """Its CPU clock, since its start."""
        ...

    def switches(self) -> tuple[int, int]:
        """Voluntary and involuntary context switches so far."""
        ...

    def ended(self) -> str | None:
        """One line when it has ended by itself, else None."""
        ...

    async def stop(self) -> None:
        """End it and everything it started; safe to call twice."""
        ...
