"""CPU seconds of the target: its own clocks over its process tree, a cgroup's usage, and the machine's p% beside them."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import psutil

from marca_common.errors import UserError


class CpuClock(Protocol):
    """Reads CPU seconds used so far, per service; never falls."""

    def read(self) -> dict[str, float]:
        """Service → CPU seconds."""
        ...


class TreeClock:
    """The processes' own CPU clocks, summed over each service's process tree.

    Nanoseconds from the kernel's per-process clock where it can be read (``clock_gettime``), else ``cpu_times``. Children
    that have ended are counted through their parent. A service inside another one's tree is left out of that one.
    """

    def __init__(self, roots: Mapping[str, int], seconds_of: Callable[[psutil.Process], float] | None = None) -> None:
        self.roots = dict(roots)
        self._seconds_of = seconds_of or process_seconds

    def read(self) -> dict[str, float]:
        """Service → CPU seconds; a tree that has ended counts 0."""
        return {name: sum(map(self._seconds_of, tree)) for name, tree in self.trees().items()}

    def trees(self) -> dict[str, list[psutil.Process]]:
        """Service → its live processes."""
        found: dict[str, list[psutil.Process]] = {}
        for name, pid in self.roots.items():
            try:
                found[name] = self._tree(psutil.Process(pid))
            except psutil.NoSuchProcess:
                found[name] = []
        return found

    def switches(self) -> tuple[int, int]:
        """Voluntary and involuntary context switches of all processes so far."""
        voluntary = involuntary = 0
        for process in {one for tree in self.trees().values() for one in tree}:
            try:
                count = process.num_ctx_switches()
            except psutil.Error:
                continue
            voluntary, involuntary = voluntary + count.voluntary, involuntary + count.involuntary
        return voluntary, involuntary

    def _tree(self, process: psutil.Process) -> list[psutil.Process]:
        tree, others = [process], set(self.roots.values()) - {process.pid}
        for child in process.children():
            if child.pid not in others:
                tree += self._tree(child)
        return tree


def process_seconds(process: psutil.Process) -> float:
    """CPU seconds of one process and of its ended, waited-for children."""
    try:
        times = process.cpu_times()
        own = _kernel_clock(process.pid)
    except psutil.Error:
        return 0.0
    reaped = getattr(times, "children_user", 0.0) + getattr(times, "children_system", 0.0)
    return (times.user + times.system if own is None else own) + reaped


def _kernel_clock(pid: int) -> float | None:
    try:
        return time.clock_gettime(~pid << 3 | 2)  # clock_getcpuclockid(3): the scheduler's clock of that process
    except (OSError, OverflowError, AttributeError):
        return None


class CgroupClock:
    """Usage of a cgroup (v2 ``cpu.stat``, v1 ``cpuacct.usage``): everything that ever ran in it, as one service."""

    def __init__(self, folder: Path, service: str) -> None:
        self.folder, self.service = folder, service
        try:
            self.read()
        except (OSError, ValueError, KeyError):
            raise UserError(
                f"accounting.cgroup: {folder}: neither cpu.stat with usage_usec nor cpuacct.usage is readable"
            ) from None

    def read(self) -> dict[str, float]:
        """Service → CPU seconds."""
        old = self.folder / "cpuacct.usage"
        if old.exists():
            return {self.service: int(old.read_text()) / 1e9}
        lines = (line.split() for line in (self.folder / "cpu.stat").read_text().splitlines())
        return {self.service: int({key: value for key, value in lines}["usage_usec"]) / 1e6}


class WorkerClock:
    """CPU seconds of one thread (the in-process target's worker), which notes them itself after each request."""

    def __init__(self, service: str) -> None:
        self.service, self._seconds = service, 0.0

    def note(self) -> None:
        """Called by the thread that is measured."""
        self._seconds = time.thread_time()

    def read(self) -> dict[str, float]:
        """Service → CPU seconds."""
        return {self.service: self._seconds}


@dataclass
class MachineReading:
    """Busy and total seconds of the cores since boot."""

    busy: float
    total: float


def read_machine(cores: Sequence[int] | None = None) -> MachineReading:
    """What a machine's CPU monitor sees: busy seconds of ``cores`` (None: all), whoever used them."""
    per_core = psutil.cpu_times(percpu=True)
    busy = total = 0.0
    for index in range(len(per_core)) if cores is None else cores:
        times = per_core[index]
        idle = times.idle + getattr(times, "iowait", 0.0)
        guest = getattr(times, "guest", 0.0) + getattr(times, "guest_nice", 0.0)  # already inside user
        whole = sum(times) - guest
        busy, total = busy + whole - idle, total + whole
    return MachineReading(busy, total)


def machine_percent(before: MachineReading, after: MachineReading) -> float:
    """p% of Eq. 26 between two readings; NaN where the counters did not move."""
    span = after.total - before.total
    return 100 * (after.busy - before.busy) / span if span > 0 else float("nan")
