"""Stages of a long job: each is done once per content of its inputs and reused after."""

from __future__ import annotations

import logging
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from common.config import content_hash
from common.files import read_json, write_json

log = logging.getLogger(__name__)


class Stages:
    """Runs named stages into sub-folders of ``root``; a finished stage with an equal key is reused.

    The key covers the stage's own inputs and the keys of the stages it says it comes ``after``. A stage that was
    interrupted keeps its folder, so that it can go on by itself; one whose key changed starts from an empty folder.
    """

    def __init__(self, root: str | Path) -> None:
        self.root = Path(root)
        self.keys: dict[str, str] = {}
        self.seconds: dict[str, float] = {}

    def run(self, name: str, work: Callable[[Path], Any], *, inputs: Any, after: tuple[str, ...] = ()) -> Path:
        """Do ``work(folder)`` unless it is done already; return the stage's folder."""
        folder, marker = self.root / name, self.root / name / ".stage.json"
        key = content_hash(inputs, [self.keys[earlier] for earlier in after])
        self.keys[name] = key
        known = read_json(marker) if marker.exists() else {}
        if known.get("key") == key and known.get("done"):
            log.info("%-12s reused", name)
            self.seconds[name] = known["seconds"]
            return folder
        if known.get("key") != key and folder.exists():
            shutil.rmtree(folder)
        write_json(marker, {"key": key, "done": False})
        log.info("%-12s …", name)
        started = time.perf_counter()
        work(folder)
        self.seconds[name] = time.perf_counter() - started
        write_json(marker, {"key": key, "done": True, "seconds": self.seconds[name]})
        log.info("%-12s %.1f s", name, self.seconds[name])
        return folder
