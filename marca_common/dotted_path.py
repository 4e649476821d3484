"""Somebody else's function or class, named in a config as ``module:name``."""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from marca_common.errors import UserError

T = TypeVar("T")


def load_by_path(name: str, place: str) -> Callable[..., Any]:
    """The function or class that ``module:name`` stands for; anything else is a UserError naming ``place``."""
    module, _, attribute = name.partition(":")
    try:
        found = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError, ValueError) as error:
        raise UserError(f"{place}: got {name!r}; expected module:name that can be imported ({error})") from None
    if not callable(found):
        raise UserError(f"{place}: {name!r} is not callable")
    return found  # type: ignore[no-any-return]


def find(name: str, ours: Mapping[str, Any], place: str, kind: str = "function") -> Any:
    """What a name stands for: one of ``ours``, or ``module:name`` of somebody else's ``kind``."""
    if name in ours:
        return ours[name]
    if ":" in name:
        return load_by_path(name, place)
    near = difflib.get_close_matches(name, ours, n=1)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    raise UserError(f"{place}: got {name!r}; expected one of {', '.join(ours)}, or module:{kind} of your own{hint}")


def find_class(name: str, ours: Mapping[str, type[T]], base: type[T], place: str) -> type[T]:
    """The class behind a name: one of ``ours``, or ``module:Class`` with every public member of ``base``.

    ``base`` may be a class or a protocol. Members that an instance only gets when it is made are not looked for.
    """
    found: type[T] = find(name, ours, place, "Class")
    missing = [
        one
        for one in vars(base)
        if not one.startswith("_") and callable(getattr(base, one)) and not hasattr(found, one)
    ]
    if name not in ours and (not isinstance(found, type) or missing):
        raise UserError(
            f"{place}: {name!r} is no {base.__name__}; expected a class with {', '.join(missing) or 'its methods'}"
        )
    return found
