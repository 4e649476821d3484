"""A run folder: who wrote it, from which config, with which versions."""

from __future__ import annotations

import errno
import fcntl
import importlib.metadata
import logging
import os
import platform
import shutil
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import yaml

from marca_common.config import Config, content_hash, dump_yaml, to_dict
from marca_common.errors import UserError
from marca_common.files import remove_partial_files, write_json, write_text

log = logging.getLogger(__name__)
_LIBRARIES = ("torch", "numpy", "pandas", "scipy", "numba", "lightgbm", "pyarrow")
_UNFINISHED = "unfinished-"


class RunFolder:
    """Owns ``out`` while a run lasts (a second process is refused) and keeps config, versions and summary in it.

    A context manager. The run works in ``path``, a sub-folder ``unfinished-<hash of the config>``; its files move up to
    ``out`` once it has succeeded, so a run that is refused, fails or is killed leaves the earlier results as they were.

    ``resumes_from`` names files or folders from which a later run of the same config goes on (none: it starts anew);
    where one exists ``resuming`` is True, and an unsuccessful run keeps its sub-folder. A finished run of the same config
    is gone on with in ``out`` itself.
    """

    def __init__(self, out: str | Path, config: Config, resumes_from: str | Sequence[str] = ()) -> None:
        self.out, self.config = Path(out), config
        self.resumes_from = [resumes_from] if isinstance(resumes_from, str) else list(resumes_from)
        self.path = self.out / f"{_UNFINISHED}{content_hash(config)[:8]}"
        self.resuming = False
        self.warnings: list[str] = []
        self._made: list[Path] = []
        self._lock = -1

    def __enter__(self) -> RunFolder:
        self._made = [folder for folder in (self.out, *self.out.parents) if not folder.exists()]
        try:
            self.out.mkdir(parents=True, exist_ok=True)
            self._lock = locked(self.out / ".lock")
            self._open()
        except OSError as error:
            raise self._refusal(f"cannot write the run folder: {error.strerror}") from None
        except UserError as error:
            raise self._refusal(str(error)) from None
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            if kind is None:
                self._move_up()
            else:
                self._drop()
        finally:
            self._release()

    def warn(self, text: str) -> None:
        """Say something that a reader of the results must know: logged now, and kept in the summary's ``warnings``."""
        if text not in self.warnings:
            log.warning("warning: %s", text)
            self.warnings.append(text)

    def write_summary(self, summary: dict[str, Any]) -> None:
        """``summary.json``: written last, so that its presence says the run is complete."""
        write_json(self.path / "summary.json", summary | ({"warnings": self.warnings} if self.warnings else {}))

    def _open(self) -> None:
        if (self.path / "summary.json").exists():  # killed between its last line and the move
            self._move_up()
        if not self.path.exists() and self._can_go_on(self.out) and _config_in(self.out) == to_dict(self.config):
            self.path = self.out
        self.resuming = self._can_go_on(self.path)
        if not self.resuming:
            shutil.rmtree(self.path, ignore_errors=True)
        remove_partial_files(self.path)
        write_text(self.path / "config.yaml", dump_yaml(self.config))
        write_json(self.path / "versions.json", versions())

    def _can_go_on(self, folder: Path) -> bool:
        places = [folder / name for name in self.resumes_from]
        return any(place.is_file() or (place.is_dir() and any(place.iterdir())) for place in places)

    def _move_up(self) -> None:
        """Put the run's files in the place of earlier ones, the summary last; unfinished runs of other configs go."""
        if self.path == self.out:
            return
        for config in self.path.rglob("config.yaml"):  # runs inside this one recorded where its files were until now
            write_text(config, config.read_text(encoding="utf-8").replace(str(self.path), str(self.out)))
        (self.out / "summary.json").unlink(missing_ok=True)
        _merge(self.path, self.out)
        for other in self.out.glob(_UNFINISHED + 8 * "[0-9a-f]"):
            shutil.rmtree(other, ignore_errors=True)
        self.path = self.out

    def _drop(self) -> None:
        """Remove the run's sub-folder, unless a later run can go on from it."""
        if self.path != self.out and not self._can_go_on(self.path):
            shutil.rmtree(self.path, ignore_errors=True)

    def _refusal(self, text: str) -> UserError:
        if self._lock >= 0 and not (self.path / "summary.json").exists():  # a complete run waits for its move
            self._drop()
        self._release()
        return UserError(f"{self.out}: {text}")

    def _release(self) -> None:
        if self._lock >= 0:
            (self.out / ".lock").unlink(missing_ok=True)
            os.close(self._lock)
            self._lock = -1
        for folder in self._made:
            with suppress(OSError):  # only where it is still empty
                folder.rmdir()


def locked(path: Path) -> int:
    """A descriptor that holds the lock of a file, made where absent; a UserError where another process holds it."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)  # for writing: NFS locks nothing that is open for reading
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(descriptor)
        if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
            raise UserError("another process is writing this run folder; choose another --out") from None
        code = errno.errorcode.get(error.errno or 0, "unknown")
        raise UserError(
            f"its file system gives no lock ({code}: {error.strerror}); choose an --out elsewhere"
        ) from None
    if os.fstat(descriptor).st_nlink:
        return descriptor
    os.close(descriptor)  # its last owner removed it between our opening and our locking it
    return locked(path)


def _merge(source: Path, target: Path) -> None:
    target.mkdir(exist_ok=True)
    for entry in sorted(source.iterdir(), key=lambda one: one.name == "summary.json"):
        if entry.is_dir():
            _merge(entry, target / entry.name)
        else:
            entry.replace(target / entry.name)
    source.rmdir()


def _config_in(folder: Path) -> Any:
    try:
        return yaml.safe_load((folder / "config.yaml").read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError):
        return None


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
