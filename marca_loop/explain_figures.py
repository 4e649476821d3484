"""Figures of who gets computation, and of one request's choice."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from marca_common.figures import COLORS, new_figure, save_figure

_MOST = 7  # values of a column that a figure tells apart: the most frequent ones


def spend_figure(table: pd.DataFrame, path: Path) -> Path:
    """Computation and its marginal value by a column's values, over λ; ``table``: rows of by_column of one column."""
    column, shown = table["column"].iloc[0], _frequent(table)
    services = [name for name in table if name.startswith("cost_")]
    figure, (left, right) = new_figure(1, 2, width=9.6, height=3.8)
    for color, value in zip(COLORS, shown):
        own = table[table["of"] == value]
        left.plot(own["factor"], own[services].sum(axis=1), "o-", ms=3.5, color=color, label=str(value))
        right.plot(own["factor"], own["marginal"], "o-", ms=3.5, color=color, label=str(value))
    factors = sorted(table["factor"].unique())
    for axis in (left, right):
        axis.set(xscale="log", xlabel="multiple of λ")
        axis.set_xticks(factors, [f"{one:g}" for one in factors])
        axis.set_xticks([], minor=True)
    left.set(title=f"Who gets computation, by {column}", ylabel="core-ms per request, all services")
    right.set(title="What the last step of the price bought", ylabel="money per core-ms")
    if (table["marginal"] > 0).any():  # else nothing more was bought at any multiple
        right.set_yscale("log")
    right.yaxis.set_major_formatter("{x:g}")
    right.yaxis.set_minor_formatter("{x:g}")
    left.legend(title=column)
    return save_figure(figure, path)


def mix_figure(table: pd.DataFrame, path: Path) -> Path:
    """Mean choice of each sub-action by a column's values at λ itself; ``table``: rows of action_mix of one column."""
    column = table["column"].iloc[0]
    at = table[table["factor"] == min(table["factor"].unique(), key=lambda one: abs(np.log(one)))]
    names, values = list(at["sub_action"].unique()), sorted(at["of"].unique(), key=_natural)[: 3 * _MOST]
    figure, panels = new_figure(
        1, len(names), width=2.1 * max(len(names), 3), height=2.2 + 0.2 * len(values), sharey=True, squeeze=False
    )
    for panel, name in zip(panels[0], names):
        own = at[at["sub_action"] == name]
        grid = own.pivot_table(index="of", columns="choice", values="share", fill_value=0.0).reindex(values)
        left = np.zeros(len(values))
        for color, choice in zip(COLORS * 9, grid.columns):
            panel.barh(range(len(values)), grid[choice], left=left, color=color, label=str(choice))
            left = left + grid[choice].to_numpy()
        panel.set(title=name, xlabel="share of requests", xlim=(0, 1), yticks=range(len(values)), yticklabels=values)
        panel.grid(visible=False)
        panel.legend(
            title="choice",
            ncols=len(grid.columns),
            loc="upper center",
            bbox_to_anchor=(0.5, -0.25),
            fontsize=7.5,
            handlelength=0.8,
            columnspacing=0.7,
        )
    panels[0][0].set_ylabel(column)
    figure.suptitle(f"Choices at λ, by {column}", fontsize=10.5)
    return save_figure(figure, path)


def ledger_figure(account: pd.DataFrame, path: Path) -> Path:
    """Value against priced cost of one request's candidates; the choice is where a line of slope 1 touches last."""
    figure, axis = new_figure(width=6.4, height=3.8)
    hull = account.sort_values("priced_cost")
    axis.plot(hull["priced_cost"], hull["q"], "o-", ms=4, color=COLORS[0], label="best at some multiple of λ")
    best, others = account.iloc[0], account.iloc[1:2]
    axis.plot(best["priced_cost"], best["q"], "o", ms=9, color=COLORS[1], label=f"chosen: action {best['joint']:.0f}")
    for one in others.itertuples():
        axis.plot(one.priced_cost, one.q, "s", ms=7, color=COLORS[2], label=f"runner-up: action {one.joint}")
    span = np.array([0, hull["priced_cost"].max()])
    axis.plot(span, best["q"] + span - best["priced_cost"], "--", lw=0.9, color="0.4", label="as good as the choice")
    room = 0.1 * (hull["q"].max() - hull["q"].min() or 1.0)
    axis.set(xlabel="λ · C, money", ylabel="Q, money", title="One request: value against the price of its computation")
    axis.set_ylim(hull["q"].min() - room, hull["q"].max() + room)
    axis.legend()
    return save_figure(figure, path)


def _frequent(table: pd.DataFrame) -> list[str]:
    share = table.groupby("of")["requests"].first().sort_values(ascending=False)
    return sorted(share.index[:_MOST], key=_natural)


def _natural(value: str) -> tuple[bool, float, str]:
    numeric = value.replace(".", "", 1).isdecimal()
    return not numeric, float(value) if numeric else 0.0, value
