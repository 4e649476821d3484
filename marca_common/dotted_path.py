"""Somebody else's function or class, named in a config as ``module:name``."""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Callable, Mapping
from typing import Any, TypeVar, cast

from marca_common.errors import UserError

T = TypeVar("T")


def load_by_path(name: str, place: str) -> Callable[..., Any]:
    """The function or class that ``module:name`` stands for; anything else is a UserError naming ``place``."""
    module, _, attribute = name.partition(":")
    try:
        found: Any = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError, ValueError) as error:
        raise UserError(f"{place}: got {name!r}; expected module:name that can be imported ({error})") from None
    if not callable(found):
        raise UserError(f"{place}: {name!r} is not callable")
    return cast(Callable[..., Any], found)


def find(name: str, ours: Mapping[str, Any], place: str, kind: str = "function") -> Any:
    """What a name stands for: one of ``ours``, or ``module:name`` of somebody else's ``kind``."""
    if name in ours:
        return ours[name]
    if ":" in name:
        return load_by_path(name, place)
    near = difflib.get_close_matches(name, ours, n=1)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    raise UserError(f"{place}: got {name!r}; expected one of {', '.join(ours)}, or module:{kind} of your own{hint}")


def find_class(name: str, ours: Mapping[str, type[T]], base: type[Any], place: str) -> type[T]:
    """The class behind a name: one of ``ours``, or ``module:Class``, derived from ``base`` or, where that is a protocol,
    with its methods. Anything else is a UserError naming ``place``."""
    found = find(name, ours, place, "Class")
    if name in ours:
        return cast(type[T], found)
    if getattr(base, "_is_protocol", False):
        methods = [one for one, value in vars(base).items() if callable(value) and not one.startswith("_")]
        fits = isinstance(found, type) and all(callable(getattr(found, one, None)) for one in methods)
        expected = f"a class with {', '.join(methods)}"
    else:
        fits, expected = isinstance(found, type) and issubclass(found, base), f"a class derived from {base.__name__}"
    if not fits:
        raise UserError(f"{place}: got {name!r}; expected {expected}")
    return cast(type[T], found)
