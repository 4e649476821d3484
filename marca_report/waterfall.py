"""The result in one picture: from the static mixture to the clairvoyant optimum, one bar per step.

Input is the attribution table of the closed loop: ``step, strategy, uplift_pct, gain_points, ci_low, ci_high``, one row
per step. The first row is the baseline. ``uplift_pct`` is over that baseline, ``gain_points`` over the row before, and
the interval is that of the gain (NaN where unknown).
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from marca_common.figures import new_figure, save_figure

_GAIN, _LOSS, _TRUTH = "#0072B2", "#D55E00", "#B9C0C7"
_MEANING = {
    "static mixture": "one blend of actions for all",
    "clock": "a blend per hour and weekday",
    "feedback": "a price follows the CPU",
    "who gets what": "every request by its own Q and C",
    "horizon": "the price looks ahead",
    "true Q": "values known exactly",
    "true C": "costs known exactly",
    "clairvoyant λ": "the day's traffic known before",
}


def needs_truth(step: str) -> bool:
    """Is this a step that no log can teach: the world's true values or costs, or the future?"""
    return step.startswith(("true ", "clairvoyant"))


def draw_waterfall(attribution: pd.DataFrame, path: Path) -> Path:
    """One bar per step from the level before to the one reached (gain → level), steps that need the truth set apart below."""
    figure, axis = new_figure(width=7.4, height=1.3 + 0.5 * len(attribution))
    rows = list(attribution.itertuples())
    for place, row in enumerate(rows):
        before = row.uplift_pct - row.gain_points
        if place:
            _bar(axis, place, before, row.uplift_pct, needs_truth(row.step))
            axis.plot([before, before], [place - 1.3, place + 0.3], color="0.4", lw=0.8)
        else:
            axis.plot([row.uplift_pct] * 2, [-0.3, 0.3], color="0.4", lw=2.5)
        low, high = before + row.ci_low, before + row.ci_high
        if np.isfinite([low, high]).all():
            error = np.maximum(0, [[row.uplift_pct - low], [high - row.uplift_pct]])
            axis.errorbar(row.uplift_pct, place, xerr=error, color="0.1", capsize=3, lw=1.2)
        said = f"{row.gain_points:+.1f} → {row.uplift_pct:+.1f} %".replace("-", "−") if place else "0 %"
        right = np.nanmax([before, row.uplift_pct, high])
        axis.annotate(said, (right, place), (6, 0), textcoords="offset points", va="center")
    _boundary(axis, [needs_truth(row.step) for row in rows])
    axis.set_yticks(range(len(rows)), [_label(row.step) for row in rows])
    axis.set(ylim=(len(rows) - 0.4, -0.7), xlabel=f"revenue over the {rows[0].step}, %")
    axis.set_title("Where the revenue comes from", loc="left")
    axis.set_xmargin(0.03)
    axis.set_xlim(right=axis.get_xlim()[1] + 0.32 * np.ptp(axis.get_xlim()))
    axis.grid(False, axis="y")
    return save_figure(figure, path)


def _bar(axis: Axes, place: int, before: float, after: float, truth: bool) -> None:
    color = _TRUTH if truth else _GAIN if after >= before else _LOSS
    hatch = "////" if truth else None
    axis.barh(place, after - before, left=before, height=0.6, color=color, hatch=hatch, edgecolor="white", linewidth=0)


def _boundary(axis: Axes, truth: list[bool]) -> None:
    """Say which part was learned from logs and which part only the truth can reach."""
    across = axis.get_yaxis_transform()  # x in shares of the axis, y in rows
    axis.text(0.99, -0.1, "learned from logs", transform=across, ha="right", va="center", color=_GAIN, weight="bold")
    if any(truth):
        first = truth.index(True)
        axis.axhspan(first - 0.5, len(truth), color="0.95", zorder=-1)
        axis.axhline(first - 0.5, color="0.5", lw=0.8, ls="--")
        where = (0.02, first + (len(truth) - 1 - first) / 2)
        axis.text(*where, "only the truth\ncan reach this", transform=across, va="center", color="0.35", weight="bold")


def _label(step: str) -> str:
    return f"{step}\n{_MEANING[step]}" if step in _MEANING else step
