"""Malformed configs and command lines."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from marca_common.config import load_config, parse_config, to_dict
from tests.malformed.cases import Case, Expected, Program

_MAY_BE_NEGATIVE = {"offset", "night_offset", "mean", "lambda_", "log_mean", "bias", "intercept", "shift", "tier_slope"}
_DATE = "2026-01-01"


def value_faults(program: Program) -> Iterator[Case]:
    """Each value of the program's config, replaced by what it can't be."""
    values = to_dict(load_config(program.config, program.file, program.sets))
    for path, value in _leaves(values):
        for kind, wrong, expected in _wrong(path, value):
            changed = _replaced(values, path, wrong)
            names = tuple(part for part in path if isinstance(part, str))
            attempt = partial(parse_config, program.config, changed, "config")
            yield Case("configs", f"{program.name} {'.'.join(map(str, path))}", kind, expected, attempt, names)
    for path in _mappings(values):
        changed = _replaced(values, (*path, "no_such_key"), 1)
        attempt = partial(parse_config, program.config, changed, "config")
        open_ended: Expected = "refused" if not path else "either"
        yield Case("configs", f"{program.name} {'.'.join(map(str, path))}", "an unknown key", open_ended, attempt)


def _wrong(path: tuple[Any, ...], value: Any) -> Iterator[tuple[str, Any, Expected]]:
    wrong: Any
    if isinstance(value, bool):
        for wrong in ("maybe", 3, [], {"a": 1}, math.nan, "ja"):
            yield f"{wrong!r} for a switch", wrong, "refused"
    elif isinstance(value, (int, float)) and not {"fields", "levels"} & set(path):  # such choices may be anything
        for wrong in ("many", math.nan, math.inf, -math.inf, True, {"a": 1}, _DATE, "1;2", b"\xff", ""):
            yield f"{wrong!r} for a number", wrong, "refused"
        yield "a list for a number", [[1]], "refused"
        named = {part for part in path if isinstance(part, str)}
        yield "a negative number", -1e6, "either" if named & _MAY_BE_NEGATIVE else "refused"
    elif isinstance(value, str):
        for wrong in ([1, 2], {"a": 1}, [[]]):
            yield f"{wrong!r} for text", wrong, "either"


def _leaves(values: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[tuple[Any, ...], Any]]:
    parts = values.items() if isinstance(values, dict) else enumerate(values[:1]) if isinstance(values, list) else ()
    for name, value in parts:
        if isinstance(value, (dict, list)):
            yield from _leaves(value, (*path, name))
        elif value is not None:
            yield (*path, name), value


def _mappings(values: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    if isinstance(values, dict):
        yield path
        for name, value in values.items():
            yield from _mappings(value, (*path, name))


def _replaced(values: Any, path: tuple[Any, ...], value: Any) -> Any:
    copied = copy.deepcopy(values)
    node = copied
    for part in path[:-1]:
        node = node[part]
    node[path[-1]] = value
    return copied


def yaml_faults(program: Program, folder: Path) -> Iterator[Case]:
    """Config files that are damaged as files; each starts the whole program."""
    folder.mkdir(parents=True)
    key = next(iter(to_dict(load_config(program.config, program.file, program.sets))))
    base = Path(program.file).resolve()
    contents: dict[str, bytes] = {
        "a list": b"- 1\n- 2\n",
        "one word": b"word\n",
        "a tab": f"extends: {base}\n\t{key}: 1\n".encode(),
        "an unknown key": f"extends: {base}\nno_such_key: 1\n".encode(),
        "a key twice": f"extends: {base}\n{key}: 1\n{key}: 2\n".encode(),
        "extends twice": f"extends: {base}\nextends: {base}\n".encode(),
        "extends nothing": b"extends: no_such_file.yaml\n",
        "extends null": b"extends: null\n",
        "extends a list": b"extends: [a.yaml, b.yaml]\n",
        "extends itself": b"extends: config.yaml\n",
        "extends a folder": b"extends: .\n",
        "extends a broken file": b"extends: broken.yaml\n",
        "Latin-1": b"name: \xe9t\xe9\n",
        "UTF-16": f"extends: {base}\n".encode("utf-16"),
        "a NUL": b"seed: 1\x00\n",
        "an open bracket": b"seed: [1, 2\n",
        "two documents": f"extends: {base}\n---\nseed: 2\n".encode(),
        "a Python object": b"seed: !!python/object/apply:os.getcwd []\n",
        "an unknown tag": b"seed: !secret 1\n",
        "an alias to itself": b"seed: &a [*a]\n",
        "an unknown alias": b"seed: *nothing\n",
        "a merge of a number": b"<<: 3\n",
        "a number as key": f"extends: {base}\n3: 1\n".encode(),
        "null as key": f"extends: {base}\nnull: 1\n".encode(),
        "a list as key": b"[1, 2]: 1\n",
        "removes nothing": f"extends: {base}\nno_such_key: !remove\n".encode(),
        "JSON with a comma too many": b'{"seed": 1,}}\n',
        "a binary file": bytes(range(256)),
        "a very deep mapping": b"a: " + b"{a: " * 3000,
    }
    (folder / "broken.yaml").write_bytes(b"seed: [1\n")
    for number, (kind, content) in enumerate(contents.items()):
        path = folder / str(number) / "config.yaml"
        path.parent.mkdir()
        (path.parent / "broken.yaml").write_bytes(b"seed: [1\n")
        path.write_bytes(content)
        attempt = partial(program.start, folder / "out", config=path)
        yield Case("configs", f"{program.name} --config", kind, "refused", attempt, (str(path.parent),))


def flag_faults(program: Program, folder: Path) -> Iterator[Case]:
    """Command lines that can't be meant."""
    folder.mkdir(parents=True)
    (folder / "file").write_text("an earlier result")
    (folder / "loop").symlink_to(folder / "loop")
    outs = {"a file": folder / "file", "below a file": folder / "file/out", "a link to itself": folder / "loop"}
    outs["a device"] = Path("/dev/null")
    for kind, out in outs.items():
        yield _flags(program, f"--out {kind}", partial(program.start, out), str(out))
    for kind, path in {"a folder": folder, "nothing": folder / "none.yaml", "a device": Path("/dev/null/x")}.items():
        yield _flags(program, f"--config {kind}", partial(program.start, folder / "out", config=path), str(path))
    words = ["--set=seed", "--set==3", "--set=", "--set=seed=[1", "--set=a..b=1", "--set=.=1", "--set=no_such_key=1"]
    words += [
        "--set=seed=1e999",
        "--set=seed=.nan",
        "--set=seed={seed: 1, seed: 2}",
        "--no-such-flag",
        "--seed=1",
        "extra",
    ]
    words += ["--set=seed=-1", "--set=seed=\x00", "--set=seed=2026-13-45"]
    words += ["--device=nonsense", "--device=cuda:99", "--device="] if "device" in program.config.model_fields else []
    for word in words:
        yield _flags(program, word, partial(program.start, folder / "out", word), "")


def _flags(program: Program, kind: str, attempt: Any, name: str) -> Case:
    return Case("command line", program.name, kind, "refused", attempt, (name,))
