"""Folders made in the temporary folder: one where one is needed, and none that somebody else could have filled."""

from __future__ import annotations

import atexit
import multiprocessing
import os
import stat
import tempfile
from pathlib import Path
from typing import Any

import pytest

from marca_common import processes, startup


@pytest.fixture
def shared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A temporary folder that others can write too; nothing else can be written, nothing is done at exit."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(startup, "_writable", lambda folder: False)
    monkeypatch.setattr(atexit, "register", lambda *_, **__: None)
    monkeypatch.setenv("NUMBA_CACHE_DIR", "")
    monkeypatch.delenv("NUMBA_CACHE_DIR")
    tmp_path.chmod(0o777)
    return tmp_path


def cache() -> Path:
    startup.keep_compiled_code_somewhere()
    found = Path(os.environ.pop("NUMBA_CACHE_DIR"))
    state = found.lstat()
    assert (state.st_uid, stat.S_ISDIR(state.st_mode), state.st_mode & 0o022) == (os.getuid(), True, 0)
    return found


def test_compiled_code_is_kept_from_start_to_start_where_only_its_owner_writes(shared: Path) -> None:
    first = cache()
    assert stat.S_IMODE(first.stat().st_mode) == 0o700
    assert first.parent == shared
    assert cache() == first


@pytest.mark.parametrize("planted", ["writable", "foreign", "link", "file"])
def test_compiled_code_is_not_taken_from_a_folder_that_others_can_fill(shared: Path, planted: str) -> None:
    place = shared / f"marca-numba-{os.getuid()}"
    if planted == "link":
        (shared / "elsewhere").mkdir()
        place.symlink_to(shared / "elsewhere")
    elif planted == "file":
        place.touch()
    else:
        place.mkdir()
        place.chmod(0o777 if planted == "writable" else 0o700)
    if planted == "foreign":
        os.chown(place, 65534, 65534) if os.geteuid() == 0 else pytest.skip("giving a folder away needs root")
    assert cache() not in (place, shared / "elsewhere")


@pytest.mark.parametrize("raises", [PermissionError, FileNotFoundError])
def test_no_place_for_compiled_code_is_no_error_here(
    shared: Path, monkeypatch: pytest.MonkeyPatch, raises: type[OSError]
) -> None:
    def refused(*_: Any, **__: Any) -> None:
        raise raises

    monkeypatch.setattr(os, "mkdir", refused)
    startup.keep_compiled_code_somewhere()
    assert "NUMBA_CACHE_DIR" not in os.environ


def test_a_home_that_cannot_even_be_asked_for_is_no_error(tmp_path: Path) -> None:
    assert startup._writable(tmp_path / ("x" * 300) / "cache")


@pytest.mark.parametrize("config", [{}, {"tempdir": "/long" * 30}])
def test_sockets_get_one_short_folder_however_often_pools_start(
    monkeypatch: pytest.MonkeyPatch, config: dict[str, str]
) -> None:
    names = iter(["/short"])
    monkeypatch.setattr(multiprocessing.current_process(), "_config", config)
    monkeypatch.setattr(tempfile, "tempdir", "/long" * 30)
    monkeypatch.setattr(tempfile, "mkdtemp", lambda **_: next(names))
    monkeypatch.setattr(atexit, "register", lambda *_, **__: None)
    for _ in range(2):
        processes._keep_socket_paths_short()
    assert config == {"tempdir": "/short"}
