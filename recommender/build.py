"""Build the real cascade: data, models, what every action shows, earns and costs, and the log that learners see."""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from marca_common.cli import run_cli
from marca_common.compute import set_threads
from marca_common.run_folder import RunFolder
from recommender.build_figures import draw_costs, draw_values
from recommender.build_parts import MODELS_FILE, Parts, load_people
from recommender.build_summary import build_summary
from recommender.config import RecommenderConfig
from recommender.histories.people import People


@dataclass
class Built:
    """What ``build`` returns."""

    folder: Path
    summary: dict[str, Any]


def build(config: RecommenderConfig, out: str | Path) -> Built:
    """Build the real cascade: models.pt, logs/requests.parquet, and truth/ with pages, values and measured costs.

    Learners read logs/ only. Files that a run of the same config has finished already are kept, so an interrupted run goes on.
    """
    set_threads(1)  # the clock of the cost table is the whole process'
    with RunFolder(out, config, resumes_from=MODELS_FILE) as folder:
        people = load_people(config)
        parts = Parts(config, folder.path, people)
        wall: dict[str, float] = {}
        cpu: dict[str, float] = {}
        for name, file, write in parts.stages():
            wall[name], cpu[name] = _once(folder.path / file, write)
        _say(people, folder)
        draw_values(parts, folder.path / "values.png")
        draw_costs(parts, folder.path / "costs.png")
        summary = build_summary(parts) | {"seconds": wall, "cpu_seconds": cpu, "peak_rss_mb": _peak_mb()}
        folder.write_summary(summary)
    return Built(folder.out, summary)


def _once(path: Path, write: Callable[[Path], None]) -> tuple[float, float]:
    """Seconds and CPU seconds it took to write a file that is not there yet."""
    wall, cpu = time.perf_counter(), time.process_time()
    if not path.exists():
        write(path)
    return round(time.perf_counter() - wall, 2), round(time.process_time() - cpu, 2)


def _peak_mb() -> float:
    """From the system's own books: a thread that watches memory would burn CPU that costs are measured by."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)


def _say(people: People, folder: RunFolder) -> None:
    ratings, unusable = people.ratings, int((~people.split.usable).sum())
    if ratings.duplicates:
        folder.warn(f"{ratings.duplicates} ratings left out: their user had rated the film before")
    if ratings.dropped_users:
        folder.warn(f"{ratings.dropped_users} users left out: fewer ratings than data.min_ratings")
    if unusable:
        folder.warn(f"{unusable} users never visit: their ratings cannot be cut in three by time")


if __name__ == "__main__":
    run_cli(
        build, RecommenderConfig, default_config="configs/recommender/movielens.yaml", default_out="runs/recommender"
    )
