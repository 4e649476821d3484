"""Malformed files of our own formats: checkpoints, JSON, npz and score files."""

from __future__ import annotations

import copy
import io
import json
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from tests.malformed.bad_tables import parquet
from tests.malformed.cases import Expected

Faults = Iterator[tuple[str, bytes, Expected]]


def byte_faults(data: bytes) -> Faults:
    """What may happen to any file."""
    yield "an empty file", b"", "refused"
    yield "its first tenth", data[: len(data) // 10], "refused"
    yield "its first half", data[: len(data) // 2], "refused"
    yield "all but its end", data[:-30], "refused"
    yield "text", b"no such thing\n", "refused"
    yield "zeros", bytes(len(data)), "refused"
    yield "HTML", b"<html><body>404</body></html>", "refused"
    yield "a zip of nothing", b"PK\x05\x06" + bytes(18), "refused"


def checkpoint_faults(data: bytes) -> Faults:
    """A checkpoint of another kind, version or shape; with a part missing; with numbers that are none."""
    yield from byte_faults(data)
    wrong: Any
    content = torch.load(io.BytesIO(data), weights_only=True)
    yield "another kind", _saved(content | {"kind": "other.model"}), "refused"
    yield "another format", _saved(content | {"format": 99}), "refused"
    yield "no format", _saved({key: value for key, value in content.items() if key != "format"}), "refused"
    yield "no payload", _saved({key: value for key, value in content.items() if key != "payload"}), "refused"
    yield "a list", _saved([1, 2]), "refused"
    yield "a tensor", _saved(torch.zeros(3)), "refused"
    yield "a payload of text", _saved(content | {"payload": "text"}), "refused"
    for key in content["payload"]:
        less = {name: value for name, value in content["payload"].items() if name != key}
        yield f"no {key}", _saved(content | {"payload": less}), "refused"
        for wrong in (None, "text", [], {}, 3):
            yield f"{wrong!r} for {key}", _saved(content | {"payload": content["payload"] | {key: wrong}}), "either"
    for path, tensor in _tensors(content["payload"]):
        name = ".".join(map(str, path))
        if tensor.is_floating_point() and tensor.numel():
            for value in (float("nan"), float("inf")):
                yield f"{value} in {name}", _saved(_with(content, path, _first(tensor, value))), "refused"
        if tensor.dim() and tensor.shape[0] > 1:
            yield (
                f"a row less in {name}",
                _saved(_with(content, path, tensor[:-1].clone())),
                "either" if name == "roots" else "refused",
            )
        yield f"a dimension more in {name}", _saved(_with(content, path, tensor[None].clone())), "refused"


def json_faults(data: bytes, free: Callable[[tuple[Any, ...], Any], bool]) -> Faults:
    """Every part of a JSON file missing or of another type; ``free`` tells which may be so (a missing one is None)."""
    yield from byte_faults(data)
    wrong: Any
    content = json.loads(data)
    yield "a list", b"[1, 2]", "refused"
    yield "null", b"null", "refused"
    yield "a comma too many", data.rstrip()[:-1] + b",}", "refused"
    yield "Latin-1", data.replace(b'"', b'"\xe9', 1), "refused"
    for path in _places(content):
        name = ".".join(map(str, path))
        kept = copy.deepcopy(content)
        node = _at(kept, path[:-1])
        value = node[path[-1]]
        for wrong in ("text", None, [], {}, float("nan"), 1e999, {"a": 1}):
            if type(wrong) is type(value) and not isinstance(wrong, float):
                continue
            node[path[-1]] = wrong
            yield f"{wrong!r} for {name}", json.dumps(kept).encode(), "either" if free(path, wrong) else "refused"
        if isinstance(path[-1], str):
            del node[path[-1]]
            yield f"no {name}", json.dumps(kept).encode(), "either" if free(path, None) else "refused"


def npz_faults(data: bytes) -> Faults:
    """Arrays that are missing, of another shape or type, or not finite."""
    yield from byte_faults(data)
    with np.load(io.BytesIO(data)) as file:
        content = {name: file[name] for name in file.files}
    for name, array in content.items():
        yield f"no {name}", _packed({key: one for key, one in content.items() if key != name}), "either"
        yield (
            f"text for {name}",
            _packed(content | {name: np.array(["text"] * max(len(np.atleast_1d(array)), 1))}),
            "either",
        )
        if array.ndim == 0:
            continue
        for kind, other in (("a row less", array[:-1]), ("two dimensions", array[None]), ("nothing", array[:0])):
            yield f"{kind} in {name}", _packed(content | {name: other}), "refused"
        if array.dtype.kind in "if":
            yield (
                f"−1 in {name}",
                _packed(content | {name: _first(array, -1)}),
                "either" if array.dtype.kind == "f" else "refused",
            )
            yield (
                f"a huge number in {name}",
                _packed(content | {name: _first(array, 2_000_000_000)}),
                "refused" if name in ("first", "price_of_service") else "either",
            )
        if array.dtype.kind == "f":
            for value in (np.nan, np.inf, -np.inf):
                yield f"{value} in {name}", _packed(content | {name: _first(array, value)}), "refused"


def score_faults(table: pa.Table, scores: list[str]) -> Faults:
    """Wide score files with states or scores that can't be."""
    data = parquet(table)
    yield from byte_faults(data)
    yield "no rows", parquet(table.slice(0, 0)), "refused"
    yield "a state twice", parquet(pa.concat_tables([table, table.slice(0, 1)])), "refused"
    for at, name in enumerate(table.column_names):
        if len(scores) > 1 or name not in scores:
            yield f"no column {name}", parquet(table.drop_columns([name])), "either" if name in scores else "refused"
        yield f"column {name} twice", parquet(table.append_column(name, table.column(name))), "refused"
        yield (
            f"nulls in {name}",
            parquet(table.set_column(at, name, pa.nulls(len(table), table.column(name).type))),
            "refused",
        )
        yield f"structures in {name}", parquet(table.set_column(at, name, pa.array([{"x": 1}] * len(table)))), "refused"
    for name in scores:
        at, values = table.column_names.index(name), np.stack(table.column(name).to_numpy())
        for kind, other in _other_scores(values):
            yield f"{kind} in {name}", parquet(table.set_column(at, name, other)), "refused"


def _other_scores(values: np.ndarray) -> Iterator[tuple[str, pa.Array]]:
    def fixed(matrix: np.ndarray) -> pa.Array:
        return pa.FixedSizeListArray.from_arrays(pa.array(matrix.ravel()), matrix.shape[1])

    yield "a joint action less", fixed(values[:, :-1])
    yield "a joint action more", fixed(np.hstack([values, values[:, :1]]))
    yield "plain numbers", pa.array(values[:, 0])
    yield "lists of several lengths", pa.array([row[: len(row) - i % 2].tolist() for i, row in enumerate(values)])
    yield "text", fixed(values.astype(str))
    for value in (np.nan, np.inf, -np.inf):
        yield f"{value}", fixed(_first(values, value))
    missing = values.astype(object)
    missing[0, 0] = None
    yield "a null", pa.FixedSizeListArray.from_arrays(pa.array(missing.ravel(), pa.float32()), values.shape[1])


def _saved(content: Any) -> bytes:
    file = io.BytesIO()
    torch.save(content, file)
    return file.getvalue()


def _packed(arrays: dict[str, np.ndarray]) -> bytes:
    file = io.BytesIO()
    np.savez(file, **arrays)  # type: ignore[arg-type]
    return file.getvalue()


def _first(values: Any, value: float) -> Any:
    copied = copy.deepcopy(values)
    copied.reshape(-1)[0] = value
    return copied


def _tensors(values: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[tuple[Any, ...], torch.Tensor]]:
    if isinstance(values, torch.Tensor):
        yield path, values
    parts = (
        values.items() if isinstance(values, dict) else enumerate(values) if isinstance(values, (list, tuple)) else ()
    )
    for name, value in parts:
        yield from _tensors(value, (*path, name))


def _with(content: dict[str, Any], path: tuple[Any, ...], value: Any) -> dict[str, Any]:
    copied = copy.deepcopy(content)
    node = _at(copied["payload"], path[:-1])
    node[path[-1]] = value
    return copied


def _at(values: Any, path: tuple[Any, ...]) -> Any:
    for part in path:
        values = values[part]
    return values


def _places(values: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    parts = values.items() if isinstance(values, dict) else enumerate(values[:1]) if isinstance(values, list) else ()
    for name, value in parts:
        yield (*path, name)
        yield from _places(value, (*path, name))
