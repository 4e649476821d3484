"""Stages of a long job: each is done once per content of its inputs and reused after."""

from __future__ import annotations

import logging
import shutil
import time
from collections.abc import Callable
from concurrent.futures import Future, as_completed
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from marca_common.config import content_hash
from marca_common.errors import UserError
from marca_common.files import read_json, remove_partial_files, write_json
from marca_common.memory import PeakMemory
from marca_common.processes import process_pool, start_server

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Stage:
    """A named piece of work: ``work(folder)`` fills its folder; picklable where it is to run beside others."""

    name: str
    work: Callable[[Path], Any]
    inputs: Any  # plain values that decide, with the keys of the stages before it, whether it must run again
    after: tuple[str, ...] = ()


class Stages:
    """Runs stages into sub-folders of ``root``; a finished stage with an equal key is reused.

    The key covers the stage's own inputs and the keys of the stages it comes ``after``. A stage that was interrupted
    keeps its folder, so that it can go on by itself; one whose key changed starts from an empty folder, and what it had
    done before comes back if it fails. ``program`` is
    the module that worker processes find imported; it is imported while the first stage runs.

    ``seconds`` of each stage and ``peak_mb`` are those of the runs that did the work, also where stages are reused.
    ``memory`` is the watch of this run; without it no memory is known.
    """

    def __init__(
        self, root: str | Path, workers: int = 1, program: str | None = None, memory: PeakMemory | None = None
    ) -> None:
        self.root, self.workers, self.program, self.memory = Path(root), workers, program, memory
        self.keys: dict[str, str] = {}
        self.seconds: dict[str, float] = {}
        self.peak_mb = 0.0

    def run(self, *stages: Stage) -> None:
        """Do the stages that are not done yet; several are done side by side, so none may come after another."""
        for stage in stages:
            self._refuse_older(stage)
            self.keys[stage.name] = content_hash(stage.inputs, [self.keys[name] for name in stage.after])
        waiting = [stage for stage in stages if not self._reused(stage)]
        if waiting and self.program:
            start_server(self.program)
        workers = min(self.workers, len(waiting))
        if workers <= 1:
            for stage in waiting:
                self._finished(stage, _work(stage, self.root / stage.name, self.keys[stage.name]))
            return
        with process_pool(workers) as pool:
            futures: dict[Future[float], Stage] = {
                pool.submit(_work, stage, self.root / stage.name, self.keys[stage.name]): stage for stage in waiting
            }
            try:
                for future in as_completed(futures):
                    self._finished(futures[future], future.result())
            except BaseException:
                pool.shutdown(wait=True, cancel_futures=True)
                raise

    def folder(self, name: str) -> Path:
        """Folder of a stage."""
        return self.root / name

    def _refuse_older(self, stage: Stage) -> None:
        for parent in list(Path(stage.name).parents)[:-1]:
            if (self.root / parent / ".stage.json").exists():
                raise UserError(f"{self.root / parent}: left by another version of this program; choose another --out")

    def _reused(self, stage: Stage) -> bool:
        known = _marker(self.root / stage.name)
        if known.get("key") != self.keys[stage.name] or not known.get("done"):
            return False
        self.seconds[stage.name] = known["seconds"]
        self.peak_mb = max(self.peak_mb, known.get("peak_mb", 0.0))
        log.info("%-24s reused", stage.name)
        return True

    def _finished(self, stage: Stage, seconds: float) -> None:
        self.seconds[stage.name] = seconds
        if self.memory is not None:  # of all stages that ran beside it, so measured here and not by the worker
            self.peak_mb = max(self.peak_mb, self.memory.mb)
            folder = self.root / stage.name
            write_json(folder / ".stage.json", _marker(folder) | {"peak_mb": self.memory.mb})
        log.info("%-24s %.1f s", stage.name, seconds)


def _marker(folder: Path) -> dict[str, Any]:
    path = folder / ".stage.json"
    return read_json(path) if path.exists() else {}


def _work(stage: Stage, folder: Path, key: str) -> float:
    """Do one stage, in this or in another process; returns its wall seconds."""
    earlier = folder.with_name(f"{folder.name}.earlier")
    if _marker(folder).get("key") != key:
        if earlier.exists():  # what stands in its place was never finished
            _put_back(earlier, folder)
        if folder.exists():
            folder.rename(earlier)
    remove_partial_files(folder)
    write_json(folder / ".stage.json", {"key": key, "done": False})
    started = time.perf_counter()
    try:
        stage.work(folder)
    except Exception:
        if not any(folder.glob("unfinished-*")):
            _put_back(earlier, folder)
            _prune(folder, len(Path(stage.name).parts))
        raise
    seconds = time.perf_counter() - started
    write_json(folder / ".stage.json", {"key": key, "done": True, "seconds": seconds})
    shutil.rmtree(earlier, ignore_errors=True)
    return seconds


def _put_back(earlier: Path, folder: Path) -> None:
    """Undo a stage that failed: what it had done before stands in its place again."""
    shutil.rmtree(folder, ignore_errors=True)
    if earlier.exists():
        earlier.rename(folder)


def _prune(folder: Path, depth: int) -> None:
    """Remove the folders above a stage that it alone had filled, ``depth`` − 1 of them."""
    for parent in list(folder.parents)[: depth - 1]:
        with suppress(OSError):  # not empty
            parent.rmdir()
