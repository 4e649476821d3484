"""The uplift against spend, and what it takes to be sure of it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.ticker import LogLocator, NullLocator

from marca_common.figures import COLORS, new_figure, save_figure

RIVAL_NAMES = {
    "logged": "today's policy",
    "static_mixture": "best static mixture",
    "priced_blind": "priced, one profile",
}


def draw_uplift(table: pd.DataFrame, path: Path) -> Path:
    """Uplift over each rival against spend, with intervals: ``uplift.csv``."""
    figure, axis = new_figure(width=8.6, height=4.2)
    for k, (rival, name) in enumerate(RIVAL_NAMES.items()):
        part = table[table["rival"] == rival].sort_values("spend_share")
        at = 100 * part["spend_share"].to_numpy() + 0.6 * (k - 1)
        value = part["uplift_pct"].to_numpy()
        low, high = (part[end].astype(float).fillna(part["uplift_pct"]).to_numpy() for end in ("low_pct", "high_pct"))
        look = {"fmt": "o-", "ms": 4, "lw": 1.2, "capsize": 3, "color": COLORS[k], "label": name}
        axis.errorbar(at, value, [value - low, high - value], **look)
    axis.axhline(0, color="0.3", lw=0.8)
    axis.set(
        xlabel="computation, percent of today's predicted spend",
        ylabel="revenue over the rival's, percent",
        title="What personalised pricing would earn, with intervals",
    )
    axis.legend(title="over", loc="center left", bbox_to_anchor=(1.01, 0.5))
    return save_figure(figure, path)


def draw_power(power: pd.DataFrame, path: Path) -> Path:
    """Requests, or days where they are known, until the interval excludes 0, and what exploring costs: ``power.csv``."""
    timed = power["days"].notna().any()
    figure, (left, right) = new_figure(1, 2, width=8.6, height=3.4, width_ratios=[1.6, 1])
    for k, (rival, name) in enumerate(RIVAL_NAMES.items()):
        part = power[power["rival"] == rival]
        wait = part["days" if timed else "rows"].astype(float)
        if np.isfinite(wait).any():
            left.semilogy(100 * part["explored"], wait, "o-", ms=4, color=COLORS[k], label=name)
    left.set(
        xlabel="requests explored at random beyond today, percent",
        ylabel="days of such a log" if timed else "requests",
        title="Until the interval excludes 0",
    )
    left.yaxis.set(major_locator=LogLocator(subs=(1, 2, 5)), major_formatter="{x:,g}", minor_locator=NullLocator())
    left.legend(title="over")
    cost = power[power["rival"] == power["rival"].iloc[0]]
    right.plot(100 * cost["explored"], cost["cost_pct"], "o-", ms=4, color="0.3")
    right.set(xlabel="explored, percent", ylabel="percent of revenue", title="What exploring costs", ylim=(0, None))
    return save_figure(figure, path)
