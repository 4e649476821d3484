"""Which language model answers which prompt: python -m examples.llm_router.run --data FOLDER --out DIR"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from examples.llm_router.config import RouterConfig
from examples.llm_router.judging import judged
from examples.llm_router.prompts import DataSet, load_folder
from examples.llm_router.router import learn
from examples.llm_router.router_figure import accuracy_figure
from marca_common.cli import run_cli
from marca_common.compute import set_threads
from marca_common.run_folder import RunFolder
from marca_common.tables import write_table


@dataclass
class RouterResult:
    """What the run found; ``summary`` is also in summary.json."""

    out: Path
    summary: dict[str, Any]
    table: pd.DataFrame  # llm_router.csv
    cross_validated: pd.DataFrame


def run(config: RouterConfig, out: str | Path) -> RouterResult:
    """Send each prompt to the model with the largest Q − λC: Q learned from other prompts, C the list price, λ by the budget.

    Writes llm_router.csv: accuracy by budget, on held-out prompts, of the router, the best static mixture, random, cheapest
    first and the clairvoyant. cross_validated.csv is the same on the training prompts, by fits that were not given them.
    """
    with RunFolder(out, config) as folder:
        set_threads(1)
        data = load_folder(config)
        found = [_routed(one, config) for one in data]
        held_out, within = (pd.concat(tables, ignore_index=True) for tables in zip(*found))
        write_table(held_out.round(6), folder.path / "llm_router.csv")
        write_table(within.round(6), folder.path / "cross_validated.csv")
        accuracy_figure(held_out, folder.path / "llm_router.png")
        summary = {one.name: _summary(one, held_out, within) for one in data}
        folder.write_summary(summary)
        return RouterResult(folder.out, summary, held_out, within)


def _routed(data: DataSet, config: RouterConfig) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The table on held-out prompts, and the same on training prompts by a router that was not given them."""
    router, out_of_fold = learn(data.train, config.folds, config.seed)
    held_out = judged(data.name, data.test.scores, router.expected(data.test), data.prices, config)
    return held_out, judged(data.name, data.train.scores, out_of_fold, data.prices, config)


def _summary(data: DataSet, held_out: pd.DataFrame, within: pd.DataFrame) -> dict[str, Any]:
    return {
        "prompts": {"train": len(data.train.texts), "test": len(data.test.texts)},
        "mean_score": {"train": float(data.train.scores.mean()), "test": float(data.test.scores.mean())},
        "lead_over_static": _leads(held_out, data.name),
        "lead_cross_validated": _leads(within, data.name),
    }


def _leads(table: pd.DataFrame, name: str) -> dict[str, float]:
    """The router's relative lead over the best static mixture at each budget."""
    rows = table[(table["data"] == name) & (table["strategy"] == "router")]
    return {f"{budget:g}": float(lead) for budget, lead in zip(rows["budget"], rows["lead_over_static"])}


if __name__ == "__main__":
    run_cli(
        run,
        RouterConfig,
        default_config="configs/other_computation/llm_router.yaml",
        default_out="runs/llm_router",
        flags={"--data": ("data", "folder of scored prompts")},
    )
