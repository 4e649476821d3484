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


def find_class(name: str, ours: Mapping[str, type[T]], base: type[Any], place: str) -> type[T]:
    """The class behind a name: one of ``ours``, or ``module:Class``, derived from ``base`` or, where that is a protocol,
    with its methods. Anything else is a UserError naming ``place``."""
    if name in ours:
        return ours[name]
    if ":" not in name:
        near = difflib.get_close_matches(name, ours, n=1, cutoff=0.5)
        hint = f" (did you mean {near[0]!r}?)" if near else ""
        raise UserError(f"{place}: got {name!r}{hint}; expected one of {', '.join(ours)}, or module:Class of your own")
    found = load_by_path(name, place)
    if getattr(base, "_is_protocol", False):
        methods = [one for one, value in vars(base).items() if callable(value) and not one.startswith("_")]
        fits = isinstance(found, type) and all(callable(getattr(found, one, None)) for one in methods)
        expected = f"a class with {', '.join(methods)}"
    else:
        fits, expected = isinstance(found, type) and issubclass(found, base), f"a class derived from {base.__name__}"
    if not fits:
        raise UserError(f"{place}: got {name!r}; expected {expected}")
    return cast(type[T], found)
