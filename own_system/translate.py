"""Write what the other programs read: ``python -m own_system.translate --config configs/own_system.yaml --out runs/own``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from marca_common.cli import run_cli
from marca_common.config import dump_yaml
from marca_common.errors import UserError
from marca_common.files import write_text
from marca_common.run_folder import RunFolder
from marca_common.tables import write_table
from own_system.check import find_all
from own_system.declaration import OwnSystem
from own_system.loop_config import loop_config
from own_system.translated import load_test_frame, request_frame, system_frame

_HEAD = """# Written by `python -m own_system.translate`: change your declaration and translate again, rather than this file.
# python orchestrate.py --config {path}
"""


@dataclass
class TranslateResult:
    """Where the settings of the whole loop lie."""

    loop: Path
    summary: dict[str, Any]


def translate(config: OwnSystem, out: str | Path) -> TranslateResult:
    """Check the declared tables, then write them in the columns of data/README.md, and loop.yaml for orchestrate.py.

    Tables with an error are refused, and nothing is written. What the check warns of is kept among the run's warnings.
    """
    out = Path(out)
    with RunFolder(out, config) as run:
        findings, tables = find_all(config)
        if findings.errors:
            first = findings.errors[0]
            raise UserError(
                f"{first.place}: {first.value}: {first.meaning} ({findings.count}; python -m own_system.check lists them)"
            )
        for one in findings:
            run.warn(f"{one.kind}: {one.place}: {one.value}")
        assert tables.requests is not None
        assert tables.minutes is not None
        assert tables.load_tests is not None
        written = {
            "requests": request_frame(config, tables.requests),
            "minutes": system_frame(config, tables.minutes),
            "load_tests": load_test_frame(config, tables.load_tests),
        }
        settings = loop_config(config, {name: out / f"{name}.parquet" for name in written})
        for name, table in written.items():
            write_table(table, run.path / f"{name}.parquet")
        path = out / "loop.yaml"
        write_text(run.path / "loop.yaml", _HEAD.format(path=path) + dump_yaml(settings))
        summary = {"rows": {name: len(table) for name, table in written.items()}, "loop": str(path)}
        run.write_summary(summary)
    return TranslateResult(path, summary)


def main() -> None:
    """The command line."""
    run_cli(translate, OwnSystem, default_config="configs/own_system.yaml", default_out="runs/own")


if __name__ == "__main__":
    main()
