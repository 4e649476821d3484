"""Who gets the computation: action mix and computation by user value, placement and hour.

Input is the breakdown table of the closed loop: ``strategy, dimension, value, requests, revenue, core_ms`` and one
column ``<sub-action>=<choice>`` per choice (requests that got it), one row per strategy and value of a dimension.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib import colormaps
from matplotlib.axes import Axes

from marca_common.figures import new_figure, save_figure
from marca_report.looks import Look

_TITLES = {"user_value": "user value, tenths of the tiers", "placement": "placement", "hour": "hour of day"}
_MOST = {"user_value": 10, "placement": 24, "hour": 24}  # values drawn one by one; more are cut into tenths


@dataclass(frozen=True)
class Choices:
    """What a sub-action sets, and its choices in words, the first one first."""

    what: str
    names: list[str]


def draw_computation(breakdown: pd.DataFrame, path: Path, looks: Mapping[str, Look]) -> Path:
    """Core-milliseconds per request along each dimension, one line per strategy."""
    dimensions = list(_TITLES)
    figure, axes = new_figure(1, len(dimensions), width=9.6, height=3.5, sharey=True)
    for axis, dimension in zip(axes, dimensions):
        for strategy, look in looks.items():
            table = grouped(breakdown, strategy, dimension)
            per_request = table["core_ms"] / table["requests"]
            axis.plot(range(len(table)), per_request, "o-", ms=3, lw=1.2, color=look.color, label=look.label)
            _ticks(axis, table)
        axis.set_xlabel(_TITLES[dimension])
    axes[0].set_ylabel("core-ms per request")
    axes[0].set_ylim(bottom=0)
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=3)
    return save_figure(figure, path)


def draw_action_mix(breakdown: pd.DataFrame, choices: Mapping[str, Choices], strategy: str, path: Path) -> Path:
    """Share of each choice of each sub-action along each dimension, under one strategy."""
    dimensions = list(_TITLES)
    figure, axes = new_figure(len(choices), 3, width=9.6, height=2.0 * len(choices) + 0.6, sharey="row", squeeze=False)
    for row, (name, choice) in zip(axes, choices.items()):
        shades = colormaps["viridis_r"](np.linspace(0.05, 0.95, len(choice.names)))
        for axis, dimension in zip(row, dimensions):
            table = grouped(breakdown, strategy, dimension)
            counts = table[[f"{name}={k}" for k in range(len(choice.names))]].to_numpy(float)
            shares = 100 * counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
            below = np.cumsum(shares, axis=1) - shares
            width = 0.94 if len(table) <= 10 else 1.0
            for k, label in enumerate(choice.names):
                axis.bar(range(len(table)), shares[:, k], width, below[:, k], color=shades[k], label=label)
            axis.set(ylim=(0, 100))
            axis.grid(False)
            _ticks(axis, table)
        row[0].set_ylabel("% of requests")
        row[0].set_title(f"{name}, {choice.what}", loc="left", weight="bold")
        row[-1].legend(loc="center left", bbox_to_anchor=(1.0, 0.5), reverse=True)
    for axis, dimension in zip(axes[-1], dimensions):
        axis.set_xlabel(_TITLES[dimension])
    return save_figure(figure, path)


def grouped(breakdown: pd.DataFrame, strategy: str, dimension: str) -> pd.DataFrame:
    """Sums per value of a dimension in natural order; one of many values is cut into tenths, lowest first."""
    rows = breakdown[(breakdown["strategy"] == strategy) & (breakdown["dimension"] == dimension)]
    table = rows.drop(columns=["strategy", "dimension"]).groupby("value").sum()
    table = table.loc[sorted(table.index, key=_natural)]
    if len(table) <= _MOST[dimension]:
        return table
    tenth = pd.Series(np.arange(len(table)) * 10 // len(table) + 1, index=table.index)
    return table.groupby(tenth).sum()


def _ticks(axis: Axes, table: pd.DataFrame) -> None:
    step = max(1, len(table) // 8) if len(table) > 10 else 1
    axis.set_xticks(range(0, len(table), step), [str(label) for label in table.index[::step]])


def _natural(text: object) -> tuple[int, str]:
    digits = "".join(character for character in str(text) if character.isdigit())
    return (int(digits) if digits else -1, str(text))
