"""Who gets the computation: action mix and computation by user value, placement and hour.

Input is the breakdown table of the closed loop: ``strategy, dimension, value, requests, revenue, core_ms`` and one
column ``<sub-action>=<choice>`` per choice (requests that got it), one row per strategy and value of a dimension.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd

from marca_common.figures import new_figure, save_figure
from marca_report.looks import Look

_TITLES = {"user_value": "user value (tiers in tenths)", "placement": "placement", "hour": "hour of day"}


def draw_computation(breakdown: pd.DataFrame, path: Path, looks: Mapping[str, Look]) -> Path:
    """Core-milliseconds per request along each dimension, one line per strategy."""
    dimensions = list(_TITLES)
    figure, axes = new_figure(1, len(dimensions), width=9.6, height=3.3, sharey=True)
    for axis, dimension in zip(axes, dimensions):
        for strategy in looks:
            table = grouped(breakdown, strategy, dimension)
            per_request = table["core_ms"] / table["requests"]
            axis.plot(
                range(len(table)),
                per_request,
                "o-",
                ms=3,
                lw=1.2,
                color=looks[strategy].color,
                label=looks[strategy].label,
            )
        step = max(1, len(table) // 8)
        axis.set_xticks(range(0, len(table), step), [str(label) for label in table.index[::step]])
        axis.set_title("by " + _TITLES[dimension])
    axes[0].set_ylabel("core-ms per request")
    axes[0].set_ylim(bottom=0)
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=3)
    return save_figure(figure, path)


def draw_action_mix(breakdown: pd.DataFrame, sizes: dict[str, int], strategy: str, label: str, path: Path) -> Path:
    """Share of each choice of each sub-action along each dimension, under one strategy (called ``label``)."""
    dimensions = list(_TITLES)
    figure, axes = new_figure(
        len(sizes), len(dimensions), width=9.6, height=1.5 * len(sizes) + 0.6, sharey="row", squeeze=False
    )
    for column, dimension in enumerate(dimensions):
        table = grouped(breakdown, strategy, dimension)
        for row, (name, size) in enumerate(sizes.items()):
            axis = axes[row][column]
            counts = table[[f"{name}={choice}" for choice in range(size)]].to_numpy(float)
            shares = 100 * counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
            shades = [str(0.88 - 0.75 * choice / max(size - 1, 1)) for choice in range(size)]
            axis.stackplot(range(len(table)), shares.T, colors=shades, step="mid" if dimension == "placement" else None)
            axis.set_ylim(0, 100)
            axis.grid(False)
            step = max(1, len(table) // 8)
            axis.set_xticks(range(0, len(table), step), [str(label) for label in table.index[::step]])
            if column == 0:
                axis.set_ylabel(f"{name}, % of\nrequests")
            if row == 0:
                axis.set_title("by " + _TITLES[dimension])
    figure.suptitle(f"Action mix of {label}: light = smallest choice, dark = largest", fontsize=10)
    return save_figure(figure, path)


def grouped(breakdown: pd.DataFrame, strategy: str, dimension: str, most: int = 24) -> pd.DataFrame:
    """Sums per value of a dimension in natural order; a dimension of more than ``most`` values is cut into tenths."""
    rows = breakdown[(breakdown["strategy"] == strategy) & (breakdown["dimension"] == dimension)]
    table = rows.drop(columns=["strategy", "dimension"]).groupby("value").sum()
    table = table.loc[sorted(table.index, key=_natural)]
    if len(table) <= most:
        return table
    tenth = pd.Series(np.minimum(np.arange(len(table)) * 10 // len(table), 9) + 1, index=table.index)
    return table.groupby(tenth).sum()


def _natural(text: object) -> tuple[int, str]:
    digits = "".join(character for character in str(text) if character.isdigit())
    return (int(digits) if digits else -1, str(text))
