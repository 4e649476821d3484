"""One way to start every program: ``python -m package.verb --config F.yaml --set a.b=c --out DIR``."""

from __future__ import annotations

import argparse
import inspect
import io
import json
import logging
import os
import shutil
import sys
import textwrap
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from types import MappingProxyType
from typing import Any

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import to_jsonable_python

from marca_common.config import Config, inner_models, load_config
from marca_common.errors import UserError
from marca_common.ranks import own_rank
from marca_common.startup import heed_interrupts


def run_cli(
    function: Callable[..., Any],
    config_class: type[Config],
    *,
    default_config: str,
    default_out: str,
    flags: Mapping[str, tuple[str, str]] = MappingProxyType({}),
    argv: list[str] | None = None,
) -> None:
    """Parse the command line, call ``function(config, out)`` and leave with 0, 2 (the user can mend it) or 130 (Ctrl-C).

    The help text is the function's docstring and the keys of its config. ``flags`` maps a flag of the program's own to
    what it is short for and a help text: a config key (``--seconds 60`` for ``--set seconds=60``), or a config file
    (``--quick`` for ``--config that.yaml``). ``--device`` is one of them wherever the config has a ``device``.
    """
    heed_interrupts()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # λ on a terminal that can't show it
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    parser = argparse.ArgumentParser(
        prog=f"python -m {spec.name}" if spec else None,
        description=inspect.getdoc(function),
        epilog=_keys_text(config_class, default_config),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--config", type=Path, default=Path(default_config), metavar="F.yaml", help=f"default {default_config}")
    add("--set", action="append", default=[], metavar="a.b=c", help="override one config key; repeatable")
    add("--out", type=Path, default=Path(default_out), metavar="DIR", help=f"run folder, default {default_out}")
    own = {"--device": ("device", "auto, cpu or cuda")} if "device" in config_class.model_fields else {}
    for flag, (target, text) in {**own, **flags}.items():
        if target.endswith(".yaml"):
            add(flag, action="store_const", const=Path(target), dest="config", help=text)
        else:
            add(flag, action="append", dest="set", type=f"{target}={{}}".format, metavar="X", help=text)
    arguments = parser.parse_args(argv)
    level = logging.INFO if own_rank() == 0 else logging.ERROR
    logging.basicConfig(level=level, format="%(message)s", stream=sys.stderr)
    sys.exit(_call(function, config_class, arguments))


def _keys_text(config_class: type[Config], default_config: str) -> str:
    """The config's keys, one a line, with their defaults; the keys of a config inside it, one level deep."""
    folder = Path(default_config).parent.name
    page = {"configs": "architecture", "recommender": "real_data"}.get(folder, folder)
    page = "own_system" if Path(default_config).stem == "own_system" else page
    where = f"comments in {default_config}; explained in docs/{page}.md"
    width = min(max(shutil.get_terminal_size().columns, 60), 120) - 2
    lines = textwrap.wrap(f"config keys, for YAML and --set ({where}):", width)
    for key, text in _keys(config_class):
        cells = textwrap.wrap(text, width - 32) or [""]
        lines += [f"  {key}"] if len(key) > 28 else [f"  {key:<30}{cells.pop(0)}"]
        lines += [32 * " " + cell for cell in cells]
    return "\n".join(lines)


def _keys(model: type[BaseModel], parent: str = "") -> Iterator[tuple[str, str]]:
    for name, field in model.model_fields.items():
        inner = [one for one in inner_models(field.annotation) if field.annotation in (one, one | None)]
        text = field.description or ((inner and inspect.getdoc(inner[0])) or "").partition("\n")[0]
        if inner and not parent:
            yield from _keys(inner[0], f"{name}.")
        else:
            yield f"{parent}{name}{'.*' if inner else ''}", text if inner else f"{text} ({_default(field)})"


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    default = to_jsonable_python(field.get_default(call_default_factory=True, validated_data={}))
    text = default if isinstance(default, str) and default else json.dumps(default, ensure_ascii=False)
    return f"default: {text if len(text) <= 50 else text[:49] + '…'}"


def _call(function: Callable[..., Any], config_class: type[Config], arguments: argparse.Namespace) -> int:
    try:
        result = function(load_config(config_class, arguments.config, arguments.set), arguments.out)
        if own_rank() == 0:
            _print_summary(getattr(result, "summary", None), arguments.out)
        sys.stdout.flush()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"\ninterrupted; the same command goes on from {arguments.out}", file=sys.stderr)
        return 130
    except BrokenPipeError:
        _close_output()
    except OSError as error:  # a full disk, a file that may not be written, an output that takes no more
        if error.filename is None:
            _close_output()
        print(f"error: {error.filename or 'standard output'}: {error.strerror or error}", file=sys.stderr)
        return 2
    except MemoryError as error:
        print(f"error: not enough memory: {error or 'an allocation failed'}", file=sys.stderr)
        return 2
    return 0


def _close_output() -> None:
    """What is left in the buffer of standard output goes nowhere, so that leaving does not fail on it."""
    with suppress(OSError):  # an output without a descriptor has nothing to lose
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _print_summary(summary: dict[str, Any] | None, out: Path) -> None:
    for key, value in _flat(summary or {}):
        print(f"{key:<44} {value:.6g}" if isinstance(value, float) else f"{key:<44} {value}")
    print(f"written to {out}")


def _flat(values: dict[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    rows: list[tuple[str, Any]] = []
    for key, value in values.items():
        name = f"{prefix}{key}"
        rows += _flat(value, f"{name}.") if isinstance(value, dict) else [(name, value)]
    return rows
