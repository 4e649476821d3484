"""Figures of a world."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from cascade_world.mechanism.assembled_world import World
from marca_common.figures import COLORS, new_figure, save_figure
from marca_measures.hull import chain


def draw_clouds(world: World, states: np.ndarray, path: Path) -> Path:
    """All joint actions of four states of different classes in the plane of cost and expected revenue."""
    classes, scale = world.population.latent(states)
    wealth = world.tables.q.mean(axis=1)[classes] * scale
    picks = [int(np.argmin(np.abs(wealth - np.quantile(wealth, part)))) for part in (0.15, 0.45, 0.75, 0.95)]
    frame = world.population.frame(states[picks])
    values, costs = world.values(frame), world.expected_costs(frame).sum(axis=2)
    figure, axes = new_figure(1, len(picks), width=10.0, height=3.2, sharex=True)
    for axis, q, c, row in zip(axes, values, costs, frame.itertuples(index=False)):
        hull = chain(q, c)
        axis.scatter(c, q, s=3, color="0.7", label="joint actions", rasterized=True)
        axis.plot(c[hull], q[hull], "o-", ms=3, lw=1.3, color=COLORS[0], label="hull: best for some λ")
        axis.set_title(f"{row.user_value} · {row.placement} · {row.segment}", fontsize=10)
        axis.set_xlabel("cost, core-ms")
        axis.set_ylim(bottom=0)
    axes[0].set_ylabel("expected revenue, money")
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=2)
    return save_figure(figure, path)


def draw_budget_curves(curves: dict[str, pd.DataFrame], path: Path) -> Path:
    """Revenue at any budget: the best mixture of fixed actions against the clairvoyant allocation."""
    figure, axes = new_figure(1, len(curves), width=4.4 * len(curves), height=3.4, squeeze=False, sharey=True)
    for axis, (group, curve) in zip(axes[0], curves.items()):
        axis.plot(curve["budget_core_ms"], curve["clairvoyant"], "o-", ms=3.5, label="clairvoyant, state by state")
        axis.plot(curve["budget_core_ms"], curve["static"], "s-", ms=3.5, label="best mixture of fixed actions")
        shipped = curve[curve["factor"] == 1.0].iloc[0]
        axis.axvline(shipped["budget_core_ms"], color="0.4", lw=0.9, ls="--")
        axis.annotate(
            f"shipped budget:\n+{shipped['oracle_uplift_pct']:.1f} %",
            (shipped["budget_core_ms"], shipped["static"]),
            xytext=(6, -28),
            textcoords="offset points",
            fontsize=9,
        )
        axis.set(title=group, xlabel="budget at peak, core-ms per request (all services)")
    axes[0][0].set_ylabel("revenue, money per request")
    axes[0][0].legend(loc="lower right")
    return save_figure(figure, path)


def draw_week(world: World, week: pd.DataFrame, path: Path) -> Path:
    """Traffic and CPU of every data centre under the incumbent."""
    groups = list(world.groups)
    figure, axes = new_figure(1 + len(groups), 1, width=9.0, height=2.0 * (1 + len(groups)) + 0.6, sharex=True)
    for i, group in enumerate(groups):
        part = week[week["group"] == group]
        days = part["minute"] / 1440
        axes[0].plot(days, part["qps"] / 1000, lw=0.7, color=COLORS[3 + i], label=group)
        for j, service in enumerate(world.services):
            axes[1 + i].plot(days, part[f"cpu_{service}"], lw=0.6, color=COLORS[j], label=service)
        axes[1 + i].axhline(world.config.plant.budget_percent, color="0.2", lw=0.9, ls="--", label="budget")
        axes[1 + i].set(title=f"CPU in {group}", ylabel="percent", ylim=(0, 100))
    axes[0].set(title="Traffic", ylabel="1,000 requests/s")
    axes[0].set_ylim(bottom=0)
    axes[0].legend(loc="upper right", ncols=len(groups))
    axes[1].legend(loc="upper right", ncols=3)
    axes[-1].set_xlabel(f"days since {world.config.traffic.start[:10]}")
    return save_figure(figure, path)


def draw_degradation(price: pd.DataFrame, path: Path) -> Path:
    """What a degradation level saves and what it costs, when all requests are served at the budget's mixture."""
    figure, (left, right) = new_figure(1, 2, width=8.4, height=3.2)
    for j, name in enumerate(one for one in price.columns if one.startswith("f_")):
        left.plot(price["level"], price[name], "o-", ms=4, color=COLORS[j], label=name[2:])
    left.set(title="f(D): change of cost", xlabel="degradation level D", ylabel="core-ms per request")
    left.legend(loc="lower left")
    right.plot(price["level"], price["revenue_pct"], "o-", ms=4, color=COLORS[2])
    right.set(title="Its price", xlabel="degradation level D", ylabel="change of revenue, %")
    for axis in (left, right):
        axis.set_xticks(price["level"])
    return save_figure(figure, path)
