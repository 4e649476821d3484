"""A run folder: who wrote it, from which config, with which versions."""

from __future__ import annotations

import importlib.metadata
import logging
import os
import platform
import sys
from pathlib import Path
from typing import IO, Any

import yaml

from marca_common.config import Config, dump_yaml, to_dict
from marca_common.errors import UserError
from marca_common.files import write_json, write_text

if sys.platform != "win32":
    import fcntl

log = logging.getLogger(__name__)
_LIBRARIES = ("torch", "numpy", "pandas", "scipy", "numba", "lightgbm", "pyarrow")


class RunFolder:
    """Owns ``out`` while the run lasts (a second process is refused) and keeps config, versions and summary in it.

    Use as a context manager. ``resuming`` is True where the folder already holds a run of exactly this config.
    """

    def __init__(self, out: str | Path, config: Config) -> None:
        self.path = Path(out)
        self.config = config
        self._lock: IO[str] | None = None
        self.resuming = False
        self.warnings: list[str] = []

    def __enter__(self) -> RunFolder:
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            self._lock = (self.path / ".lock").open("w")
        except OSError as error:
            raise UserError(f"{self.path}: cannot write the run folder: {error.strerror}") from None
        try:
            if sys.platform != "win32":
                fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            self._lock.close()
            raise UserError(f"{self.path}: another process is writing this run folder; choose another --out") from None
        self.resuming = self._same_config()
        write_text(self.path / "config.yaml", dump_yaml(self.config))
        write_json(self.path / "versions.json", versions())
        return self

    def __exit__(self, *_: object) -> None:
        assert self._lock is not None
        self._lock.close()

    def warn(self, text: str) -> None:
        """Say something that a reader of the results must know: logged now, and kept in the summary's ``warnings``."""
        if text not in self.warnings:
            log.warning("warning: %s", text)
            self.warnings.append(text)

    def write_summary(self, summary: dict[str, Any]) -> None:
        """``summary.json``: written last, so that its presence says the run is complete."""
        write_json(self.path / "summary.json", summary | ({"warnings": self.warnings} if self.warnings else {}))

    def _same_config(self) -> bool:
        try:
            return bool(yaml.safe_load((self.path / "config.yaml").read_text(encoding="utf-8")) == to_dict(self.config))
        except (OSError, yaml.YAMLError):
            return False


def versions() -> dict[str, Any]:
    """Versions of Python and of the libraries that results depend on, and the machine they ran on."""
    found = {}
    for name in _LIBRARIES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = "absent"
    return {
        "python": platform.python_version(),
        **found,
        "machine": platform.machine(),
        "system": platform.system(),
        "cpus": os.cpu_count(),
    }
