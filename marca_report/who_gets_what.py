"""Who gets the computation: action mix and computation by user value, placement and hour.

Input of the days' figures is the breakdown table of the closed loop: ``strategy, dimension, value, requests, revenue,
core_ms`` and one column ``<sub-action>=<choice>`` per choice (requests that got it), one row per strategy and value of a
dimension. That of the offline comparison is its ``action_mix.csv``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib import colormaps
from matplotlib.axes import Axes

from marca_common.figures import COLORS, new_figure, save_figure
from marca_report.looks import Look

_TITLES = {
    "user_value": "user value, in tenths",
    "placement": "placement",
    "hour": "hour of day",
}
_MOST = {"user_value": 10, "placement": 24, "hour": 24}  # values drawn one by one; more are cut into tenths


@dataclass(frozen=True)
class Choices:
    """What a sub-action sets, and its choices in words, the first one first."""

    what: str
    names: list[str]


def choices_of(actions: Mapping[str, Mapping[str, Any]]) -> dict[str, Choices]:
    """What each sub-action of the world sets, and its choices in words."""
    return {
        name: Choices(_what(one), [_level(level, one["levels"]) for level in one["levels"]])
        for name, one in actions.items()
    }


def _what(action: Mapping[str, Any]) -> str:
    of = " + ".join(action.get("channels") or [])
    return f"{action['kind']}{' of ' * bool(of)}{of}" if of else f"{action['agent']}: {action['kind']}"


def _level(level: Any, levels: list[Any]) -> str:
    """A list of names as what it adds to those that all levels share."""
    if not isinstance(level, list):
        return str(level)
    shared = set(levels[0]).intersection(*levels)
    added = [name for name in level if name not in shared]
    return "+ " + " + ".join(added) if added else " + ".join(level)


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


def draw_mean_choice(mix: pd.DataFrame, choices: Mapping[str, Choices], models: Mapping[str, str], path: Path) -> Path:
    """Mean choice of every sub-action along the log's first state column, one line per model (model → label).

    Under one price at the reference budget where the comparison knows costs, else under the log's own quotas.
    """
    column = next((name for name in mix["by"].unique() if name != "all"), "all")
    part = mix[
        (mix["by"] == column) & (mix["allocation"] == ("price" if "price" in set(mix["allocation"]) else "quota"))
    ]
    part = part.assign(weighted=part["choice"] * part["requests"])
    columns = min(3, len(choices))
    figure, axes = new_figure(-(-len(choices) // columns), columns, width=10.2, height=5.8, squeeze=False, sharex=True)
    for axis, (name, choice) in zip(axes.flat, choices.items()):
        for color, (model, label) in zip(("0.1", *COLORS), models.items()):
            one = part[(part["model"] == model) & (part["sub_action"] == name)]
            sums = in_tenths(one.groupby("value")[["weighted", "requests"]].sum(), 10)
            axis.plot(range(len(sums)), sums["weighted"] / sums["requests"], "o-", ms=3.5, color=color, label=label)
            _ticks(axis, sums)
        axis.set_title(f"{name}, {choice.what}")
        axis.tick_params(labelbottom=True)
        axis.set_yticks(range(len(choice.names)), choice.names)
        axis.set_ylim(-0.15, len(choice.names) - 0.85)
    for axis in [*axes.flat][len(choices) :]:
        axis.set_visible(False)
    figure.supxlabel(
        column.replace("_", " ") + ", tenths of its values in order" * (part["value"].nunique() > 10), fontsize=10
    )
    handles, labels = axes[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=len(models))
    return save_figure(figure, path)


def grouped(breakdown: pd.DataFrame, strategy: str, dimension: str) -> pd.DataFrame:
    """Sums per value of a dimension in natural order; one of many values is cut into tenths, lowest first."""
    rows = breakdown[(breakdown["strategy"] == strategy) & (breakdown["dimension"] == dimension)]
    return in_tenths(rows.drop(columns=["strategy", "dimension"]).groupby("value").sum(), _MOST[dimension])


def in_tenths(table: pd.DataFrame, most: int) -> pd.DataFrame:
    """Rows in the natural order of their index; more than ``most`` are summed up into ten groups, 1 to 10."""
    table = table.loc[sorted(table.index, key=_natural)]
    if len(table) <= most:
        return table
    tenth = pd.Series(np.arange(len(table)) * 10 // len(table) + 1, index=table.index)
    return table.groupby(tenth).sum()


def _ticks(axis: Axes, table: pd.DataFrame) -> None:
    step = max(1, len(table) // 8) if len(table) > 10 else 1
    labels = [str(label) for label in table.index[::step]]
    axis.set_xticks(range(0, len(table), step), labels)
    if len("".join(labels)) > 20:
        for label in axis.get_xticklabels():
            label.set(rotation=35, ha="right", rotation_mode="anchor")


def _natural(text: object) -> tuple[int, str]:
    digits = "".join(character for character in str(text) if character.isdigit())
    return (int(digits) if digits else -1, str(text))
