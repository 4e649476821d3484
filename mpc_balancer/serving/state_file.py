"""The state of one data centre on disk, replaced after every step: whole or absent, and only of this model and config."""

from __future__ import annotations

import hashlib
import json
import urllib.parse
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np

from marca_common.config import Config, content_hash
from marca_common.errors import UserError
from marca_common.files import read_json, write_text
from mpc_balancer.system_model.model import SystemModel

VERSION = 1
_KEYS = ["version", "identity", "group", "saved", "checksum", "state"]


def file_name(group: str) -> str:
    """A file name of its own for any name of a data centre."""
    return f"{urllib.parse.quote(group, safe=' ')}.json"


def identity(model: SystemModel | None, *parts: Config | str | list[str]) -> str:
    """16 hex digits of a model with all that was tuned beside it, and of the configs that a state belongs to."""
    if model is None:
        return content_hash(*parts)
    weights = hashlib.blake2b(digest_size=16)
    for one in (*model.weights, *model.biases, model.carry, model.idle, model.level):
        weights.update(np.ascontiguousarray(one).tobytes())
    learned = (model.features.to_dict(), model.prices.to_dict(), model.tuned.to_dict())
    plain = (model.head, model.step_seconds, list(model.services), model.quantiles.tolist(), model.residuals.tolist())
    return content_hash(weights.hexdigest(), *learned, *plain, *parts)


def save_state(path: Path, owner: str, group: str, saved: datetime, state: dict[str, Any]) -> None:
    """Write a state atomically; ``owner`` is its identity. A UserError where the disk takes it not."""
    text = json.dumps(state, allow_nan=False)
    head = {"version": VERSION, "identity": owner, "group": group, "saved": saved.isoformat(), "checksum": _sum(text)}
    write_text(path, f'{json.dumps(head, ensure_ascii=False)[:-1]}, "state": {text}}}\n')


def load_state(path: Path, owner: str, group: str) -> tuple[dict[str, Any], datetime]:
    """The state and when it was saved; a UserError for a damaged file, and for one of another version, model or config."""
    content = read_json(path)
    odd = sorted(set(_KEYS) ^ set(content)) if isinstance(content, dict) else ["version"]
    if odd:
        raise UserError(f"{path}: {odd[0]}: {'the key is missing' if odd[0] in _KEYS else 'unknown key'}")
    if content["version"] != VERSION:
        raise UserError(f"{path}: version: got {content['version']!r}; expected {VERSION}; remove it to start anew")
    if content["group"] != group or content["identity"] != owner:
        raise UserError(f"{path}: identity: a state of another system model or config; remove it to start anew")
    try:
        saved = datetime.fromisoformat(content["saved"])
        whole = _sum(json.dumps(content["state"], allow_nan=False)) == content["checksum"] and saved.tzinfo is not None
    except (TypeError, ValueError):
        whole = False
    if not whole:
        raise UserError(f"{path}: checksum: does not fit the content; the file is damaged, remove it to start anew")
    return content["state"], saved


def _sum(text: str) -> str:
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()
