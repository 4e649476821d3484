"""What changes over time, as plain JSON-able values and back: a process that was killed goes on as if it never stopped."""

from __future__ import annotations

import base64
import math
from collections import Counter, deque
from typing import Any, ClassVar, Protocol, runtime_checkable

import numpy as np

from marca_common.checkpoint import generator_state, restore_generator
from marca_common.errors import UserError

_LARGE = 40  # numbers; an array of more is packed
_KINDS = {
    bool: "true or false",
    int: "an integer",
    float: "a number or null",
    str: "a text",
    np.datetime64: "an instant",
    Counter: "counts by name",
    dict: "counts by name",
    deque: "rows of numbers",
    list: "numbers",
    set: "names",
    np.random.Generator: "a generator's state",
}


@runtime_checkable
class Restorable(Protocol):
    """A controller (or a part of one) that can be saved and made anew."""

    def state(self) -> dict[str, Any]:
        """Plain values: numbers, texts, None, lists and dictionaries of them."""
        ...

    def restore(self, values: Any, place: str = "state") -> None:
        """Take over what ``state`` gave, into an object just made; a UserError that begins with ``place`` for anything else."""
        ...


class Stateful:
    """Names the attributes that change over time in ``STATE``, each class only its own; is Restorable by them.

    They may be arrays, floats, integers, booleans, texts, instants, generators, counts by name, sets of texts, lists of numbers,
    queues of arrays of one shape, and objects that are Restorable. One that is None at first may become an array or a text.
    Numbers come back to the last bit; NaN is null. Large arrays are packed, so that a state is written in no time.
    """

    STATE: ClassVar[list[str]] = []

    def state(self) -> dict[str, Any]:
        """The named attributes as plain values."""
        return {name: plain(getattr(self, name)) for name in _names(type(self))}

    def restore(self, values: Any, place: str = "state") -> None:
        """Set the named attributes; a UserError where a key is missing or unknown, or a value has another type or shape."""
        names = _names(type(self))
        if not isinstance(values, dict):
            raise UserError(f"{place}: got a {type(values).__name__}; expected the keys {', '.join(names)}")
        odd = sorted(set(names) ^ set(values))
        if odd:
            raise UserError(f"{place}.{odd[0]}: {'the key is missing' if odd[0] in names else 'unknown key'}")
        for name in names:
            setattr(self, name, _like(getattr(self, name), values[name], f"{place}.{name}"))


def plain(value: Any) -> Any:
    """One attribute as plain values."""
    if isinstance(value, Stateful):  # what is common first: isinstance of a protocol takes its time
        return value.state()
    if isinstance(value, np.ndarray):
        if value.size > _LARGE:
            return _packed(value)
        lost = value.dtype.kind == "f" and np.isnan(value).any()
        return _nulled(value.tolist()) if lost else value.tolist()
    if isinstance(value, float):
        return None if math.isnan(value) else float(value)
    if isinstance(value, np.datetime64):
        return str(value)
    if isinstance(value, np.random.Generator):
        return generator_state(value)
    if isinstance(value, dict):
        return {name: int(count) for name, count in value.items()}
    if isinstance(value, deque):
        return plain(np.array(value))
    if isinstance(value, list | set):
        return [plain(one) for one in value] if isinstance(value, list) else sorted(value)
    if value is None or isinstance(value, int | str):
        return value
    return value.state() if isinstance(value, Restorable) else value


def _names(kind: type) -> list[str]:
    return [name for parent in reversed(kind.__mro__) for name in vars(parent).get("STATE", ())]


def _nulled(values: Any) -> Any:
    if isinstance(values, list):
        return [_nulled(one) for one in values]
    return None if math.isnan(values) else values


def _packed(array: np.ndarray) -> dict[str, Any]:
    """An array of float64 as base64 of its bytes, low byte first."""
    content = base64.b64encode(np.ascontiguousarray(array, "<f8").tobytes()).decode()
    return {"shape": list(array.shape), "float64": content}


def _unpacked(found: dict[str, Any]) -> np.ndarray:
    content = np.frombuffer(base64.b64decode(found["float64"], validate=True), "<f8")
    return content.reshape(found["shape"]).astype(np.float64)


def _like(have: Any, found: Any, place: str) -> Any:
    """``found`` as the type (and shape) of ``have``; mutable things are filled in place, since others may hold them."""
    if isinstance(have, Restorable):
        have.restore(found, place)
        return have
    try:
        return _converted(have, found)
    except (KeyError, TypeError, ValueError, OverflowError, AttributeError):
        shown = repr(found) if len(repr(found)) <= 60 else f"{repr(found)[:59]}…"
        raise UserError(f"{place}: got {shown}; expected {_expected(have)}") from None


def _converted(have: Any, found: Any) -> Any:
    if have is None:
        return found if found is None or isinstance(found, str) else _array(found, np.dtype(np.float64))
    if isinstance(have, np.ndarray):
        return _array(found, have.dtype, have.shape)
    if isinstance(have, np.datetime64):
        return np.datetime64(found, "s")
    if isinstance(have, np.random.Generator):
        restore_generator(have, found)
        return have
    if isinstance(have, dict | deque):
        return _filled(have, found)
    if isinstance(have, set):
        return {str(name) for name in found}
    if isinstance(have, list):
        return _array(found, np.dtype(np.float64)).tolist()
    if isinstance(have, float):
        return float("nan") if found is None else _number(found)
    if type(found) is not type(have):
        raise TypeError
    return found


def _filled(have: dict[str, int] | deque[np.ndarray], found: Any) -> Any:
    """Counts or a queue, filled in place."""
    if isinstance(have, dict):
        counts = {str(name): _whole(count) for name, count in found.items()}
        have.clear()
        have.update(counts)
        return have
    rows = _array(found, np.dtype(np.float64))
    if len(have) and len(rows) and rows.shape[1:] != have[0].shape:
        raise ValueError
    have.clear()
    have.extend(rows)
    return have


def _array(found: Any, dtype: np.dtype[Any], shape: tuple[int, ...] | None = None) -> np.ndarray:
    packed = isinstance(found, dict)
    array = _unpacked(found) if packed else np.array(found, np.float64 if dtype.kind == "f" else None)
    if array.size == 0:
        array = array.astype(dtype)
    if array.dtype.kind != dtype.kind or shape not in (None, array.shape):
        raise ValueError
    return array.astype(dtype)


def _whole(found: Any) -> int:
    if type(found) is not int:
        raise TypeError
    return found


def _number(found: Any) -> float:
    if type(found) not in (int, float):
        raise TypeError
    return float(found)


def _expected(have: Any) -> str:
    if isinstance(have, np.ndarray):
        return f"numbers of shape {have.shape}"
    return _KINDS.get(type(have), "numbers or null")
