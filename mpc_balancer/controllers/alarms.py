"""What an operator must know: alarms by name, how long each stood, and when it first rose."""

from __future__ import annotations

import logging
from collections import Counter

log = logging.getLogger(__name__)


class Alarms:
    """Raised anew every step while their reason lasts; each is logged when it rises and when it is over."""

    def __init__(self, group: str) -> None:
        self.group = group
        self.steps = Counter[str]()  # control steps that each alarm stood
        self.first: dict[str, int] = {}  # control step at which each first rose
        self.standing: set[str] = set()
        self._now: dict[str, str] = {}
        self._step = 0

    def raise_(self, name: str, reason: str) -> None:
        """An alarm of this step; ``reason`` is one line for the log."""
        self._now[name] = reason

    def end_step(self) -> None:
        """Count what was raised in this step, log what rose or ended."""
        for name in self._now.keys() - self.standing:
            self.first.setdefault(name, self._step)
            log.warning("%s: alarm %s: %s", self.group, name, self._now[name])
        for name in self.standing - self._now.keys():
            log.warning("%s: alarm %s is over", self.group, name)
        self.steps.update(self._now.keys())
        self.standing, self._now = set(self._now), {}
        self._step += 1
