"""Child processes that never outlive the bench: own process group, death signal, guard, atexit."""

from __future__ import annotations

import atexit
import ctypes
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from marca_common.errors import UserError

_PR_SET_PDEATHSIG = 1
_LIBC = ctypes.CDLL(None) if sys.platform == "linux" else None
_GUARD = 'read -r _; kill -KILL -- "-$0" 2>/dev/null'  # the pipe closes when the bench is gone, however it went
_alive: set[Child] = set()


class Child:
    """A program in a process group of its own, ended with everything it started in that group.

    Three nets: ``stop`` (also at interpreter exit), the kernel's death signal (Linux), and a guard process. The guard kills
    the group when the pipe to the bench closes, SIGKILL of the bench included. A program that moves its own children
    into another session escapes the last two.
    """

    def __init__(
        self,
        command: Sequence[str],
        *,
        environment: Mapping[str, str] | None = None,
        cores: Sequence[int] | None = None,
        cgroup: Path | None = None,
        log: Path | None = None,
    ) -> None:
        self.command, self.log = list(command), log
        try:
            with (log or Path(os.devnull)).open("wb") as output:
                self.process = subprocess.Popen(
                    self.command,
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    env={**os.environ, **(environment or {})},
                    start_new_session=True,
                    preexec_fn=lambda: _in_child(cores, cgroup),
                )
        except (OSError, subprocess.SubprocessError) as error:
            reason = getattr(error, "strerror", None) or str(error)
            raise UserError(f"target.command: cannot start {self.command[0]!r}: {reason}") from None
        self.pid = self.process.pid
        self.guard = _guard(self.pid)
        _alive.add(self)

    def ended(self) -> int | None:
        """Exit status (negative: signal) once the program has ended, else None."""
        return self.process.poll()

    def last_words(self) -> str:
        """The last line that it printed."""
        if self.log is None or not self.log.exists():
            return ""
        lines = self.log.read_text(errors="replace").strip().splitlines()
        return lines[-1][:200] if lines else ""

    def stop(self, grace_s: float = 2.0) -> None:
        """Ask the group to end, then make it; safe to call twice."""
        if self not in _alive:
            return
        _signal_group(self.pid, signal.SIGTERM)
        deadline = time.monotonic() + grace_s
        while time.monotonic() < deadline and (self.process.poll() is None or _group_alive(self.pid)):
            time.sleep(0.01)
        _signal_group(self.pid, signal.SIGKILL)
        with suppress(subprocess.TimeoutExpired):
            self.process.wait(timeout=5)
        if self.guard is not None:
            with self.guard:  # closes the pipe and waits
                self.guard.kill()
        _alive.discard(self)


def _in_child(cores: Sequence[int] | None, cgroup: Path | None) -> None:
    if _LIBC is not None:
        _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if cores is not None and sys.platform == "linux":
        os.sched_setaffinity(0, cores)
    if cgroup is not None:
        (cgroup / "cgroup.procs").write_text(str(os.getpid()))


def _guard(group: int) -> subprocess.Popen[bytes] | None:
    shell = shutil.which("sh")
    if shell is None:
        return None
    return subprocess.Popen(
        [shell, "-c", _GUARD, str(group)],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )


def _signal_group(group: int, number: int) -> None:
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(group, number)


def _group_alive(group: int) -> bool:
    """Whether any process but zombies is left in the group (a zombie of ours is reaped by poll)."""
    try:
        os.killpg(group, 0)
    except (ProcessLookupError, PermissionError):
        return False
    return True


@atexit.register
def _stop_all() -> None:
    for child in list(_alive):
        child.stop(grace_s=0.5)
