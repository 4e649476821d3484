"""Ways to break a good checkpoint: its file, its envelope, and every leaf of what it holds."""

from __future__ import annotations

import copy
import math
import pickle
import zipfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from marca_common.errors import UserError

_ODD: list[Any] = [None, "text", -1, 10**9, math.nan, math.inf, [], {}, 0.5]


class _Bomb:
    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (Path("exploded"),)


def broken_files(good: Path, folder: Path) -> Iterator[tuple[str, Path]]:
    """Files that are no whole checkpoint, written into ``folder``: what is wrong, and the path."""
    content = good.read_bytes()
    parts: dict[str, bytes] = {"empty": b"", "text": b"weights: 1, 2, 3\n", "bomb": pickle.dumps(_Bomb())}
    parts |= {f"cut at {share:.0%}": content[: int(share * len(content))] for share in (0.02, 0.5, 0.9, 0.999)}
    for name, data in parts.items():
        path = folder / f"{name.replace(' ', '_')}.pt"
        path.write_bytes(data)
        yield name, path
    packed = folder / "packed.pt"
    with zipfile.ZipFile(good) as old, zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as new:
        for one in old.namelist():
            new.writestr(one, old.read(one))
    yield "compressed", packed
    (folder / "folder.pt").mkdir()
    yield "folder", folder / "folder.pt"
    yield "absent", folder / "absent.pt"


def broken_envelopes(content: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    """Contents whose outermost layer is wrong."""
    for key in content:
        yield f"without {key}", {name: value for name, value in content.items() if name != key}
    for key, value in (("format", 2), ("kind", "another"), ("columns", None), ("payload", [1]), ("extra", 1)):
        if key != "columns":
            yield f"{key}={value}", content | {key: value}
    yield "a list", [content]
    yield "payload with an extra part", content | {"payload": content["payload"] | {"extra": 1}}


def broken_leaves(content: dict[str, Any], most: int = 10**9) -> Iterator[tuple[str, Any]]:
    """The content with one leaf removed or replaced, for every part of its payload.

    Of a dictionary or list inside it the first ``most`` entries are tried.
    """
    for path in _paths(content["payload"], (), most):
        *parents, last = path
        for name, edit in _edits(_at(content["payload"], path)):
            broken = content | {"payload": copy.deepcopy(content["payload"])}
            node = _at(broken["payload"], tuple(parents))
            edit(node, last)
            yield f"{'.'.join(map(str, path))} {name}", broken


def refused(load: Callable[[Path], Any], path: Path) -> bool:
    """Whether a loader refuses a file in one line that begins with its path; any other error gets through."""
    text = refusal(lambda: load(path))
    if text is None:
        return False
    assert text.startswith(str(path)), text
    assert "\n" not in text
    assert len(text) < 600 + len(str(path)), text
    return True


def refusal(call: Callable[[], Any]) -> str | None:
    """The text of the UserError that a call ends in; None where it succeeds."""
    try:
        call()
    except UserError as error:
        return str(error)
    return None


def save_as_is(content: Any, path: Path) -> Path:
    """Write without any check."""
    torch.save(content, path)
    return path


def _paths(node: Any, path: tuple[Any, ...], most: int) -> Iterator[tuple[Any, ...]]:
    if path:
        yield path
    if isinstance(node, dict):
        for key in list(node)[: most if path else None]:
            yield from _paths(node[key], (*path, key), most)
    elif isinstance(node, list) and node and not isinstance(node[0], int | float | str):
        for number in range(min(len(node), most)):
            yield from _paths(node[number], (*path, number), most)


def _at(node: Any, path: tuple[Any, ...]) -> Any:
    for key in path:
        node = node[key]
    return node


def _edits(value: Any) -> Iterator[tuple[str, Callable[[Any, Any], Any]]]:
    yield "removed", lambda node, key: node.pop(key)
    odd = _ODD if not isinstance(value, Tensor) else [None, [1.0], *_odd_tensors(value)]
    for one in odd:
        shown = f"{tuple(one.shape)} {one.dtype} {one.layout}" if isinstance(one, Tensor) else repr(one)
        yield f"= {shown}", partial(_put, one)


def _put(value: Any, node: Any, key: Any) -> None:
    node[key] = value


def _odd_tensors(value: Tensor) -> Iterator[Tensor]:
    yield torch.zeros((*value.shape, 2), dtype=value.dtype)
    yield value.new_zeros(0)
    yield value.to(torch.complex64 if value.is_complex() else torch.float16)
    yield torch.zeros(1).expand(10**12)
    if value.dim():
        yield value.to_sparse()
    if value.is_floating_point() and value.numel():
        for odd in (math.nan, math.inf):
            broken = value.clone()
            broken.view(-1)[-1] = odd
            yield broken
    elif value.numel():
        yield torch.full_like(value, 10**6 if value.dtype != torch.uint8 else 200)
