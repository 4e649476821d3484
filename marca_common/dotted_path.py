"""Somebody else's function or class, named in a config as ``module:name``."""

from __future__ import annotations

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


def find_class(name: str, ours: Mapping[str, type[T]], base: type[T], place: str) -> type[T]:
    """The class behind a name: one of ``ours``, or ``module:Class`` with every public member of ``base``.

    ``base`` may be a class or a protocol. Members that an instance only gets when it is made are not looked for.
    """
    if name in ours:
        return ours[name]
    if ":" not in name:
        raise UserError(f"{place}: got {name!r}; expected one of {', '.join(ours)}, or module:Class of your own")
    found = load_by_path(name, place)
    missing = [
        one
        for one in vars(base)
        if not one.startswith("_") and callable(getattr(base, one)) and not hasattr(found, one)
    ]
    if not isinstance(found, type) or missing:
        raise UserError(
            f"{place}: {name!r} is no {base.__name__}; expected a class with {', '.join(missing) or 'its methods'}"
        )
    return found
