"""Checkpoints: one file, written atomically, read without executing code, its content checked on both ways."""

from __future__ import annotations

import io
import math
import warnings
import zipfile
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from marca_common.errors import UserError
from marca_common.files import atomic_path

_FORMAT = 1
_KEYS = {"format", "kind", "columns", "payload"}


def save_checkpoint(path: str | Path, kind: str, columns: list[str], payload: dict[str, Any]) -> None:
    """Save tensors and plain values under a ``kind`` (which program reads it) and the ``columns`` it was fitted on.

    Put state dicts of model and optimiser, the step, generator states, vocabularies and the config in ``payload``.
    A number in it that is not finite is a UserError, and nothing is written.
    """
    bad = first_not_finite(payload)
    if bad:
        raise UserError(f"{path}: not written: {bad}; training went wrong, try a smaller learning rate (lr)")
    content = io.BytesIO()  # torch's own writer reports a full disk as an internal error
    torch.save({"format": _FORMAT, "kind": kind, "columns": list(columns), "payload": payload}, content)
    with atomic_path(path) as temporary:
        temporary.write_bytes(content.getbuffer())


def load_checkpoint(path: str | Path, kind: str, columns: list[str] | None = None) -> dict[str, Any]:
    """The payload of a checkpoint of this ``kind`` (and, where given, these ``columns``), every number in it finite.

    Anything else is a UserError. What the payload holds is for the caller to check, inside ``content_of``.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path}: {'a folder, not a' if path.is_dir() else 'no such'} checkpoint")
    try:
        _require_plain_archive(path)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of pickles that torch did not write: the line below says it
            content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many types for a file that is not a checkpoint
        raise UserError(
            f"{path}: not a readable checkpoint: {(str(error) or 'cut off').splitlines()[0][:160]}"
        ) from None
    if not isinstance(content, dict) or "kind" not in content:
        raise UserError(f"{path}: not a checkpoint of this software")
    if content.get("format") != _FORMAT:
        raise UserError(
            f"{path}: a checkpoint of format {content.get('format')}; this version reads format {_FORMAT}: train again"
        )
    if content["kind"] != kind:
        raise UserError(f"{path}: a checkpoint of {content['kind']!r}; expected one of {kind!r}")
    with content_of(path):
        require_keys(content, _KEYS)
        if columns is not None and content["columns"] != list(columns):
            raise UserError(f"fitted on columns {content['columns']}; expected {list(columns)}")
        payload = content["payload"]
        if not isinstance(payload, dict):
            raise UserError(f"its payload is a {type(payload).__name__}; expected a dictionary")
        bad = first_not_finite(payload)
        if bad:
            raise UserError(f"{bad}; train again")
    return payload


@contextmanager
def content_of(path: str | Path) -> Iterator[None]:
    """Whatever is wrong with what a checkpoint holds becomes one UserError that begins with its path."""
    try:
        yield
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
    except Exception as error:  # the content is foreign: a wrong type or size can fail anywhere in its readers
        reason = f"{type(error).__name__}: {(str(error) or 'no reason given').splitlines()[0][:160]}"
        raise UserError(f"{path}: damaged, or of another version; train again ({reason})") from None


def require_keys(values: Any, keys: Collection[str], optional: Collection[str] = (), what: str = "checkpoint") -> None:
    """A UserError unless ``values`` is a dictionary with exactly these ``keys``, the ``optional`` ones or not."""
    if not isinstance(values, Mapping):
        raise UserError(f"{what}: got a {type(values).__name__}; expected a dictionary")
    missing = sorted(set(keys) - set(values) - set(optional))
    unknown = sorted(str(key) for key in values if key not in keys and key not in optional)
    if missing or unknown:
        found = f"{missing[0]!r} is missing" if missing else f"{unknown[0]!r} is not known"
        raise UserError(f"{what}: the part {found}; it is damaged, or of another version: train again")


def require_fit(
    build: Callable[[], nn.Module], weights: Any, what: str = "weights", any_size: Collection[str] = ()
) -> None:
    """``check_weights`` of a module that is built without memory: a damaged config may ask for more than there is."""
    with torch.device("meta"):
        module = build()
    check_weights(module, weights, what, any_size)


def load_weights(module: nn.Module, weights: Any, what: str = "weights", any_size: Collection[str] = ()) -> None:
    """``module.load_state_dict`` after ``check_weights``.

    Whole numbers are never learned: those not in ``any_size`` follow from the config and must be those of ``module``.
    """
    check_weights(module, weights, what, any_size)
    for name, tensor in module.state_dict().items():
        if (
            not tensor.is_floating_point()
            and name not in any_size
            and not torch.equal(tensor.cpu(), weights[name].cpu())
        ):
            raise UserError(f"{what}: {name} does not follow from the config: train again")
    module.load_state_dict(weights)


def check_weights(module: nn.Module, weights: Any, what: str = "weights", any_size: Collection[str] = ()) -> None:
    """A UserError unless ``weights`` are tensors with the names, shapes and types of those of ``module``.

    The shape of those named in ``any_size`` is for their module to check.
    """
    own: dict[str, Tensor] = module.state_dict()
    require_keys(weights, own.keys(), what=what)
    for name, tensor in own.items():
        found = weights[name]
        if not isinstance(found, Tensor):
            raise UserError(f"{what}: {name} is a {type(found).__name__}; expected a tensor")
        if found.dtype != tensor.dtype:
            raise UserError(f"{what}: {name} holds {found.dtype}; expected {tensor.dtype}: train again")
        if name not in any_size and found.shape != tensor.shape:
            shapes = f"shape {tuple(found.shape)}; expected {tuple(tensor.shape)}"
            raise UserError(f"{what}: {name} has {shapes}, as its config and vocabularies say: train again")


def load_optimiser(optimiser: torch.optim.Optimizer, saved: Any) -> None:
    """``optimiser.load_state_dict``, and a UserError where a running mean does not fit its parameter."""
    optimiser.load_state_dict(saved)
    for parameter, state in optimiser.state.items():
        for name, value in state.items():
            if isinstance(value, Tensor) and value.dim() and value.shape != parameter.shape:
                raise UserError(
                    f"optimiser: {name} has shape {tuple(value.shape)}; expected {tuple(parameter.shape)}: start anew"
                )


def restore_plain(target: object, saved: Mapping[str, Any], names: Collection[str]) -> None:
    """Set attributes of ``target`` from plain values of the same types; another type is a UserError."""
    for name in names:
        have, found = getattr(target, name), saved[name]
        if type(found) is not type(have):
            raise UserError(f"{name} is a {type(found).__name__}; expected a {type(have).__name__}")
        setattr(target, name, found)


def first_not_finite(values: Any, name: str = "") -> str | None:
    """Which tensor or number inside plain values is not finite (or no ordinary tensor), in words; None where all are well."""
    if isinstance(values, Tensor):
        return _tensor_problem(values, name)
    if isinstance(values, float | np.floating) and not math.isfinite(values):
        return f"{name} is {float(values):g}, expected a finite number"
    if isinstance(values, Mapping):
        parts = [(f"{name}.{key}" if name else str(key), value) for key, value in values.items()]
    elif isinstance(values, list | tuple):
        parts = [(f"{name}.{number}", value) for number, value in enumerate(values)]
    else:
        return None
    return next((found for found in (first_not_finite(value, part) for part, value in parts) if found), None)


def generator_state(generator: np.random.Generator | torch.Generator) -> dict[str, Any]:
    """The state of a generator as plain values and tensors."""
    if isinstance(generator, torch.Generator):
        return {"torch": generator.get_state()}
    state = generator.bit_generator.state
    return {"numpy": {**state, "state": {key: str(value) for key, value in state["state"].items()}}}


def restore_generator(generator: np.random.Generator | torch.Generator, state: dict[str, Any]) -> None:
    """Put a generator back into a saved state."""
    if isinstance(generator, torch.Generator):
        generator.set_state(state["torch"])
        return
    saved = state["numpy"]
    generator.bit_generator.state = {
        **saved,
        "state": {key: int(value) for key, value in saved["state"].items()},
    }


def _tensor_problem(tensor: Tensor, name: str) -> str | None:
    own = tensor.numel() * tensor.element_size()  # an expanded tensor claims more numbers than it holds
    if (
        tensor.layout != torch.strided
        or tensor.is_quantized
        or tensor.is_meta
        or own > tensor.untyped_storage().nbytes()
    ):
        return f"{name} is no ordinary tensor"
    if not tensor.is_floating_point():
        return None
    finite = torch.isfinite(tensor)
    if finite.all():
        return None
    value = float(tensor[~finite].reshape(-1)[0])
    return f"{name} holds {value:g} ({int((~finite).sum())} of {tensor.numel()} numbers), expected finite numbers"


def _require_plain_archive(path: Path) -> None:
    """Checkpoints are archives without compression; a compressed one could unpack to more than memory holds."""
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            if any(one.compress_type != zipfile.ZIP_STORED for one in archive.infolist()):
                raise UserError("its archive is compressed, as no version of this software writes it")
