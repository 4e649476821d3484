"""The result in one picture: from the static mixture to the clairvoyant optimum, one bar per step.

Input is the attribution table of the closed loop: ``step, strategy, uplift_pct, gain_points, ci_low, ci_high``, one row
per step. The first row is the baseline. ``uplift_pct`` is over that baseline, ``gain_points`` over the row before, and
the interval is that of the gain (NaN where unknown).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from marca_common.figures import new_figure, save_figure

_GAIN, _LOSS, _TRUTH, _SHADE = "#0072B2", "#D55E00", "#B9C0C7", "0.95"
_MEANING = {
    "static mixture": "one blend of actions for all",
    "clock": "a blend per hour and weekday",
    "feedback": "a price follows the CPU",
    "who gets what": "every request by its own Q and C",
    "horizon": "MPC sets the price, not PI",
    "true Q": "values known exactly",
    "true C": "costs known exactly",
    "clairvoyant λ": "the day's traffic known before",
}


def needs_truth(step: str) -> bool:
    """Is this a step that no log can teach: the world's true values or costs, or the future?"""
    return step.startswith(("true ", "clairvoyant"))


def draw_waterfall(attribution: pd.DataFrame, path: Path) -> Path:
    """One bar per step from the level before to the one reached (gain → level); those that need the truth stand apart."""
    rows = list(attribution.itertuples())
    truth = [needs_truth(row.step) for row in rows]
    places = np.arange(len(rows)) + 0.7 * np.array(truth)
    figure, axis = new_figure(width=5.4, height=1.1 + 0.58 * places[-1])
    for place, row, only_truth in zip(places, rows, truth):
        _step(axis, place, row, only_truth)
    for place, above, row in zip(places[1:], places, rows[1:]):
        axis.plot([row.uplift_pct - row.gain_points] * 2, [above - 0.1, place + 0.35], color="0.4", lw=0.8)
    _parts(axis, places, truth)
    axis.set(ylim=(places[-1] + 0.6, -1.3), yticks=[], xlabel=f"revenue over the {rows[0].step}, %")
    axis.set_xmargin(0.02)
    axis.set_xlim(right=axis.get_xlim()[1] + 0.38 * np.ptp(axis.get_xlim()))
    axis.set_axisbelow(True)
    axis.grid(False, axis="y")
    return save_figure(figure, path)


def _step(axis: Axes, place: float, row: Any, only_truth: bool) -> None:
    """Bar, interval and words of one step; the first one is the level that all others start from."""
    level, gain = row.uplift_pct, row.gain_points
    color, hatch = (_TRUTH, "////") if only_truth else (_GAIN if gain >= 0 else _LOSS, None)
    start, end = level - gain + row.ci_low, level - gain + row.ci_high
    axis.barh(place + 0.12, gain, left=level - gain, height=0.46, color=color, hatch=hatch, edgecolor="white", lw=0)
    if np.isfinite([start, end]).all():
        error = np.maximum(0, [[level - start], [end - level]])
        axis.errorbar(level, place + 0.12, xerr=error, color="0.1", capsize=3, lw=1.2)
    said = f"{gain:+.1f} → {level:+.1f} %".replace("-", "−") if place else f"{level:.0f} %"
    right = np.nanmax([level - gain, level, end])
    axis.annotate(said, (right, place + 0.12), (5, 0), textcoords="offset points", va="center", weight="bold")
    words = f"{row.step}: {_MEANING[row.step]}" if row.step in _MEANING else row.step
    paper = {"facecolor": _SHADE if only_truth else "white", "edgecolor": "none", "pad": 1.0}  # over lines that cross
    axis.text(0.012, place - 0.27, words, transform=axis.get_yaxis_transform(), va="center", bbox=paper)


def _parts(axis: Axes, places: np.ndarray, truth: list[bool]) -> None:
    """Say which part was learned from logs and which part only the truth can reach."""
    across = axis.get_yaxis_transform()  # x in shares of the axis, y in rows
    axis.text(0.012, -0.85, "Reached by what was learned from logs", transform=across, color=_GAIN, weight="bold")
    if any(truth):
        first = places[truth.index(True)]
        axis.axhspan(first - 1.15, places[-1] + 0.6, color=_SHADE, zorder=-1)
        axis.text(0.012, first - 0.75, "Only the truth can reach this", transform=across, color="0.35", weight="bold")
