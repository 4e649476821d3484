"""The machine under test: facts for the report, and which cores go to whom."""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from autobucket.bench.bench_config import AccountingConfig
from marca_common.errors import UserError


@dataclass(frozen=True)
class Placement:
    """Cores of target and generator; None: anywhere."""

    target: list[int] | None
    generator: list[int] | None
    declared_cores: int  # N of Eq. 26

    @property
    def pinned(self) -> bool:
        """Whether target and generator are kept apart."""
        return self.target is not None

    @property
    def monitored_cores(self) -> int:
        """Cores that the machine-wide p% is read over."""
        return len(self.target) if self.target is not None else os.cpu_count() or 1

    def text(self) -> str:
        """For the report."""
        if self.target is None:
            return f"not pinned; {self.declared_cores} cores declared"
        return f"target on cores {self.target}, generator on {self.generator}"


def place(config: AccountingConfig, kind: str) -> Placement:
    """Cores by config and by what the machine allows; an in-process target shares its process with the generator."""
    if kind == "callable":
        return Placement(None, None, 1)
    allowed = _allowed_cores()
    wanted = config.target_cores
    if wanted is not None and (not wanted or not set(wanted) <= set(allowed)):
        raise UserError(
            f"accounting.target_cores: got {wanted}; expected "
            + (f"some of {allowed}" if allowed else "null: processes cannot be pinned on this system")
        )
    if not config.pin or len(allowed) < 2:
        return Placement(None, None, len(allowed) or os.cpu_count() or 1)
    target = wanted or allowed[:1]
    rest = [core for core in allowed if core not in target]
    if not rest:
        raise UserError(f"accounting.target_cores: got {wanted}; no core is left for the generator")
    return Placement(target, rest, len(target))


@contextmanager
def generator_on(placement: Placement) -> Iterator[None]:
    """Keep this process on the generator's cores, and give it its old ones back."""
    if placement.generator is None or sys.platform != "linux":
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, placement.generator)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def machine_facts(placement: Placement, threads: int, clock: str) -> dict[str, Any]:
    """What the numbers depend on and a reader cannot know."""
    frequency = _quiet(psutil.cpu_freq)
    load = _quiet(psutil.getloadavg)
    return {
        "cpu": _cpu_model(),
        "cpus": os.cpu_count(),
        "clock_mhz": f"{frequency.current:.0f}" if frequency else "unknown",
        "governor": _read("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor"),
        "kernel": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "memory_gb": round(psutil.virtual_memory().total / 2**30, 1),
        "target_threads": threads,
        "pinning": placement.text(),
        "accounting": clock,
        "load_average": f"{load[0]:.2f} at the start" if load else "unknown",
    }


def _allowed_cores() -> list[int]:
    """Cores that this process may use; none where the system cannot pin."""
    if sys.platform != "linux":
        return []
    return sorted(os.sched_getaffinity(0))


def _cpu_model() -> str:
    for line in _read("/proc/cpuinfo").splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _read(path: str) -> str:
    try:
        return Path(path).read_text().strip()
    except OSError:
        return "unknown"


def _quiet(function: Any) -> Any:
    try:
        return function()
    except (OSError, RuntimeError, AttributeError):  # not implemented on this system
        return None
