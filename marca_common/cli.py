"""One way to start every program: ``python -m package.verb --config F.yaml --set a.b=c --out DIR``."""

from __future__ import annotations

import argparse
import logging
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from marca_common.config import Config, load_config
from marca_common.errors import UserError


def run_cli(
    function: Callable[..., Any],
    config_class: type[Config],
    *,
    default_config: str,
    default_out: str,
    argv: list[str] | None = None,
) -> None:
    """Parse the command line, call ``function(config, out)`` and leave with 0, 2 (the user can mend it) or 130 (Ctrl-C).

    The help text is the function's docstring. ``--device`` is offered where the config has a ``device``.
    """
    parser = argparse.ArgumentParser(description=function.__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--config",
        type=Path,
        default=Path(default_config),
        metavar="F.yaml",
        help=f"default {default_config}",
    )
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        dest="overrides",
        metavar="a.b=c",
        help="override one config key; repeatable",
    )
    parser.add_argument(
        "--out",
        type=Path,
        default=Path(default_out),
        metavar="DIR",
        help=f"run folder, default {default_out}",
    )
    if "device" in config_class.model_fields:
        parser.add_argument("--device", choices=["auto", "cpu", "cuda"], help="override the config's device")
    arguments = parser.parse_args(argv)
    overrides = list(arguments.overrides)
    if getattr(arguments, "device", None):
        overrides.append(f"device={arguments.device}")
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    sys.exit(_call(function, config_class, arguments, overrides))


def _call(
    function: Callable[..., Any],
    config_class: type[Config],
    arguments: argparse.Namespace,
    overrides: list[str],
) -> int:
    try:
        result = function(load_config(config_class, arguments.config, overrides), arguments.out)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except PermissionError as error:
        print(f"error: {error.filename}: cannot write: {error.strerror}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"\ninterrupted; the same command goes on from {arguments.out}", file=sys.stderr)
        return 130
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    _print_summary(getattr(result, "summary", None), arguments.out)
    return 0


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
