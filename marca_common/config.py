"""Strict YAML configs: every key is declared, typed and checked before any work starts.

A mapping in a file may begin with ``extends: other.yaml`` (relative to that file, or a shipped ``configs/x.yaml``); its
other keys then override the extended ones, key by key; ``key: !remove`` takes an entry of the extended mapping away.
``--set a.b=c`` overrides both.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import typing
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError, ValidationInfo, field_validator

from marca_common.errors import UserError
from marca_common.files import shipped

ConfigT = TypeVar("ConfigT", bound="Config")


class Config(BaseModel):
    """Base of all configs: unknown keys are errors, values are frozen, NaN and infinity are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, protected_namespaces=())
    RENAMED: ClassVar[dict[str, str]] = {}  # old key of this class → the key that took its place

    @field_validator("*", mode="before")
    @classmethod
    def _no_boolean_is_a_number(cls, value: Any, info: ValidationInfo) -> Any:
        """YAML reads yes, on and true as one value, which would pass for the number 1."""
        annotation = cls.model_fields[str(info.field_name)].annotation
        kinds = _leaf_types(annotation)
        numeric = kinds & {int, float} and not kinds & {bool, str, Any} and not inner_models(annotation)
        if numeric and _holds_boolean(value):
            raise ValueError("expected a number")
        return value


def load_config(cls: type[ConfigT], path: str | Path | None = None, overrides: Iterable[str] = ()) -> ConfigT:
    """Read ``path`` (or only defaults), apply ``a.b=c`` overrides, validate as ``cls``.

    Raises UserError naming the file, the key, the value and the expectation.
    """
    file = shipped(path) if path is not None else None
    values: dict[str, Any] = {}
    if file is not None:
        try:
            values = _extend(_read_yaml(file), file, (file.resolve(),))
        except RecursionError:
            raise UserError(f"{file}: an alias leads back to itself, or mappings are nested too deeply") from None
    for override in overrides:
        _apply_override(values, override)
    place = str(path) if path is not None else "config"
    return parse_config(cls, _all_there(values, place), place)


def parse_config(cls: type[ConfigT], values: Any, place: str) -> ConfigT:
    """Plain values, such as those in a checkpoint, as ``cls``; what is wrong with them is a UserError that begins with ``place``."""
    try:
        return cls.model_validate(values)
    except ValidationError as error:
        raise UserError(f"{place}: {first_problem(cls, error)}") from None
    except RecursionError:
        raise UserError(f"{place}: an alias leads back to itself, or values are nested too deeply") from None


def to_dict(config: Config) -> dict[str, Any]:
    """The resolved config as plain values, ready for YAML or JSON."""
    return config.model_dump(mode="json")


def dump_yaml(config: Config) -> str:
    """The resolved config as YAML text, in the order of declaration."""
    return yaml.safe_dump(to_dict(config), sort_keys=False, allow_unicode=True)


def replaced(config: ConfigT, values: Mapping[str, Any]) -> ConfigT:
    """The config with other values at the given dotted keys (``{"data.requests": path}``), validated again."""
    plain = to_dict(config)
    for key, value in values.items():
        *parents, last = key.split(".")
        node = plain
        for name in parents:
            node = node[name]
        if last not in node:
            raise KeyError(key)
        node[last] = value
    return type(config).model_validate(plain)


def content_hash(*parts: Any) -> str:
    """16 hex digits that depend only on the given plain values and configs."""
    plain = [to_dict(part) if isinstance(part, Config) else part for part in parts]
    text = json.dumps(plain, sort_keys=True, default=str)
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


class _UniqueKeys(yaml.SafeLoader):
    """YAML in which a key that stands twice in one mapping is an error, not a silent replacement."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """As the parent's, keys checked."""
        lines: dict[Any, int] = {}
        for key, _ in node.value:
            name, line = (key.tag, str(key.value)), key.start_mark.line + 1
            if name in lines:
                raise UserError(f"key {key.value!r} stands in lines {lines[name]} and {line}; expected it once")
            lines[name] = line
        return super().construct_mapping(node, deep)


class _Removed:
    """Stands for ``!remove`` until files are merged."""


_UniqueKeys.add_constructor("!remove", lambda loader, node: _Removed())


