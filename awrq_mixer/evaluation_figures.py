"""Figures of an evaluation."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.ticker import NullFormatter, ScalarFormatter

from marca_common.figures import new_figure, save_figure


def calibration_figure(curve: dict[str, np.ndarray], path: str | Path, learner: str) -> Path:
    """Observed against predicted revenue per bucket of prediction, log scales where all buckets earned something."""
    figure, axes = new_figure(width=4.6, height=4.2)
    predicted, observed = curve["predicted"], curve["observed"]
    positive = (predicted > 0) & (observed > 0)
    predicted, observed = predicted[positive], observed[positive]
    if not len(predicted):
        predicted = observed = np.ones(1)
    low, high = min(predicted.min(), observed.min()), max(predicted.max(), observed.max())
    axes.plot([low, high], [low, high], color="black", linewidth=0.8, label="perfect")
    axes.scatter(predicted, observed, s=16, label=f"{len(predicted)} buckets of test rows")
    axes.set(xscale="log", yscale="log", title=f"{learner}: calibration")
    axes.set(xlabel="predicted revenue (money per request)", ylabel="observed revenue (money per request)")
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(ScalarFormatter())
        axis.set_minor_formatter(NullFormatter())
    axes.legend()
    return save_figure(figure, path)


def capture_figure(curve: pd.DataFrame, path: str | Path, learner: str) -> Path:
    """True value by budget against clairvoyant and static mixture, and the share of the uplift captured."""
    figure, (left, right) = new_figure(1, 2, width=8.6, height=3.4)
    for column, label in (("clairvoyant", "clairvoyant"), ("value", learner), ("static", "best static mixture")):
        left.plot(curve["budget"], curve[column], marker="o", markersize=3, label=label)
    left.set(
        title="what a budget earns", xlabel="budget (core-ms per request)", ylabel="true revenue (money per request)"
    )
    left.legend()
    right.plot(curve["budget"], 100 * curve["capture"], marker="o", markersize=3)
    right.axhline(0, color="black", linewidth=0.8)
    right.set(title="share of the clairvoyant's uplift", xlabel="budget (core-ms per request)", ylabel="capture (%)")
    return save_figure(figure, path)
