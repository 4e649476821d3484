"""The page of the real cascade: ``python -m marca_report.real_data --out runs/real``, the end of ``make real``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import Field

from marca_common.cli import run_cli
from marca_common.config import Config
from marca_common.errors import UserError
from marca_common.files import read_json
from marca_common.html_page import write_page
from marca_common.run_folder import RunFolder
from marca_report.benchmark_files import BenchmarkFiles
from marca_report.real_sections import (
    budgets_section,
    build_section,
    costs_section,
    learners_section,
    licence_section,
    limits_section,
    live_section,
)

_QUESTION = (
    "Does it pay to decide request by request how much computation each one gets, where nobody wrote the mechanism? The cascade "
    "is trained on MovieLens, its CPU is measured, and pages are worth what likes pay that nobody trained on."
)


class RealPageConfig(Config):
    """`python -m marca_report.real_data`."""

    build: Path = Field(default=Path("runs/recommender"), description="run folder of a finished recommender.build")
    results: list[Path] = Field(
        default=[Path("runs/benchmarks/results"), Path("benchmarks/results")],
        min_length=1,
        description="folders with tables and figures of benchmarks; of each the first that has it",
    )


@dataclass
class RealPage:
    """What ``real_data`` returns; ``summary`` is also in summary.json."""

    page: Path
    summary: dict[str, Any]


def real_data(config: RealPageConfig, out: str | Path) -> RealPage:
    """Write report.html: what the real cascade earns and costs, and what the benchmarks measured on it.

    What no benchmark has measured yet is named, with the command that does. A UserError where there is no finished build.
    """
    build = _summary(config.build)
    files = BenchmarkFiles(config.results)
    with RunFolder(out, config) as folder:
        sections = [
            budgets_section(files),
            learners_section(files),
            build_section(config.build, build),
            costs_section(files),
            live_section(files),
            limits_section(build, folder.path / "figures/limits.png"),
            licence_section(build),
        ]
        write_page(folder.path / "report.html", "MaRCA · a real cascade", _QUESTION, _facts(build), sections)
        summary = {"report": "report.html", "shown": [str(path) for path in files.shown]}
        folder.write_summary(summary)
    return RealPage(folder.out / "report.html", summary)


def _summary(build: Path) -> dict[str, Any]:
    path = build / "summary.json"
    if not path.is_file():
        raise UserError(f"build: {build} has no summary.json; expected a finished build (python -m recommender.build)")
    summary = read_json(path)
    missing = [key for key in ("licence", "value", "variance_share", "cost_ms") if key not in summary]
    if missing:
        raise UserError(f"{path}: has no {missing[0]!r}; expected the summary of recommender.build, run it again")
    return dict(summary)


def _facts(build: dict[str, Any]) -> dict[str, str]:
    facts = {name: f"{build[name]:,}" for name in ("users", "films", "ratings", "visits")}
    facts["joint actions, different ones"] = f"{build['joint_actions']}, {build['distinct_actions']}"
    facts["core-seconds of the build"] = f"{sum(build['cpu_seconds'].values()):.0f}"
    return facts | {"peak memory": f"{build['peak_rss_mb']:.0f} MB"}


if __name__ == "__main__":
    run_cli(real_data, RealPageConfig, default_config="configs/recommender/page.yaml", default_out="runs/real")
