"""The figure of the example: accuracy by budget, one panel per data set."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from marca_common.figures import COLORS, new_figure, save_figure

LOOKS = {  # strategy → (label, colour, line)
    "clairvoyant": ("clairvoyant (knows every score)", "black", "-"),
    "router": ("router, argmax Q − λC", COLORS[0], "-"),
    "static": ("best static mixture", "0.45", "--"),
    "cheapest_first": ("cheapest first", COLORS[1], ":"),
    "random": ("random", COLORS[2], ":"),
}


def accuracy_figure(table: pd.DataFrame, path: Path) -> Path:
    """Accuracy of each strategy against the budget, with the router's interval."""
    names = list(table["data"].unique())
    figure, axes = new_figure(1, len(names), width=max(6.4, 4.2 * len(names)), height=4.0)
    for axis, name in zip(np.atleast_1d(axes), names):
        for strategy, (label, color, line) in LOOKS.items():
            part = table[(table["data"] == name) & (table["strategy"] == strategy)].sort_values("budget")
            axis.plot(part["budget"], part["accuracy"], color=color, linestyle=line, marker=".", label=label)
            if strategy == "router":
                axis.fill_between(part["budget"], part["ci_low"], part["ci_high"], color=color, alpha=0.15, linewidth=0)
        axis.set_title(name)
        axis.set_xlabel("budget, share of the dearest model's cost")
    np.atleast_1d(axes)[0].set_ylabel("mean score of the answers")
    figure.legend(*np.atleast_1d(axes)[0].get_legend_handles_labels(), loc="outside lower center", ncols=3)
    return save_figure(figure, path)
