"""Open-loop load: requests leave on an absolute schedule, whatever became of the earlier ones."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from autobucket.bench.target.clocks import machine_percent, read_machine
from autobucket.bench.target.interface import Reply, Target
from marca_common.errors import UserError


def schedule(kind: str, rate: float, seconds: float, generator: np.random.Generator, jitter: float = 0.5) -> np.ndarray:
    """Intended send times in [0, seconds), rising, exactly round(rate · seconds) of them (at least 1).

    poisson: a Poisson process given its count (uniform order statistics); jittered: equal gaps, each send moved by up to
    ``jitter`` gaps; constant: equal gaps.
    """
    n = max(int(round(rate * seconds)), 1)
    if kind == "poisson":
        return np.sort(generator.uniform(0, seconds, n))
    even = (np.arange(n) + 0.5) * (seconds / n)
    if kind == "constant":
        return even
    if kind == "jittered":
        return np.sort(np.clip(even + generator.uniform(-jitter, jitter, n) * seconds / n, 0, np.nextafter(seconds, 0)))
    raise ValueError(f"unknown arrivals {kind!r}")


@dataclass
class Budget:
    """What the bench may still do; every sender draws from it."""

    requests: int
    deadline: float = np.inf  # moment on the event loop's clock
    failures: int = 0  # consecutive failed requests so far
    abort_errors: int = 1 << 30

    def take(self, n: int) -> None:
        """Spend ``n`` requests; UserError when there are not so many left."""
        if n > self.requests:
            raise UserError(
                f"max_requests: {n} more requests wanted, {self.requests} left; raise the limit or ask for less"
            )
        self.requests -= n

    def left_s(self) -> float:
        """Seconds until the deadline."""
        return self.deadline - asyncio.get_running_loop().time()

    def note(self, reply: Reply) -> None:
        """Count failures in a row."""
        self.failures = 0 if reply.status == "ok" else self.failures + 1


LEAST_CPU_S = 2e-6  # of one answered request: no service that reads and answers HTTP uses less
CLOCK_STEP_S = 0.011  # the coarsest clock counts in hundredths of a second


@dataclass
class LoadWindow:
    """One measurement: what was asked of the target, what it did, and what that cost."""

    asked_qps: float
    seconds: float  # wall time over which CPU was read
    sent: int
    ok: int
    errors: int
    lost: int
    served_qps: float  # answers per second of the time they took, at most the asked rate's window
    cpu: dict[str, float]  # service → CPU seconds
    machine_percent: float  # p% of Eq. 26, of the target's cores
    switches: tuple[int, int]  # voluntary, involuntary context switches
    lateness_ms: list[float]  # sent later than intended
    latency_ms: list[float]  # from the intended send time, answered requests only
    results: list[dict[str, Any]] = field(default_factory=list)  # echo per request; {} where it failed
    detail: str = ""  # the last failure

    @property
    def cpu_total(self) -> float:
        """CPU seconds of all services."""
        return float(sum(self.cpu.values()))


async def drive(
    target: Target,
    requests: Sequence[Mapping[str, Any]],
    times: np.ndarray,
    budget: Budget,
    *,
    horizon_s: float,
    cores: Sequence[int] | None = None,
    noop: bool = False,
) -> LoadWindow:
    """Send ``requests`` over and over at ``times`` (n,) and account for the window, from before the first to the last answer.

    Raises UserError when the target ends or only fails.
    """
    budget.take(len(times))
    clock = target.clock()
    loop = asyncio.get_running_loop()
    replies: list[asyncio.Future[Reply]] = []
    lateness: list[float] = []
    cpu_before, switches_before, machine_before = clock.read(), target.switches(), read_machine(cores)
    start = loop.time()
    for i, at in enumerate(times):
        await _until(loop, start + at)
        lateness.append(1000 * (loop.time() - start - at))
        future = target.send_noop() if noop else target.send(requests[i % len(requests)])
        assert future is not None
        future.add_done_callback(_noting(budget))
        replies.append(future)
        if budget.failures >= budget.abort_errors or (i % 16 == 0 and target.ended()):
            break
    if len(replies) == len(times):
        await _until(loop, start + horizon_s)
    answers = list(await asyncio.gather(*replies)) if replies else []
    seconds = loop.time() - start
    window = _window(answers, times, lateness, start, seconds, horizon_s)
    cpu_after, switches_after = clock.read(), target.switches()
    _require_alive(target, answers, budget)
    window.cpu = {name: cpu_after[name] - cpu_before.get(name, 0.0) for name in cpu_after}
    require_cpu(window.cpu, window.ok)
    window.switches = (switches_after[0] - switches_before[0], switches_after[1] - switches_before[1])
    window.machine_percent = machine_percent(machine_before, read_machine(cores))
    return window


async def one_by_one(
    target: Target, requests: Sequence[Mapping[str, Any]], budget: Budget
) -> tuple[list[Reply], list[float]]:
    """Each request once, the next after the answer: (replies, milliseconds each took). Ends at a failure or when time is up."""
    budget.take(len(requests))
    replies: list[Reply] = []
    took: list[float] = []
    for request in requests:
        started = asyncio.get_running_loop().time()
        reply = await target.send(request)
        budget.note(reply)
        replies.append(reply)
        took.append(1000 * (reply.finished - started))
        if reply.status != "ok" or budget.left_s() < 0:
            break
    _require_alive(target, replies, budget)
    return replies, took


async def rest(target: Target, seconds: float, cores: Sequence[int] | None = None) -> LoadWindow:
    """The idle baseline: CPU that the target uses without requests."""
    clock, loop = target.clock(), asyncio.get_running_loop()
    cpu_before, machine_before, start = clock.read(), read_machine(cores), loop.time()
    await asyncio.sleep(seconds)
    spent, cpu_after = loop.time() - start, clock.read()
    cpu = {name: cpu_after[name] - cpu_before.get(name, 0.0) for name in cpu_after}
    percent = machine_percent(machine_before, read_machine(cores))
    return LoadWindow(0.0, spent, 0, 0, 0, 0, 0.0, cpu, percent, (0, 0), [], [])


async def _until(loop: asyncio.AbstractEventLoop, moment: float) -> None:
    delay = moment - loop.time()
    await asyncio.sleep(max(delay, 0.0))  # also lets answers in when late


def _noting(budget: Budget) -> Callable[[asyncio.Future[Reply]], None]:
    def note(future: asyncio.Future[Reply]) -> None:
        if not future.cancelled():
            budget.note(future.result())

    return note


def _window(
    answers: list[Reply], times: np.ndarray, lateness: list[float], start: float, seconds: float, horizon_s: float
) -> LoadWindow:
    good = [(reply, at) for reply, at in zip(answers, times) if reply.status == "ok"]
    ended = max([horizon_s, *(reply.finished - start for reply, _ in good)])
    failed = next((reply.detail for reply in reversed(answers) if reply.status != "ok"), "")
    return LoadWindow(
        asked_qps=len(times) / horizon_s,
        seconds=seconds,
        sent=len(answers),
        ok=len(good),
        errors=sum(reply.status == "error" for reply in answers),
        lost=sum(reply.status == "lost" for reply in answers),
        served_qps=len(good) / ended,
        cpu={},
        machine_percent=float("nan"),
        switches=(0, 0),
        lateness_ms=lateness,
        latency_ms=[1000 * (reply.finished - start - at) for reply, at in good],
        results=[dict(reply.results) for reply in answers],
        detail=failed,
    )


def require_cpu(cpu: Mapping[str, float], answered: int) -> None:
    """A UserError where the clock looks at the wrong processes.

    ``cpu``: seconds per service while ``answered`` requests were answered. A clock that falls is refused, and one that sees
    (nearly) nothing.
    """
    for service, seconds in cpu.items():
        if seconds < -CLOCK_STEP_S:
            raise UserError(
                f"target: the CPU clock of service {service!r} fell by {-seconds:.3g} s while under load: one of its processes "
                "ended or was replaced; expected processes that live through the bench, or accounting.cgroup"
            )
    total = sum(cpu.values())
    if answered and total < LEAST_CPU_S * answered:
        raise UserError(
            f"target: {total:.3g} CPU seconds while {answered} requests were answered: the processes that answer are "
            "not children of the started command (a daemon, a container); expected their CPU, or accounting.cgroup"
        )


def _require_alive(target: Target, answers: list[Reply], budget: Budget) -> None:
    ended = target.ended()
    if ended is not None:
        raise UserError(f"target: {ended}, while under load")
    if budget.failures >= budget.abort_errors:
        raise UserError(f"target: {budget.failures} requests in a row failed; the last: {answers[-1].detail}")
