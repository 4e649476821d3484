"""Figures of a simulated day, one line per strategy.

Input is the minute table of the closed loop: ``strategy, seed, group, minute, qps, requests, revenue, timeouts,
degradation, budget_<service>, cpu_<service>, lambda_<service>``, one row per strategy, seed, data centre and minute.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from marca_common.figures import new_figure, save_figure
from marca_report.looks import Look

Looks = Mapping[str, Look]  # by strategy, in the order of legends and bars


def draw_revenue(minutes: pd.DataFrame, path: Path, looks: Looks, baseline: str) -> Path:
    """Revenue rate over the day, and what each strategy has earned more than the baseline so far."""
    minutes = with_hour(minutes)
    rate = minutes.groupby(["strategy", "hour"])["revenue"].sum().unstack(0) / minutes["seed"].nunique()
    unit, name = (1e6, "million money") if rate.max().max() > 1e6 else (1.0, "money")
    figure, (top, bottom) = new_figure(2, 1, height=5.2, sharex=True)
    hours = rate.index.to_numpy()
    for strategy in looks:
        smooth = rate[strategy].rolling(15, center=True, min_periods=1).mean() / unit
        top.plot(hours, smooth, color=looks[strategy].color, label=looks[strategy].label, lw=1.4)
        if strategy != baseline:
            uplift = 100 * (rate[strategy].cumsum() / rate[baseline].cumsum() - 1)
            bottom.plot(hours[30:], uplift.iloc[30:], color=looks[strategy].color, lw=1.4)
    top.set(title="Revenue over the day (15-minute mean)", ylabel=f"{name} per minute")
    bottom.axhline(0, color="0.3", lw=0.8)
    bottom.set(
        title=f"Earned since the start, against the {looks[baseline].label}",
        ylabel="uplift in %",
        xlabel="hour of day",
    )
    _hours(bottom)
    top.legend(loc="upper left")
    return save_figure(figure, path)


def draw_cpu(minutes: pd.DataFrame, services: Sequence[str], path: Path, looks: Looks) -> Path:
    """CPU of every service and data centre against its budget."""
    groups = sorted(minutes["group"].unique())
    day = _one_seed(minutes)
    figure, axes = new_figure(
        len(services), len(groups), width=8.4, height=2.6 * len(services) + 0.4, sharex=True, sharey=True, squeeze=False
    )
    for row, service in enumerate(services):
        for column, group in enumerate(groups):
            axis = axes[row][column]
            part = day[day["group"] == group]
            for strategy in looks:
                one = part[part["strategy"] == strategy]
                axis.plot(
                    one["hour"],
                    one[f"cpu_{service}"],
                    color=looks[strategy].color,
                    lw=0.7,
                    alpha=0.9,
                    label=looks[strategy].label,
                )
            axis.axhline(part[f"budget_{service}"].iloc[0], color="0.2", lw=1.0, ls="--", label="budget")
            axis.set_title(f"{group} · {service}")
            _hours(axis)
            if column == 0:
                axis.set_ylabel("CPU in %")
            if row == len(services) - 1:
                axis.set_xlabel("hour of day")
    handles, labels = axes[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=4)
    return save_figure(figure, path)


def draw_lambda(minutes: pd.DataFrame, services: Sequence[str], path: Path, looks: Looks) -> Path:
    """The price of computation, of the strategies that set one, and the traffic it answers to."""
    strategies = [
        name
        for name in looks
        if (minutes.loc[minutes["strategy"] == name, [f"lambda_{one}" for one in services]] > 0).any(axis=None)
    ]
    day = _one_seed(minutes)
    groups = sorted(day["group"].unique())
    figure, axes = new_figure(
        len(services) + 1,
        len(groups),
        width=8.4,
        height=2.1 * (len(services) + 1) + 0.4,
        sharex=True,
        sharey="row",
        squeeze=False,
    )
    for column, group in enumerate(groups):
        part = day[day["group"] == group]
        first = part[part["strategy"] == next(iter(looks))]
        axes[0][column].plot(first["hour"], first["qps"], color="0.35", lw=0.8)
        axes[0][column].set_title(f"{group} · traffic")
        for row, service in enumerate(services, start=1):
            for strategy in strategies:
                one = part[part["strategy"] == strategy]
                axes[row][column].plot(
                    one["hour"],
                    1e3 * one[f"lambda_{service}"],
                    color=looks[strategy].color,
                    lw=0.8,
                    label=looks[strategy].label,
                )
            axes[row][column].set_title(f"{group} · price of {service}")
        axes[-1][column].set_xlabel("hour of day")
        _hours(axes[-1][column])
    axes[0][0].set_ylabel("requests/s")
    for row in range(1, len(services) + 1):
        axes[row][0].set_ylabel("λ, money per\ncore-second")
    handles, labels = axes[1][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=3)
    return save_figure(figure, path)


def draw_result(minutes: pd.DataFrame, services: Sequence[str], path: Path, looks: Looks, baseline: str) -> Path:
    """The whole result in one picture: what each strategy earns, and how the busiest CPU sits at its budget."""
    shown = [strategy for strategy in looks if strategy != baseline]
    figure, (left, right) = new_figure(1, 2, width=10.4, height=3.0 + 0.2 * len(shown), width_ratios=[1, 1.7])
    earned = minutes.groupby(["strategy", "seed"])["revenue"].sum().unstack(0)
    uplift = 100 * (earned.div(earned[baseline], axis=0) - 1)
    bars = left.barh(range(len(shown)), uplift[shown].mean(), color=[looks[one].color for one in shown], height=0.55)
    left.bar_label(bars, fmt="%+.1f %%", padding=3)
    left.set_yticks(range(len(shown)), [looks[one].label.replace(", ", ",\n") for one in shown])
    left.set(title=f"Revenue against the {looks[baseline].label}", xlabel="uplift in %", ylim=(len(shown) - 0.4, -0.6))
    left.margins(x=0.32)
    day = _one_seed(minutes)
    busiest = max(services, key=lambda name: (day[f"cpu_{name}"] / day[f"budget_{name}"]).mean())
    group = sorted(day["group"].unique())[0]
    part = day[day["group"] == group]
    for strategy in looks:
        one = part[part["strategy"] == strategy]
        smooth = one[f"cpu_{busiest}"].rolling(5, center=True, min_periods=1).mean()
        right.plot(one["hour"], smooth, color=looks[strategy].color, lw=1.0, label=looks[strategy].label)
    right.axhline(part[f"budget_{busiest}"].iloc[0], color="0.2", lw=1.0, ls="--", label="budget")
    right.set(title=f"CPU of {busiest} in {group} over a day (5-minute mean)", xlabel="hour of day", ylabel="CPU in %")
    _hours(right)
    handles, labels = right.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=4)
    return save_figure(figure, path)


def with_hour(minutes: pd.DataFrame) -> pd.DataFrame:
    """The table with ``hour``: hours since midnight before its first minute."""
    first = pd.Timestamp(minutes["timestamp"].min())
    return minutes.assign(hour=(minutes["timestamp"] - first.normalize()).dt.total_seconds() / 3600)


def _one_seed(minutes: pd.DataFrame) -> pd.DataFrame:
    return with_hour(minutes[minutes["seed"] == minutes["seed"].min()])


def _hours(axis: Axes) -> None:
    axis.xaxis.set_major_locator(MaxNLocator(nbins=7, steps=[1, 2, 3, 4, 6, 10], integer=True))
    axis.margins(x=0.01)
