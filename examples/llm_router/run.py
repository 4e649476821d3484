"""Which language model answers which prompt: python -m examples.llm_router.run --data FOLDER --out DIR"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from examples.llm_router.config import RouterConfig
from examples.llm_router.judging import judged
from examples.llm_router.prompts import DataSet, load_folder
from examples.llm_router.router import Router, learn
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
        found = [_routed(one, config) for one in load_folder(config)]
        held_out = pd.concat([one.held_out for one in found], ignore_index=True)
        within = pd.concat([one.within for one in found], ignore_index=True)
        write_table(held_out.round(6), folder.path / "llm_router.csv")
        write_table(within.round(6), folder.path / "cross_validated.csv")
        accuracy_figure(held_out, folder.path / "llm_router.png")
        summary = {one.data.name: _summary(one) for one in found}
        folder.write_summary(summary)
        return RouterResult(folder.out, summary, held_out, within)


@dataclass
class _Routed:
    data: DataSet
    router: Router
    held_out: pd.DataFrame  # the table on held-out prompts
    within: pd.DataFrame  # the same on training prompts, by fits that were not given them


def _routed(data: DataSet, config: RouterConfig) -> _Routed:
    router, out_of_fold = learn(data.train, config.folds, config.seed)
    held_out = judged(data.name, data.test.scores, router.expected(data.test), data.prices, config)
    return _Routed(data, router, held_out, judged(data.name, data.train.scores, out_of_fold, data.prices, config))


def _summary(routed: _Routed) -> dict[str, Any]:
    parts = {"train": routed.data.train, "test": routed.data.test}
    return {
        "prompts": {name: len(part.texts) for name, part in parts.items()},
        "mean_score": {name: float(part.scores.mean()) for name, part in parts.items()},
        "nets_weight": routed.router.nets_weight,
        "lead_over_static": _leads(routed.held_out),
        "lead_cross_validated": _leads(routed.within),
    }


def _leads(table: pd.DataFrame) -> dict[str, float]:
    """The router's relative lead over the best static mixture at each budget."""
    rows = table[table["strategy"] == "router"]
    return {f"{budget:g}": float(lead) for budget, lead in zip(rows["budget"], rows["lead_over_static"])}


if __name__ == "__main__":
    run_cli(
        run,
        RouterConfig,
        default_config="configs/other_computation/llm_router.yaml",
        default_out="runs/llm_router",
        flags={"--data": ("data", "folder of scored prompts")},
    )
