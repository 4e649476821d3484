"""Checkpoints: one file, written atomically, read without executing code."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import torch

from marca_common.errors import UserError
from marca_common.files import atomic_path

_FORMAT = 1


def save_checkpoint(path: str | Path, kind: str, columns: list[str], payload: dict[str, Any]) -> None:
    """Save tensors and plain values under a ``kind`` (which program reads it) and the ``columns`` it was fitted on.

    Put state dicts of model and optimiser, the step, generator states, vocabularies and the config in ``payload``.
    """
    content = io.BytesIO()  # torch's own writer reports a full disk as an internal error
    torch.save({"format": _FORMAT, "kind": kind, "columns": list(columns), "payload": payload}, content)
    with atomic_path(path) as temporary:
        temporary.write_bytes(content.getbuffer())


def load_checkpoint(path: str | Path, kind: str, columns: list[str] | None = None) -> dict[str, Any]:
    """The payload of a checkpoint of this ``kind`` (and, where given, these ``columns``); anything else is a UserError."""
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path}: no such checkpoint")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many types for a file that is not a checkpoint
        raise UserError(f"{path}: not a readable checkpoint: {str(error).splitlines()[0][:160]}") from None
    if not isinstance(content, dict) or "kind" not in content:
        raise UserError(f"{path}: not a checkpoint of this software")
    if content.get("format") != _FORMAT:
        raise UserError(
            f"{path}: a checkpoint of format {content.get('format')}; this version reads format {_FORMAT}: train again"
        )
    if content["kind"] != kind:
        raise UserError(f"{path}: a checkpoint of {content['kind']!r}; expected one of {kind!r}")
    if columns is not None and content["columns"] != list(columns):
        raise UserError(f"{path}: fitted on columns {content['columns']}; expected {list(columns)}")
    payload: dict[str, Any] = content["payload"]
    return payload


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
