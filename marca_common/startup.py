"""What must be settled before anything heavy is imported; each room's ``__init__`` imports ``marca_common`` for it."""

from __future__ import annotations

import atexit
import os
import shutil
import signal
import stat
import sys
import tempfile
import threading
from contextlib import suppress
from pathlib import Path


def leave_quietly_on_interrupt() -> None:
    """Ctrl-C while a program's modules are still imported ends it without a traceback; ``run_cli`` goes back to normal."""
    starting = sys.argv[:1] == ["-m"]  # only while `python -m room.program` looks for its module
    here = threading.current_thread() is threading.main_thread()
    if starting and here and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)


def heed_interrupts() -> None:
    """From here on Ctrl-C is a KeyboardInterrupt again."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_DFL:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def keep_compiled_code_somewhere() -> None:
    """Where neither this tree nor the user's cache can be written, numba keeps compiled code in the temporary folder."""
    cache = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    if "NUMBA_CACHE_DIR" in os.environ or _writable(Path(__file__).parent) or _writable(Path(cache)):
        return
    with suppress(OSError):  # no place at all: numba says so
        os.environ["NUMBA_CACHE_DIR"] = _own_folder(f"marca-numba-{os.getuid()}")


def _own_folder(name: str) -> str:
    """A folder in the temporary one that nobody else can write: what numba keeps are pickles, which run when read."""
    folder = os.path.join(tempfile.gettempdir(), name)
    with suppress(FileExistsError):
        os.mkdir(folder, 0o700)
    found = os.lstat(folder)
    if stat.S_ISDIR(found.st_mode) and found.st_uid == os.getuid() and not found.st_mode & 0o022:
        return folder
    folder = tempfile.mkdtemp(prefix=f"{name}-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


def _writable(folder: Path) -> bool:
    """Can the folder be written, or be made?"""
    there = next(one for one in (folder, *folder.parents) if os.path.exists(one))  # Path.exists may raise
    return os.access(there, os.W_OK | os.X_OK)


def leave_errors_of_groups_to_us() -> None:
    """In a group of processes torch writes a page for each failed connection; the program says it in a line."""
    if "WORLD_SIZE" in os.environ:
        os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "FATAL")
