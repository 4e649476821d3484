"""Agreement of predictions with what was observed, over buckets of equally many rows.

One request's revenue is mostly zero; means over buckets show whether order and level are right.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.ticker import NullFormatter, ScalarFormatter

from marca_common.figures import COLORS, new_figure, save_figure
from marca_common.spread import is_flat
from marca_measures.rank_correlation import spearman

FLAT_MEANS = 1e-6  # means of equal single-precision numbers differ by rounding, and its order is that of nothing


def calibration(predicted: np.ndarray, observed: np.ndarray, buckets: int) -> pd.DataFrame:
    """Mean ``predicted``, mean ``observed`` and ``rows`` of each bucket, in order of prediction; both inputs (M,)."""
    order = np.argsort(predicted, kind="stable")
    parts = np.array_split(order, min(buckets, len(order)))
    return pd.DataFrame(
        {
            "predicted": [predicted[part].mean() for part in parts],
            "observed": [observed[part].mean() for part in parts],
            "rows": [len(part) for part in parts],
        }
    )


def bucket_spearman(predicted: np.ndarray, observed: np.ndarray, buckets: int) -> float:
    """Rank correlation of the buckets' mean prediction and mean observation; 0 where either is flat up to rounding."""
    curve = calibration(predicted, observed, buckets)
    if any(is_flat(curve[name].to_numpy(), FLAT_MEANS) for name in ("predicted", "observed")):
        return 0.0
    return spearman(curve["predicted"].to_numpy(), curve["observed"].to_numpy())


def prediction_errors(curve: pd.DataFrame) -> dict[str, float]:
    """``pe`` (mean of predicted/observed − 1) and ``absolute_pe`` (mean of larger/smaller − 1) over a calibration's
    buckets that earned something; NaN where none did."""
    earned = curve[(curve["observed"] > 0) & (curve["predicted"] > 0)]
    p, o = earned["predicted"].to_numpy(), earned["observed"].to_numpy()
    if not len(p):
        return {"pe": float("nan"), "absolute_pe": float("nan")}
    return {"pe": float(np.mean(p / o - 1)), "absolute_pe": float(np.mean(np.maximum(p, o) / np.minimum(p, o) - 1))}


def calibration_figure(curves: dict[str, pd.DataFrame], path: str | Path, title: str) -> Path:
    """Observed against predicted revenue per bucket, a line per name, on log scales; buckets that earned nothing are left out."""
    figure, axes = new_figure(width=5.2, height=4.4)
    ends: list[float] = []
    for color, (name, curve) in zip(COLORS * 3, curves.items()):
        earned = curve[(curve["predicted"] > 0) & (curve["observed"] > 0)]
        axes.plot(earned["predicted"], earned["observed"], "o", markersize=4, color=color, label=name)
        ends += [*earned["predicted"], *earned["observed"]]
    if ends:
        axes.plot([min(ends), max(ends)], [min(ends), max(ends)], color="0.5", linewidth=1, label="perfect")
        axes.set(xscale="log", yscale="log")
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_formatter(ScalarFormatter())
            axis.set_minor_formatter(NullFormatter())
    axes.set(xlabel="predicted revenue, money per request (bucket mean)", ylabel="observed revenue, money per request")
    axes.set_title(title)
    axes.legend()
    return save_figure(figure, path)
