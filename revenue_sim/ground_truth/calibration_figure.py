"""Figure of the ground truth's calibration."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from marca_common.figures import COLORS, new_figure, save_figure


def calibration_figure(table: pd.DataFrame, path: Path) -> Path:
    """Observed against predicted revenue per request, rows the models had not seen, in buckets of equal size."""
    figure, axis = new_figure(width=5.2, height=4.4)
    positive = table[(table["predicted"] > 0) & (table["observed"] > 0)]
    for color, (name, part) in zip(COLORS * 3, positive.groupby("member", sort=False)):
        axis.plot(part["predicted"], part["observed"], "o", markersize=4, color=color, label=str(name))
    if len(positive):
        low = positive[["predicted", "observed"]].min().min()
        high = positive[["predicted", "observed"]].max().max()
        axis.plot([low, high], [low, high], color="0.5", linewidth=1, label="perfect")
        axis.set_xscale("log")
        axis.set_yscale("log")
    axis.set_xlabel("predicted revenue per request (bucket mean)")
    axis.set_ylabel("observed revenue per request")
    axis.set_title("Ground truth: calibration on rows not seen in fitting")
    axis.legend()
    return save_figure(figure, path)
