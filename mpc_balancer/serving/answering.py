"""A call to the outside that must not hold up the loop: it answers within so many seconds, or it has failed."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from typing import Any


class Answering:
    """Calls a function in a thread of its own; while a call hangs, no second one is begun."""

    def __init__(self, function: Callable[..., Any], seconds: float) -> None:
        self.function, self.seconds = function, seconds
        self._thread: threading.Thread | None = None

    def __call__(self, *arguments: Any) -> Any:
        """What the function returns or raises; TimeoutError where it doesn't answer, or is still busy with an earlier call."""
        if self._thread is not None and self._thread.is_alive():
            raise TimeoutError("still busy with an earlier call")
        answer: queue.SimpleQueue[tuple[Any, BaseException | None]] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._call, args=(answer, arguments), daemon=True)
        self._thread.start()
        try:
            found, error = answer.get(timeout=self.seconds)
        except queue.Empty:
            raise TimeoutError(f"no answer within {self.seconds:g} s") from None
        if error is not None:
            raise error
        return found

    def _call(self, answer: queue.SimpleQueue[tuple[Any, BaseException | None]], arguments: Any) -> None:
        try:
            answer.put((self.function(*arguments), None))
        except BaseException as error:  # whatever it raises belongs to the caller's thread
            answer.put((None, error))