def _all_there(values: Any, place: str, key: str = "") -> Any:
    """``values``, once it is sure that each ``!remove`` in them had something to remove."""
    if isinstance(values, _Removed):
        raise UserError(f"{place}: {key}: nothing of this name to remove")
    if isinstance(values, dict):
        for name, value in values.items():
            _all_there(value, place, f"{key}.{name}" if key else str(name))
    return values


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        values = yaml.load(path.read_text(encoding="utf-8"), _UniqueKeys)
    except OSError as error:
        raise UserError(f"{path}: cannot read the config: {error.strerror}") from None
    except UnicodeDecodeError:
        raise UserError(f"{path}: the config is not UTF-8 text") from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # impossible dates are ValueErrors
        raise UserError(f"{path}: not valid YAML: {error}") from None
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
    if not isinstance(values, dict | None):
        raise UserError(f"{path}: expected a mapping of keys to values, got {type(values).__name__}")
    return values or {}


def _extend(values: Any, path: Path, chain: tuple[Path, ...]) -> Any:
    """Resolve ``extends`` in a mapping and in the mappings inside it."""
    if not isinstance(values, dict):
        return values
    own = {key: _extend(value, path, chain) for key, value in values.items() if key != "extends"}
    if "extends" not in values:
        return own
    base_path = path.parent / str(values["extends"])
    base_path = (base_path if base_path.is_file() else shipped(str(values["extends"]))).resolve()
    if base_path in chain:
        raise UserError(f"{path}: extends: {values['extends']} leads back to itself")
    if not base_path.is_file():
        raise UserError(f"{path}: extends: no such file {values['extends']!r}")
    return _merge(_extend(_read_yaml(base_path), base_path, (*chain, base_path)), own)


def _merge(base: Any, own: Any) -> Any:
    if isinstance(base, dict) and isinstance(own, dict):
        gone = {key for key, value in own.items() if isinstance(value, _Removed) and key in base}
        kept = {key: value for key, value in base.items() if key not in gone}
        return kept | {key: _merge(base.get(key), value) for key, value in own.items() if key not in gone}
    return own


def _apply_override(values: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    if not equals or not key.strip():
        raise UserError(f"--set {override!r}: expected key=value, for example seed=3 or world.days=2")
    *parents, last = key.strip().split(".")
    node = values
    for name in parents:
        child = node.get(name)
        if not isinstance(child, dict):
            child = {}
        node[name] = child
        node = child
    try:
        value = yaml.load(text, _UniqueKeys)
    except (yaml.YAMLError, ValueError, RecursionError):
        raise UserError(f"--set {override!r}: the value is not valid YAML") from None
    except UserError as error:
        raise UserError(f"--set {override!r}: {error}") from None
    if isinstance(value, _Removed) and last in node:
        del node[last]
    else:
        node[last] = value


def _holds_boolean(value: Any) -> bool:
    parts = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return isinstance(value, bool) or any(map(_holds_boolean, parts))


def _leaf_types(annotation: Any) -> set[Any]:
    inner = typing.get_args(annotation)
    if typing.get_origin(annotation) is dict:
        inner = inner[1:]  # the values; YAML may write a key as it likes
    if typing.get_origin(annotation) is typing.Literal:
        return {type(one) for one in inner}
    return set().union(*map(_leaf_types, inner)) if inner else {annotation}


def first_problem(cls: type[BaseModel], error: ValidationError) -> str:
    """What is wrong with a config, in one line: a renamed key, or else the first bad key, its value and the expectation."""
    unknown = [tuple(map(str, one["loc"])) for one in error.errors() if one["type"] == "extra_forbidden"]
    for *parents, old in unknown:
        for new in (model.RENAMED.get(old) for model in _models_at(cls, parents) if issubclass(model, Config)):
            if new:
                return f"key {'.'.join([*parents, old])!r} is now {'.'.join([*parents, new])!r}"
    first = error.errors()[0]
    key = ".".join(str(part) for part in first["loc"]) or "(whole config)"
    if first["type"] == "extra_forbidden":
        *parents, last = unknown[0]
        known = [name for model in _models_at(cls, parents) for name in model.model_fields]
        near = difflib.get_close_matches(last, known, n=1, cutoff=0.4)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        return f"{key}: unknown key{hint}"
    if first["type"] == "missing":
        return f"{key}: missing, a value is required"
    message = first["msg"].removeprefix("Value error, ")
    return f"{key}: got {first['input']!r:.120}; {message}"


def _models_at(cls: type[BaseModel], location: Iterable[str]) -> list[type[BaseModel]]:
    """The models found by walking ``location`` down from ``cls``; several where a field is a union."""
    models = [cls]
    for part in location:
        fields = [model.model_fields[part] for model in models if part in model.model_fields]
        models = [inner for field in fields for inner in inner_models(field.annotation)] or models
    return models


def inner_models(annotation: Any) -> list[type[BaseModel]]:
    """Config classes that a field's type names, be it in a union, list or mapping."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for inner in typing.get_args(annotation) for model in inner_models(inner)]
