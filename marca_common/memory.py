"""How much memory a run takes, its worker processes included, and whether a score matrix fits."""

from __future__ import annotations

import threading

import psutil

from marca_common.errors import UserError


class PeakMemory:
    """While the context lasts, the largest resident memory of this process and all below it, ``.mb``.

    Sampled every ``interval`` seconds; pages that processes share count once for each, so it errs on the high side.
    """

    def __init__(self, interval: float = 0.25) -> None:
        self.mb = 0.0
        self._interval = interval
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> PeakMemory:
        self._sample()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        self._sample()

    def _watch(self) -> None:
        while not self._stop.wait(self._interval):
            self._sample()

    def _sample(self) -> None:
        total, own = 0, psutil.Process()
        for process in [own, *own.children(recursive=True)]:
            try:
                total += process.memory_info().rss
            except psutil.NoSuchProcess:  # ended between the listing and the look
                continue
        self.mb = max(self.mb, total / 2**20)


def require_memory(states: int, joint: int, copies: float = 1.5) -> None:
    """Refuse a score matrix (float32) that this machine cannot hold."""
    needed = states * joint * 4 * copies
    available = psutil.virtual_memory().available
    if needed > available:
        raise UserError(
            f"{states} states × {joint} joint actions need {needed / 2**30:.1f} GiB; {available / 2**30:.1f} GiB are free. "
            "Score fewer states at once, or declare fewer sub-actions"
        )
