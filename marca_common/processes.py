"""Worker processes, forked from a server that has imported the program once for all of them."""

from __future__ import annotations

import atexit
import multiprocessing
import os
import shutil
import signal
import tempfile
import threading
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import forkserver
from typing import Any

from marca_common.progress import share_terminal


def start_server(program: str) -> None:
    """Start the server and let it import ``program`` in the background; without this, every worker imports anew."""
    multiprocessing.set_forkserver_preload([program, "torch._dynamo"])  # the latter by the first optimiser, in 3 s
    _keep_socket_paths_short()
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)  # the server inherits this: Ctrl-C is for those who work
    try:
        forkserver.ensure_running()
    finally:
        signal.signal(signal.SIGINT, before)


def _keep_socket_paths_short() -> None:
    """The server listens on a socket in the temporary folder, and the path of a socket has at most 108 characters."""
    config = multiprocessing.current_process()._config  # type: ignore[attr-defined]
    if len(config.get("tempdir") or tempfile.gettempdir()) > 60:
        config["tempdir"] = tempfile.mkdtemp(prefix="marca-", dir="/tmp")
        atexit.register(shutil.rmtree, config["tempdir"], ignore_errors=True)


def process_pool(workers: int) -> ProcessPoolExecutor:
    """A pool whose progress bars share the terminal."""
    _keep_socket_paths_short()
    context = multiprocessing.get_context("forkserver")
    take_line, arguments = share_terminal(context, workers)
    return ProcessPoolExecutor(workers, context, _start, (take_line, *arguments))


def _start(take_line: Callable[..., None], *arguments: Any) -> None:
    signal.signal(signal.SIGINT, signal.default_int_handler)
    threading.Thread(target=_leave_with_parent, daemon=True).start()
    take_line(*arguments)


def _leave_with_parent() -> None:
    """A worker whose program was killed would work on, and keep the folders that the next start needs, for ever."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
