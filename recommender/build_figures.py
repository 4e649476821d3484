"""Figures of a build."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from marca_common.figures import COLORS, new_figure, save_figure
from marca_measures.hull import chain
from recommender.build_parts import Parts
from recommender.config import RANKERS, SERVICES


def draw_values(parts: Parts, path: Path) -> Path:
    """Mean judged value against mean cost of every distinct action, and the hull: the best mixtures of fixed actions."""
    value, cost = parts.values[1].mean(axis=0, dtype=np.float64), parts.cost_of_visits().sum(axis=2).mean(axis=0)
    figure, axis = new_figure(width=7.6, height=4.2)
    for ranker, color, mark in zip(RANKERS, (COLORS[2], COLORS[4], COLORS[1]), "o^s"):
        own = [d for d, one in enumerate(parts.space.settings) if one.ranker == ranker and not one.cached]
        axis.scatter(cost[own], value[own], s=13, marker=mark, color=color, alpha=0.8, label=f"ranker: {ranker}")
    kept = [d for d, one in enumerate(parts.space.settings) if one.cached]
    axis.scatter(cost[kept], value[kept], s=60, marker="*", color=COLORS[6], label="kept answer", zorder=4)
    hull = chain(value, cost)
    mixed = np.geomspace(cost[hull[0]], cost[hull[-1]], 200)  # mixtures are straight in cost, not in its logarithm
    best = np.interp(mixed, cost[hull], value[hull])
    axis.plot(mixed, best, color=COLORS[0], lw=1.3, label="best mixtures of fixed actions", zorder=3)
    axis.set(
        xscale="log",
        xlabel="cost, core-ms per request",
        ylabel="judged revenue, money per request",
        title="What each fixed joint action earns and costs",
    )
    axis.legend(loc="lower right", fontsize=8)
    return save_figure(figure, path)


def draw_costs(parts: Parts, path: Path) -> Path:
    """Cost of the two services by history tier: the median action of each ranker, and a band from the cheapest to the dearest."""
    table = parts.costs.table  # (H, D, services)
    figure, axes = new_figure(1, 2, width=8.6, height=3.4)
    tiers = np.arange(len(table))
    for j, (axis, service) in enumerate(zip(axes, SERVICES)):
        for ranker, color in zip(RANKERS, (COLORS[2], COLORS[4], COLORS[1])):
            own = [d for d, one in enumerate(parts.space.settings) if one.ranker == ranker and not one.cached]
            if own:
                low, middle, high = np.quantile(table[:, own, j], [0, 0.5, 1], axis=1)
                axis.plot(tiers, middle, "o-", ms=3.5, color=color, label=f"ranker: {ranker}")
                axis.fill_between(tiers, low, high, color=color, alpha=0.15, lw=0)
        axis.set(title=service, xlabel="tier of history length", xticks=tiers)
    axes[0].set_ylabel("core-ms per request")
    handles, labels = axes[1].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=len(labels))
    return save_figure(figure, path)
