"""What must be settled before anything heavy is imported; each room's ``__init__`` imports ``marca_common`` for it."""

from __future__ import annotations

import os
import signal
import sys
import tempfile
import threading
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
    os.environ["NUMBA_CACHE_DIR"] = str(Path(tempfile.gettempdir()) / f"marca-numba-{os.getuid()}")


def _writable(folder: Path) -> bool:
    """Can the folder be written, or be made?"""
    there = next(one for one in (folder, *folder.parents) if one.exists())
    return os.access(there, os.W_OK | os.X_OK)
