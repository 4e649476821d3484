"""MovieLens-100K out of a wheel on PyPI: the one copy that a package registry hands out. Nothing of it is kept in git."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from marca_common.errors import UserError
from marca_common.files import atomic_path

log = logging.getLogger(__name__)
WHEEL = "recbole==1.2.1"
_INSIDE = "recbole/dataset_example/ml-100k/"
_FILES = ("ml-100k.inter", "ml-100k.item")
_INSTEAD = "download ml-100k.zip from https://grouplens.org/datasets/movielens/100k/, unpack it and name its folder in data.folder"
LICENCE = (
    "MovieLens data: GroupLens Research, University of Minnesota. For research; no redistribution and no commercial use "
    "without permission (https://grouplens.org/datasets/movielens/). Cite F. M. Harper and J. A. Konstan, The MovieLens "
    "Datasets: History and Context, ACM TiiS 5(4):19, 2015, doi:10.1145/2827872."
)


def default_cache() -> Path:
    """Where data is kept between runs: the user's cache folder."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "marca"


def movielens_100k(cache: str | Path | None = None, timeout_s: float = 300) -> Path:
    """Folder with MovieLens-100K as the wheel holds it, fetched once; a UserError says what to download instead."""
    folder = Path(cache or default_cache()) / "ml-100k"
    if not all((folder / name).is_file() for name in _FILES):
        log.info("fetching MovieLens-100K out of the wheel %s", WHEEL)
        with tempfile.TemporaryDirectory() as temporary:
            _unpack(_download(Path(temporary), timeout_s), folder)
    return folder


def _download(folder: Path, timeout_s: float) -> Path:
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
    command += ["--only-binary", ":all:", "--dest", str(folder), WHEEL]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=timeout_s, check=False)
        reason = next(iter(done.stderr.strip().splitlines()[-1:]), f"pip ended with code {done.returncode}")
    except (OSError, subprocess.TimeoutExpired) as error:
        reason = str(error)
    found = next(folder.glob("*.whl"), None)
    if found is None:
        raise UserError(f"{WHEEL}: the wheel cannot be had ({reason[:160]}); {_INSTEAD}")
    return found


def _unpack(wheel: Path, folder: Path) -> None:
    try:
        with zipfile.ZipFile(wheel) as archive:
            for name in _FILES:
                with atomic_path(folder / name) as temporary:
                    temporary.write_bytes(archive.read(_INSIDE + name))
    except (zipfile.BadZipFile, KeyError) as error:
        raise UserError(f"{WHEEL}: the wheel does not hold {_INSIDE} ({error}); {_INSTEAD}") from None
