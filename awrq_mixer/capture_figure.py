"""Figure of what a budget makes of a learner's scores."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from marca_common.figures import new_figure, save_figure


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
