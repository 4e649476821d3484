"""Files that are either whole or absent."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np

from marca_common.errors import UserError

_PARTIAL = ".partial."  # begins the name of a file that is still being written; one that was killed leaves it behind


def shipped(path: str | Path) -> Path:
    """The path where it exists, or the file of that name which comes with the software; unchanged where neither does.

    Only ``configs/`` and ``data/`` are shipped: beside the packages in a checkout, inside this package once installed.
    """
    path, here = Path(path), Path(__file__).parent
    root = here if (here / "configs").is_dir() else here.parent
    known = path.parts[:1] in (("configs",), ("data",)) and not path.exists() and (root / path).exists()
    return root / path if known else path


@contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path beside ``path``; on success it takes the place of ``path`` in one step."""
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f"{_PARTIAL}{path.stem}.", suffix=path.suffix)
    except OSError as error:
        raise UserError(f"{path}: cannot write here: {error.strerror}") from None
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        temporary.chmod(0o644)
        os.replace(temporary, path)
    except OSError as error:
        raise UserError(f"{path}: cannot write: {error.strerror}") from None
    finally:
        temporary.unlink(missing_ok=True)


def remove_partial_files(folder: Path) -> None:
    """Remove what writes that were killed left behind anywhere in a folder."""
    for path in folder.rglob(f"{_PARTIAL}*"):
        path.unlink()


def write_text(path: str | Path, text: str) -> None:
    """Write ``text`` to ``path``, atomically."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: str | Path, values: Any) -> None:
    """Write plain values (numpy numbers and arrays included) as indented JSON, atomically; NaN becomes null."""
    write_text(path, json.dumps(_plain(values), indent=2, allow_nan=False) + "\n")


def read_json(path: str | Path) -> Any:
    """Read a JSON file; a missing or broken one, or a number that is not finite, is a UserError."""
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"), parse_constant=_finite, parse_float=_finite)
    except OSError as error:
        raise UserError(f"{path}: cannot read: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: not valid JSON: {error}") from None


def read_json_lines(path: Path) -> list[Any]:
    """The values of a log of JSON lines that may have been cut off by a crash: broken lines are left out; [] where there is no file."""
    found = []
    if path.is_file():
        for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
            with suppress(ValueError):
                found.append(json.loads(line))
    return found


def _finite(text: str) -> float:
    if not np.isfinite(number := float(text)):
        raise ValueError(f"{text} is not a finite number")
    return number


def file_hash(path: str | Path) -> str:
    """32 hex digits of the content of a file, or of all files of a folder; a missing file is a UserError."""
    if Path(path).is_dir():
        parts = sorted(one for one in Path(path).rglob("*") if one.is_file())
        text = "\n".join(f"{one.relative_to(path)} {file_hash(one)}" for one in parts)
        return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()
    try:
        with Path(path).open("rb") as file:
            return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).hexdigest()
    except OSError as error:
        raise UserError(f"{path}: cannot read: {error.strerror}") from None


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, np.ndarray):
        return _plain(value.tolist())
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, np.generic):
        return _plain(value.item())
    if isinstance(value, float) and not np.isfinite(value):
        return None
    return str(value) if isinstance(value, Path) else value
